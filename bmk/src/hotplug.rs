//! CPUs that the host takes away and gives while the machine runs.
//!
//! One that goes is stripped while all CPUs stand still, so that nobody is about to give it work or wait for its answer: it leaves
//! the set of those that run, and its threads, sleepers and interrupts go to others. Then its idle loop rests it. It keeps its number,
//! its data and its idle thread, and goes on from there.

use core::ptr::null;

use rumpuser::OutOfMemory;

use crate::{
    cpu::{self, Cpu},
    memory::{frames, kernel_map},
    platform::platform,
    rendezvous, schedule, smp,
    trap::extended,
};

/// Takes a CPU out of use; `move_interrupts` is called while all CPUs stand still. The caller's thread is bound to the boot CPU,
/// which can't go.
pub fn stop(number: usize, move_interrupts: impl FnOnce()) -> Result<(), OutOfMemory> {
    let _changes = rendezvous::CHANGES.lock();
    let Some(cpu) = cpu::get(number).filter(|cpu| cpu.number != 0 && runs(cpu)) else { return Ok(()) };
    let work = || {
        cpu::set_offline(cpu);
        move_interrupts();
        true
    };
    // On a host with fewer CPUs, those who wait keep the one from running that they wait for.
    rendezvous::meet(work, leave, || platform().relax())?;
    while !platform().cpu_rests(cpu.hardware) {
        schedule::yield_now();
        platform().relax();
    }
    Ok(())
}

/// Puts a CPU to use; returns whether it runs. Thread context.
pub fn start(number: usize) -> bool {
    let _changes = rendezvous::CHANGES.lock();
    if cpu::get(number).is_some_and(runs) {
        return true;
    }
    let Some(hardware) = platform().cpus().get(number).copied().filter(|_| number < cpu::possible()) else {
        return false;
    };
    smp::prepare(number, hardware, kernel_map::root(), None)
        .is_ok_and(|(cpu, start)| smp::bring_up(cpu, &start))
}

fn runs(cpu: &Cpu) -> bool {
    cpu::online() & 1 << cpu.number != 0
}

/// Each CPU's part of the meeting: the one that goes lets go of what others may need.
fn leave() {
    let cpu = cpu::current();
    if !runs(cpu) {
        // SAFETY: the kernel's own address space; the thread of the meeting has no other.
        unsafe { schedule::switch::load_space(cpu, null()) };
        schedule::evacuate(cpu);
    }
}

/// Rests the calling CPU until it is started again. Called by its idle loop, with interrupts disabled.
pub(crate) fn rest(cpu: &Cpu) {
    schedule::evacuate(cpu);
    extended::disown();
    frames::drain_cache();
    platform().rest_cpu();
    schedule::restart_account(cpu);
    smp::arrived(cpu);
}
