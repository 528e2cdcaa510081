//! The operations on event channels, by the names of their structures in Xen's public/event_channel.h.

use crate::hypercall::{self, Hypercall, Operation};

macro_rules! operations {
    ($($(#[$attribute:meta])* $name:ident = $command:literal { $($field:ident: $kind:ty),* })*) => { $(
        $(#[$attribute])*
        #[derive(Debug, Clone, Copy)]
        #[repr(C)]
        pub struct $name { $(pub $field: $kind),* }

        // SAFETY: the structure of the command, which points to nothing but frames that the domain gives for good.
        unsafe impl Operation for $name {
            const HYPERCALL: Hypercall = Hypercall::EventChannel;
            const COMMAND: u64 = $command;
        }
    )* };
}

operations! {
    /// `evtchn_bind_virq`.
    BindVirq = 1 { virq: u32, cpu: u32, port: u32 }
    /// `evtchn_close`.
    Close = 3 { port: u32 }
    /// `evtchn_send`.
    Send = 4 { port: u32 }
    /// `evtchn_alloc_unbound`.
    AllocateUnbound = 6 { domain: u16, remote: u16, port: u32 }
    /// `evtchn_bind_ipi`.
    BindIpi = 7 { cpu: u32, port: u32 }
    /// `evtchn_bind_vcpu`.
    BindCpu = 8 { port: u32, cpu: u32 }
    /// `evtchn_unmask`.
    Unmask = 9 { port: u32 }
    /// `evtchn_init_control`.
    InitialiseControl = 11 { frame: u64, offset: u32, cpu: u32, link_bits: u8, padding: [u8; 7] }
    /// `evtchn_expand_array`.
    ExpandArray = 12 { frame: u64 }
}

/// Performs an operation; returns it as the hypervisor left it.
#[inline]
pub fn perform<T: Operation>(mut operation: T) -> Result<T, i64> {
    hypercall::perform(&mut operation).map(|_| operation)
}
