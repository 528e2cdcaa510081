//! Bare-metal kernel core, shared by the platforms: boot, memory, traps, SMP, scheduler, clocks.
//!
//! The kernel binary calls [`boot::start`] from its first instructions, uses [`memory::heap::KernelHeap`] as its
//! allocator and [`panic::rust`] as its panic handler, and exports [`hypercalls::Kernel`].
#![cfg_attr(not(test), no_std)]
#![allow(unsafe_code, reason = "this crate is the machine's lowest layer")]

extern crate alloc;

pub mod boot;
pub mod clock;
pub mod console;
pub mod cpu;
pub mod hooks;
pub mod hotplug;
pub mod hypercalls;
pub mod lock;
pub mod machine;
pub mod memory;
pub mod panic;
pub mod platform;
pub mod rendezvous;
pub mod schedule;
pub mod smp;
pub mod trap;
