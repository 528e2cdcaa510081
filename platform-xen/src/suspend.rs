//! Suspend and resume: the domain is saved, or moved to another host, and goes on in a new domain that has its memory and
//! its CPUs' registers, and nothing else: pages shared with the hypervisor, event channels, grants and devices are set up
//! anew (Xen, public/sched.h and docs/misc/pvh.pandoc; what the toolstack saves is in docs/specs/libxc-migration-stream).

use alloc::{boxed::Box, vec::Vec};
use core::sync::atomic::{AtomicBool, Ordering};

use bmk::{clock, rendezvous, schedule};
use rumpuser::{ThreadSpec, device::InterruptHandler};

use crate::{console, control, events, grant, hvm, memory, need, runstate, shutdown, store, xenbus};

/// Suspends in a thread of its own, on the boot CPU: the caller's thread hands on the changes of xenstore.
pub fn start() {
    static UNDER_WAY: AtomicBool = AtomicBool::new(false);
    if UNDER_WAY.swap(true, Ordering::SeqCst) {
        return;
    }
    let main = Box::new(|| {
        xenbus::pause(suspend);
        UNDER_WAY.store(false, Ordering::SeqCst);
    });
    if rumpuser::rumpuser_thread_create(ThreadSpec { name: "suspend".into(), affinity: 1, main }).is_err() {
        UNDER_WAY.store(false, Ordering::SeqCst);
    }
}

/// Returns whether the domain is a new one.
fn suspend() -> bool {
    let mut handlers = Vec::new();
    let mut restored = false;
    store::pause(|connect| {
        let work = || {
            let stopped = clock::stop();
            restored = shutdown::suspend();
            if restored {
                handlers = resume(stopped);
                connect();
            }
            restored
        };
        let held = rendezvous::hold(work, resume_cpu);
        held.unwrap_or(false)
    });
    drop(handlers);
    if restored {
        control::announce();
    }
    restored
}

/// Sets up what all CPUs share, on the boot CPU while the others stand still. Returns handlers of channels that are no more.
fn resume(stopped: clock::Stopped) -> Vec<InterruptHandler> {
    // Another emulator.
    hvm::unplug();
    need(memory::resume(), "shared page");
    need(memory::register_cpu(0), "place for a CPU's information");
    let handlers = events::resume();
    clock::resume(stopped, crate::clock::tsc_frequency().unwrap_or_else(clock::frequency));
    grant::resume();
    console::resume();
    need(initialise_cpu(), "interrupts between CPUs");
    handlers.unwrap_or_else(|_| bmk::boot::refuse(format_args!("this Xen gives no events")))
}

fn initialise_cpu() -> Result<(), i64> {
    events::initialise_cpu(crate::current_vcpu())?;
    runstate::register(crate::current_vcpu());
    // Nothing is left of the timer that was set.
    schedule::timer_interrupt();
    Ok(())
}

/// Sets up another CPU.
fn resume_cpu() {
    need(memory::register_cpu(crate::current_vcpu()), "place for a CPU's information");
    need(initialise_cpu(), "interrupts between CPUs");
}
