//! What the hypervisor does with a virtual CPU: how long it could have run and didn't (Xen, public/vcpu.h).

use core::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use crate::hypercall::{self, VcpuOperation};

/// Runs; could run; sleeps; is not to run.
const STATES: usize = 4;
const RUNNABLE: usize = 1;
const OFFLINE: usize = 3;

/// `struct vcpu_runstate_info`, on a line of its own, so that it crosses no page.
#[repr(C, align(64))]
struct RunState {
    state: AtomicI32,
    entered: AtomicU64,
    /// Nanoseconds in each state.
    times: [AtomicU64; STATES],
}

static STATE: [RunState; bmk::cpu::MAXIMUM] = [const {
    RunState { state: AtomicI32::new(0), entered: AtomicU64::new(0), times: [const { AtomicU64::new(0) }; _] }
}; _];

#[repr(C)]
struct Register {
    address: u64,
}

// SAFETY: `struct vcpu_register_runstate_memory_area` with VCPUOP_register_runstate_memory_area; the memory is static and made
// of atomics.
unsafe impl VcpuOperation for Register {
    const COMMAND: u64 = 5;
}

/// Has the calling CPU's times written to memory from now on; without that, no time counts as stolen.
pub fn register(cpu: u32) {
    if let Some(state) = STATE.get(cpu as usize) {
        let _ = hypercall::vcpu(cpu, &Register { address: core::ptr::from_ref(state) as u64 });
    }
}

/// How long a CPU had work and could not run, in nanoseconds.
pub fn stolen(cpu: u32) -> u64 {
    let time = |state: &RunState, index: usize| state.times[index].load(Ordering::Relaxed);
    STATE.get(cpu as usize).map_or(0, |state| time(state, RUNNABLE) + time(state, OFFLINE))
}
