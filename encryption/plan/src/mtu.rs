//! The one place that knows what WireGuard costs a packet.

/// Bytes that WireGuard adds over IPv6: 40 (IP) + 8 (UDP) + 16 (header) + 16 (tag). The same figure is used over IPv4,
/// where 60 would do, so that a node's MTU does not depend on which family reaches a peer.
const OVERHEAD: u32 = 80;

/// Payloads are padded to a multiple of this (WireGuard white paper section 5.4.6).
const PADDING: u32 = 16;

/// RFC 8200 section 5: what every IPv6 link must carry. The device carries IPv6, so it must not go below.
const MIN: u32 = 1280;

/// Bytes of the IP and TCP headers without options, which an MSS leaves out.
const TCP_V4: u32 = 40;
const TCP_V6: u32 = 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MtuError {
    #[error(
        "an underlay MTU of {underlay} with {tunnel} bytes of tunnel leaves {left} for packets inside WireGuard, IPv6 needs \
         {MIN}: raise the MTU of the underlay to at least {}",
        MIN + OVERHEAD + tunnel
    )]
    TooSmall { underlay: u32, tunnel: u32, left: u32 },
}

/// MTUs of a node whose pods' traffic is encrypted, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mtu {
    /// Of the WireGuard device, of pods, and of routes to other nodes' pods.
    pub inner: u32,
}

impl Mtu {
    /// From the smallest MTU among the underlay's interfaces and the bytes that an overlay inside WireGuard would add.
    ///
    /// Rounded down to a multiple of the padding: a full packet needs none, so none is ever padded past the underlay.
    pub const fn new(underlay: u32, tunnel: u32) -> Result<Self, MtuError> {
        let left = underlay.saturating_sub(OVERHEAD).saturating_sub(tunnel);
        let inner = left - left % PADDING;
        if inner < MIN { Err(MtuError::TooSmall { underlay, tunnel, left: inner }) } else { Ok(Self { inner }) }
    }

    /// The largest TCP segment of IPv4 (RFC 9293 section 3.7.1).
    pub const fn mss_v4(self) -> u32 {
        self.inner - TCP_V4
    }

    /// The largest TCP segment of IPv6.
    pub const fn mss_v6(self) -> u32 {
        self.inner - TCP_V6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_packet_fits_the_underlay_with_its_padding() {
        for underlay in 1376..=9200 {
            let inner = Mtu::new(underlay, 0).unwrap().inner;
            assert!(inner.next_multiple_of(PADDING) + OVERHEAD <= underlay, "{underlay}");
            assert!(inner + PADDING + OVERHEAD > underlay, "{underlay}: a larger one would fit too");
        }
    }

    #[test]
    fn usual_underlays() {
        let ethernet = Mtu::new(1500, 0).unwrap();
        assert_eq!((ethernet.inner, ethernet.mss_v4(), ethernet.mss_v6()), (1408, 1368, 1348));
        assert_eq!(Mtu::new(1500, 50).unwrap().inner, 1360);
        assert_eq!(Mtu::new(9000, 0).unwrap().inner, 8912);
        let error = Mtu::new(1359, 0).unwrap_err().to_string();
        assert!(error.ends_with("raise the MTU of the underlay to at least 1360"), "{error}");
        assert!(Mtu::new(0, 50).is_err());
    }
}
