//! Messages, byte for byte and as a whole. Vectors are those of a little-endian machine.

use proptest::collection::vec;
use proptest::prelude::*;

use super::kernel::{Tell, TellPeer, read};
use super::{at, net, private};
use crate::decode::Observed;
use crate::encode::{Allowed, DeviceSet, How, KeySet, NOBODY, PAYLOAD_MAX, PeerSet, by_stealing, get, set};

const KEY: [u8; 32] = [0xab; 32];

fn hex(lines: &[&str]) -> Vec<u8> {
    let digits: String = lines.iter().map(|line| line.split('|').next().unwrap()).collect();
    let digits: Vec<u8> =
        digits.chars().filter(|c| !c.is_whitespace()).map(|c| u8::try_from(c.to_digit(16).unwrap()).unwrap()).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

#[track_caller]
fn is(payloads: &[crate::encode::Payload], expected: &[&[&str]]) {
    let found: Vec<&[u8]> = payloads.iter().map(|payload| payload.as_slice()).collect();
    let expected: Vec<Vec<u8>> = expected.iter().map(|lines| hex(lines)).collect();
    assert_eq!(found, expected);
}

#[cfg(target_endian = "little")]
#[test]
fn an_interface() {
    let key = private(0x40);
    let device = DeviceSet { key: Some(KeySet::Private(&key)), port: Some(51871), mark: Some(0x1e00), clear: true };
    let expected = [
        "01 01 00 00                    | genlmsghdr: WG_CMD_SET_DEVICE, WG_GENL_VERSION, reserved",
        "0f 00 02 00                    | 15 bytes, WGDEVICE_A_IFNAME",
        "63 69 6c 69 75 6d 5f 77 67 30 00 | cilium_wg0, NUL",
        "00                             | to 4 bytes",
        "24 00 03 00                    | 36 bytes, WGDEVICE_A_PRIVATE_KEY",
        "4040404040404040404040404040404040404040404040404040404040404040",
        "08 00 05 00 01 00 00 00        | WGDEVICE_A_FLAGS: WGDEVICE_F_REPLACE_PEERS",
        "06 00 06 00 9f ca 00 00        | WGDEVICE_A_LISTEN_PORT 51871, native order, to 4 bytes",
        "08 00 07 00 00 1e 00 00        | WGDEVICE_A_FWMARK 0x1e00",
    ];
    is(&set("cilium_wg0", &device, &[]), &[&expected]);
    let gone = DeviceSet { key: Some(KeySet::Remove), ..DeviceSet::default() };
    let expected = [
        "01 01 00 00  08 00 02 00 77 67 30 00 | wg0 needs no padding",
        "24 00 03 00",
        "0000000000000000000000000000000000000000000000000000000000000000 | removes the key",
    ];
    is(&set("wg0", &gone, &[]), &[&expected]);
}

#[cfg(target_endian = "little")]
#[test]
fn a_peer_with_prefixes() {
    let prefixes = [net("10.1.2.0/24"), net("fd00:1:2::/64")];
    let peer = PeerSet {
        endpoint: Some(at(7)),
        keepalive_s: Some(25),
        allowed: prefixes.into_iter().map(|prefix| Allowed { prefix, remove: false }).collect(),
        ..PeerSet::new(KEY, How::Make)
    };
    let expected = [
        "01 01 00 00  08 00 02 00 77 67 30 00",
        "98 00 08 80                    | 152 bytes, WGDEVICE_A_PEERS | NLA_F_NESTED",
        "94 00 00 80                    | 148 bytes, a peer, NLA_F_NESTED",
        "24 00 01 00                    | WGPEER_A_PUBLIC_KEY",
        "abababababababababababababababababababababababababababababababab",
        "08 00 03 00 02 00 00 00        | WGPEER_A_FLAGS: WGPEER_F_REPLACE_ALLOWEDIPS",
        "14 00 04 00                    | WGPEER_A_ENDPOINT, struct sockaddr_in:",
        "02 00 ca 9f c0 00 02 07        | AF_INET native, port 51871 big-endian, 192.0.2.7",
        "00 00 00 00 00 00 00 00        | sin_zero",
        "06 00 05 00 19 00 00 00        | WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL 25",
        "48 00 09 80                    | 72 bytes, WGPEER_A_ALLOWEDIPS, NLA_F_NESTED",
        "1c 00 00 80                    | 28 bytes, an allowed IP",
        "06 00 01 00 02 00 00 00        | WGALLOWEDIP_A_FAMILY AF_INET",
        "08 00 02 00 0a 01 02 00        | WGALLOWEDIP_A_IPADDR 10.1.2.0",
        "05 00 03 00 18 00 00 00        | WGALLOWEDIP_A_CIDR_MASK 24",
        "28 00 00 80                    | 40 bytes, an allowed IP",
        "06 00 01 00 0a 00 00 00        | AF_INET6",
        "14 00 02 00 fd 00 00 01 00 02 00 00 00 00 00 00 00 00 00 00",
        "05 00 03 00 40 00 00 00        | 64",
    ];
    is(&set("wg0", &DeviceSet::default(), &[peer]), &[&expected]);
}

#[cfg(target_endian = "little")]
#[test]
fn updates_and_removals() {
    let v6 = PeerSet { endpoint: Some("[fd00::7%3]:51872".parse().unwrap()), ..PeerSet::new(KEY, How::Update) };
    let away = Allowed { prefix: net("10.1.2.3/32"), remove: true };
    let prefix = PeerSet { allowed: vec![away], ..PeerSet::new(KEY, How::Update) };
    let expected = [
        "01 01 00 00  08 00 02 00 77 67 30 00",
        "dc 00 08 80                    | 220 bytes, WGDEVICE_A_PEERS",
        "50 00 00 80                    | 80 bytes, a peer",
        "24 00 01 00 abababababababababababababababababababababababababababababababab",
        "08 00 03 00 04 00 00 00        | WGPEER_F_UPDATE_ONLY",
        "20 00 04 00                    | WGPEER_A_ENDPOINT, struct sockaddr_in6:",
        "0a 00 ca a0 00 00 00 00        | AF_INET6, port 51872 big-endian, flowinfo",
        "fd 00 00 00 00 00 00 00 00 00 00 00 00 00 00 07",
        "03 00 00 00                    | sin6_scope_id",
        "58 00 00 80                    | 88 bytes, the peer again",
        "24 00 01 00 abababababababababababababababababababababababababababababababab",
        "08 00 03 00 04 00 00 00        | WGPEER_F_UPDATE_ONLY",
        "28 00 09 80                    | 40 bytes, WGPEER_A_ALLOWEDIPS",
        "24 00 00 80                    | 36 bytes, an allowed IP with its flags",
        "06 00 01 00 02 00 00 00",
        "08 00 02 00 0a 01 02 03",
        "05 00 03 00 20 00 00 00",
        "08 00 04 00 01 00 00 00        | WGALLOWEDIP_A_FLAGS: WGALLOWEDIP_F_REMOVE_ME",
        "30 00 00 80                    | 48 bytes, a peer",
        "24 00 01 00 abababababababababababababababababababababababababababababababab",
        "08 00 03 00 01 00 00 00        | WGPEER_F_REMOVE_ME",
    ];
    let expected: Vec<&str> = expected.to_vec();
    is(&set("wg0", &DeviceSet::default(), &[v6, prefix, PeerSet::new(KEY, How::Remove)]), &[&expected]);
}

#[test]
fn a_question_and_nothing_to_say() {
    assert_eq!(get("wg0")[..], [&[0, 1, 0, 0][..], &8u16.to_ne_bytes(), &2u16.to_ne_bytes(), b"wg0\0"].concat());
    assert_eq!(set("wg0", &DeviceSet::default(), &[]), []);
}

#[test]
fn away_by_way_of_nobody() {
    let allowed = |prefix: &str, remove| Allowed { prefix: net(prefix), remove };
    let both = PeerSet {
        allowed: vec![allowed("10.0.0.0/24", true), allowed("10.0.1.0/24", false)],
        ..PeerSet::new(KEY, How::Update)
    };
    let only = PeerSet { allowed: vec![allowed("10.0.2.0/24", true)], ..PeerSet::new(KEY, How::Update) };
    let nobody = |prefix| PeerSet { allowed: vec![allowed(prefix, false)], ..PeerSet::new(NOBODY, How::Add) };
    let expected = vec![
        nobody("10.0.0.0/24"),
        PeerSet { allowed: vec![allowed("10.0.1.0/24", false)], ..PeerSet::new(KEY, How::Update) },
        nobody("10.0.2.0/24"),
        PeerSet::new(NOBODY, How::Remove),
    ];
    assert_eq!(by_stealing(vec![both, only]), expected);
    let harmless = vec![PeerSet::new(KEY, How::Remove)];
    assert_eq!(by_stealing(harmless.clone()), harmless);
}

/// What messages say together, continuations joined to what they continue.
fn together(payloads: &[crate::encode::Payload]) -> Tell {
    let mut whole: Option<Tell> = None;
    for payload in payloads {
        let mut tell = read(payload);
        let Some(whole) = &mut whole else {
            whole = Some(tell);
            continue;
        };
        assert_eq!(tell.interface, whole.interface);
        assert_eq!((tell.private, tell.flags, tell.port, tell.mark), (None, 0, None, None), "said once");
        if let (Some(last), Some(first)) = (whole.peers.last_mut(), tell.peers.first())
            && !last.allowed.is_empty()
            && (first.key, first.flags, first.endpoint, first.keepalive_s) == (last.key, 4, None, None)
        {
            last.allowed.extend(tell.peers.remove(0).allowed);
        }
        whole.peers.append(&mut tell.peers);
    }
    whole.unwrap_or_default()
}

fn meant(peer: &PeerSet) -> TellPeer {
    let flags = match peer.how {
        How::Make => 2,
        How::Update => 4,
        How::Remove => 1,
        How::Add => 0,
    };
    let allowed = peer.allowed.iter().map(|allowed| (allowed.prefix, allowed.remove)).collect();
    TellPeer { key: peer.key, flags, endpoint: peer.endpoint, keepalive_s: peer.keepalive_s, allowed }
}

fn allowed() -> impl Strategy<Value = Allowed> {
    let v4 = (any::<[u8; 4]>(), 0..=32u8).prop_map(|(ip, length)| (std::net::IpAddr::from(ip), length));
    let v6 = (any::<[u8; 16]>(), 0..=128u8).prop_map(|(ip, length)| (std::net::IpAddr::from(ip), length));
    (prop_oneof![v4, v6], any::<bool>())
        .prop_map(|((ip, length), remove)| Allowed { prefix: ipnet::IpNet::new(ip, length).unwrap().trunc(), remove })
}

fn endpoint() -> impl Strategy<Value = std::net::SocketAddr> {
    let v4 = any::<([u8; 4], u16)>().prop_map(std::net::SocketAddr::from);
    let v6 = any::<([u8; 16], u16)>().prop_map(std::net::SocketAddr::from);
    prop_oneof![v4, v6]
}

fn peer_set() -> impl Strategy<Value = PeerSet> {
    let how = prop_oneof![Just(How::Make), Just(How::Update), Just(How::Remove), Just(How::Add)];
    let prefixes = prop_oneof![4 => vec(allowed(), 0..4), 1 => vec(allowed(), 0..900)];
    (any::<u8>(), how, proptest::option::of(endpoint()), proptest::option::of(any::<u16>()), prefixes).prop_map(
        |(key, how, endpoint, keepalive_s, allowed)| PeerSet { key: [key; 32], how, endpoint, keepalive_s, allowed },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// The decoder refuses a payload above the limit.
    #[test]
    fn whatever_is_meant_is_said(peers in vec(peer_set(), 0..40), port: Option<u16>, mark: Option<u32>, clear: bool) {
        let payloads = set("cilium_wg0", &DeviceSet { key: None, port, mark, clear }, &peers);
        let said = together(&payloads);
        if !payloads.is_empty() {
            prop_assert_eq!((said.interface.as_str(), said.port, said.mark, said.flags == 1), ("cilium_wg0", port, mark, clear));
        }
        // Two entries that look like one and its continuation mean the same.
        let mut wanted: Vec<TellPeer> = peers.iter().map(meant).collect();
        let mut found = said.peers;
        join(&mut wanted);
        join(&mut found);
        prop_assert_eq!(found, wanted);
    }

    /// The kernel's word is trusted, but not with a panic.
    #[test]
    fn no_dump_is_too_strange(bytes in vec(any::<u8>(), 0..300)) {
        let mut seen = Observed::default();
        seen.take(&bytes);
        seen.take(&[&[0, 1, 0, 0][..], &bytes].concat());
    }
}

fn join(peers: &mut Vec<TellPeer>) {
    peers.dedup_by(|next, last| {
        let same = !last.allowed.is_empty()
            && (next.key, next.flags, next.endpoint, next.keepalive_s) == (last.key, 4, None, None);
        if same {
            last.allowed.append(&mut next.allowed);
        }
        same
    });
}

#[test]
fn five_thousand_peers_with_ten_prefixes_each() {
    let peers: Vec<PeerSet> = (0..5000u32)
        .map(|number| {
            let mut key = KEY;
            key[..4].copy_from_slice(&number.to_be_bytes());
            let prefix = |i: u32| {
                let ip = std::net::Ipv4Addr::from(0x0a00_0000 | (number * 10 + i) << 8);
                Allowed { prefix: ipnet::IpNet::new(ip.into(), 24).unwrap(), remove: false }
            };
            PeerSet { endpoint: Some(at(1)), allowed: (0..10).map(prefix).collect(), ..PeerSet::new(key, How::Make) }
        })
        .collect();
    let payloads = set("cilium_wg0", &DeviceSet::default(), &peers);
    assert!(payloads.iter().all(|payload| payload.len() <= PAYLOAD_MAX));
    assert!(
        payloads[..payloads.len() - 1].iter().all(|payload| payload.len() > PAYLOAD_MAX / 2),
        "no message is small"
    );
    let said = together(&payloads);
    assert_eq!(said.peers, peers.iter().map(meant).collect::<Vec<_>>());
    assert_eq!(said.peers.iter().map(|peer| peer.allowed.len()).sum::<usize>(), 50_000);
}

/// As the kernel tears a peer apart: the second message has its key and more allowed IPs, nothing else.
#[test]
fn a_peer_that_goes_on_in_the_next_message() {
    use super::kernel::Memory;
    use crate::wire::Wire as _;
    let mut memory = Memory::default();
    memory.make("wg0").unwrap();
    let prefixes: Vec<_> = (0..=255u8).map(|i| net(&format!("10.{i}.0.0/16"))).collect();
    let allowed = prefixes.iter().map(|prefix| Allowed { prefix: *prefix, remove: false }).collect();
    let peer = PeerSet { endpoint: Some(at(1)), allowed, keepalive_s: Some(9), ..PeerSet::new(KEY, How::Make) };
    for payload in set("wg0", &DeviceSet::default(), &[peer, PeerSet::new([1; 32], How::Make)]) {
        memory.set(&payload).unwrap();
    }
    memory.shake("wg0", KEY);
    let payloads = memory.get("wg0").unwrap().unwrap();
    assert!(payloads.len() > 80);
    let mut seen = Observed::default();
    payloads.iter().for_each(|payload| seen.take(payload));
    assert_eq!(seen.peers.len(), 2);
    let peer = &seen.peers[&KEY];
    assert_eq!(peer.prefixes, prefixes.into_iter().collect());
    assert_eq!((peer.endpoint, peer.keepalive_s, peer.last_handshake.is_some()), (Some(at(1)), 9, true));
    assert_eq!((seen.ifindex, seen.public), (11, None));
}
