//! A line of the embedded WireGuard device's control socket.
#![no_main]

#[path = "../src/wireguard.rs"]
#[allow(dead_code, reason = "each target uses its own part")]
mod wireguard;

libfuzzer_sys::fuzz_target!(|input: &[u8]| wireguard::request(input));
