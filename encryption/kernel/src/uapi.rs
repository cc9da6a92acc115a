//! Numbers of the kernel's interface: include/uapi/linux/wireguard.h, netlink.h, genetlink.h, rtnetlink.h, if_link.h.

// netlink.h
pub(crate) const NLMSG_HEADER: usize = 16;
pub(crate) const NLMSG_ERROR: u16 = 2;
pub(crate) const NLMSG_DONE: u16 = 3;
pub(crate) const NLM_F_REQUEST: u16 = 0x01;
pub(crate) const NLM_F_ACK: u16 = 0x04;
/// The dump was disturbed by a change.
pub(crate) const NLM_F_DUMP_INTR: u16 = 0x10;
/// `NLM_F_ROOT | NLM_F_MATCH`.
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLA_HEADER: usize = 4;
pub(crate) const NLA_F_NESTED: u16 = 0x8000;
/// Without `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
pub(crate) const NLA_TYPE_MASK: u16 = 0x3fff;

// genetlink.h
pub(crate) const GENL_HEADER: usize = 4;
pub(crate) const GENL_ID_CTRL: u16 = 0x10;
pub(crate) const CTRL_CMD_GETFAMILY: u8 = 3;
pub(crate) const CTRL_ATTR_FAMILY_ID: u16 = 1;
pub(crate) const CTRL_ATTR_FAMILY_NAME: u16 = 2;

// rtnetlink.h, if_link.h, if.h
pub(crate) const RTM_SETLINK: u16 = 19;
pub(crate) const IFLA_MTU: u16 = 4;
pub(crate) const IFF_UP: u32 = 1;

// wireguard.h
pub(crate) const WG_GENL_NAME: &str = "wireguard";
pub(crate) const WG_GENL_VERSION: u8 = 1;
pub(crate) const WG_KEY_LEN: usize = 32;
pub(crate) const WG_CMD_GET_DEVICE: u8 = 0;
pub(crate) const WG_CMD_SET_DEVICE: u8 = 1;

pub(crate) const WGDEVICE_A_IFINDEX: u16 = 1;
pub(crate) const WGDEVICE_A_IFNAME: u16 = 2;
pub(crate) const WGDEVICE_A_PRIVATE_KEY: u16 = 3;
pub(crate) const WGDEVICE_A_PUBLIC_KEY: u16 = 4;
pub(crate) const WGDEVICE_A_FLAGS: u16 = 5;
pub(crate) const WGDEVICE_A_LISTEN_PORT: u16 = 6;
pub(crate) const WGDEVICE_A_FWMARK: u16 = 7;
pub(crate) const WGDEVICE_A_PEERS: u16 = 8;
pub(crate) const WGDEVICE_F_REPLACE_PEERS: u32 = 1;

pub(crate) const WGPEER_A_PUBLIC_KEY: u16 = 1;
pub(crate) const WGPEER_A_FLAGS: u16 = 3;
pub(crate) const WGPEER_A_ENDPOINT: u16 = 4;
pub(crate) const WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL: u16 = 5;
pub(crate) const WGPEER_A_LAST_HANDSHAKE_TIME: u16 = 6;
pub(crate) const WGPEER_A_RX_BYTES: u16 = 7;
pub(crate) const WGPEER_A_TX_BYTES: u16 = 8;
pub(crate) const WGPEER_A_ALLOWEDIPS: u16 = 9;
pub(crate) const WGPEER_F_REMOVE_ME: u32 = 1;
pub(crate) const WGPEER_F_REPLACE_ALLOWEDIPS: u32 = 2;
pub(crate) const WGPEER_F_UPDATE_ONLY: u32 = 4;

pub(crate) const WGALLOWEDIP_A_FAMILY: u16 = 1;
pub(crate) const WGALLOWEDIP_A_IPADDR: u16 = 2;
pub(crate) const WGALLOWEDIP_A_CIDR_MASK: u16 = 3;
/// Since Linux 6.16; an older kernel refuses the attribute with `EINVAL`.
pub(crate) const WGALLOWEDIP_A_FLAGS: u16 = 4;
pub(crate) const WGALLOWEDIP_F_REMOVE_ME: u32 = 1;

// socket.h
pub(crate) const AF_INET: u16 = 2;
pub(crate) const AF_INET6: u16 = 10;
