//! Bare-metal kernel core, shared by the platforms: boot, memory, traps, SMP, scheduler, clocks.
#![no_std]
#![allow(unsafe_code, reason = "this crate is the machine's lowest layer")]

extern crate alloc;

pub mod hooks;
pub mod platform;
