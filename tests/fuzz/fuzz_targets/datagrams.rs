//! Datagrams, odd ones and bent ones of a live session, at an embedded WireGuard device.
#![no_main]

#[path = "../src/wireguard.rs"]
#[allow(dead_code, reason = "each target uses its own part")]
mod wireguard;

libfuzzer_sys::fuzz_target!(|input: &[u8]| wireguard::datagrams(input));
