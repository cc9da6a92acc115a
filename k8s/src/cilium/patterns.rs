//! Regular expressions that the schemas carry. They catch typing errors at `kubectl apply`; the last word on whether a
//! text is an address or a community is `checked`'s.

/// One octet of a dotted IPv4 address.
macro_rules! octet {
    () => {
        "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
    };
}
/// A decimal number of 0..=65535 without leading zeros.
macro_rules! u16_decimal {
    () => {
        "(0|[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
    };
}
/// A decimal number of 0..=4294967295 without leading zeros.
macro_rules! u32_decimal {
    () => {
        concat!(
            "(0|[1-9][0-9]{0,8}|[1-3][0-9]{9}|4[01][0-9]{8}|42[0-8][0-9]{7}|429[0-3][0-9]{6}|4294[0-8][0-9]{5}",
            "|42949[0-5][0-9]{4}|429496[0-6][0-9]{3}|4294967[01][0-9]{2}|42949672[0-8][0-9]|429496729[0-5])"
        )
    };
}

/// An IPv4 address, or an IPv6 address with an optional `%zone`. Looser than Cilium's for IPv6 (colon-separated groups
/// in any number), which `checked` makes up for.
pub(crate) const IP_ADDRESS: &str = concat!(
    r"^\s*((",
    octet!(),
    r"\.){3}",
    octet!(),
    r"|([0-9A-Fa-f]{0,4}:){1,7}(:|[0-9A-Fa-f]{0,4}|(",
    octet!(),
    r"\.){3}",
    octet!(),
    r")(%.+)?)\s*$"
);

/// RFC 1997 community: one number of 32 bits, or two of 16 bits with a colon between.
pub(crate) const STANDARD_COMMUNITY: &str =
    concat!("^(", u32_decimal!(), "|", u16_decimal!(), ":", u16_decimal!(), ")$");

/// RFC 8092 large community: three numbers of 32 bits with colons between.
pub(crate) const LARGE_COMMUNITY: &str = concat!("^", u32_decimal!(), ":", u32_decimal!(), ":", u32_decimal!(), "$");

/// The value of a Kubernetes label.
pub(crate) const LABEL_VALUE: &str = "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$";

/// Address families that Cilium's schema accepts; only `ipv4` and `ipv6` do anything.
pub(crate) const AFIS: [&str; 5] = ["ipv4", "ipv6", "l2vpn", "ls", "opaque"];

/// Subsequent address families that Cilium's schema accepts; only `unicast` does anything.
pub(crate) const SAFIS: [&str; 15] = [
    "unicast",
    "multicast",
    "mpls_label",
    "encapsulation",
    "vpls",
    "evpn",
    "ls",
    "sr_policy",
    "mup",
    "mpls_vpn",
    "mpls_vpn_multicast",
    "route_target_constraints",
    "flowspec_unicast",
    "flowspec_vpn",
    "key_value",
];

/// Schema of a string that must be one of `values`, for fields that stay strings in Rust so that a value of a newer
/// Cilium is reported by `checked` with its field and remedy, not by the decoder.
pub(crate) fn one_of(values: &[&str]) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "enum": values })
}

pub(crate) fn afi_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    one_of(&AFIS)
}

pub(crate) fn safi_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    one_of(&SAFIS)
}
