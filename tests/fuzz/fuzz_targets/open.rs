//! The body of an OPEN.
#![no_main]

#[path = "../src/targets.rs"]
#[allow(dead_code, reason = "each target uses its own part")]
mod targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::open(input));
