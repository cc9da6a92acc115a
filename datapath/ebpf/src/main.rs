//! The eBPF object of Causeway: five tcx programs over one packet logic.
//!
//! Everything that decides is in `causeway-datapath-logic`; here are the maps, the packet accessor and the helpers'
//! edges. The loader (`datapath/loader`) embeds the object, sizes and pins its maps, and attaches its programs.
#![no_std]
#![no_main]

mod kernel;
mod maps;
mod programs;
mod skb;

/// The licence that the kernel asks for: some helpers are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Never reached: the logic has no panicking path, and the verifier would refuse this loop if it had one.
#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
