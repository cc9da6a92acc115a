//! What the datapath decides about a packet, without a kernel: parsing, service choice, translation, delivery.
#![no_std]
#![forbid(unsafe_code)]
