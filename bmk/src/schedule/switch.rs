//! The switch from one thread to another.

use alloc::sync::Arc;
use core::{arch::naked_asm, ptr::null, sync::atomic::Ordering};

use super::thread::{Thread, state};
use crate::{
    cpu::{self, Cpu},
    machine,
    memory::{kernel_map, space::AddressSpace, stack},
    trap::extended,
};

/// Saves the callee's registers and the stack pointer, and takes up another thread's.
#[unsafe(naked)]
unsafe extern "sysv64" fn switch_stacks(_save: *mut u64, _load: u64) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi], rsp",
        "mov rsp, rsi",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
    )
}

/// Where a new thread begins.
///
/// # Safety
/// Only [`switch`] may come here, on the stack of a thread that hasn't run.
#[unsafe(naked)]
pub unsafe extern "sysv64" fn start() {
    naked_asm!("xor ebp, ebp", "call {}", "ud2", sym begin)
}

extern "sysv64" fn begin() -> ! {
    finish();
    machine::interrupts_enable();
    if let Some(main) = cpu::current_thread().take_main() {
        main();
    }
    super::exit()
}

/// Loads an address space (null: the kernel's) and lets the one before go.
///
/// # Safety
/// `space` points into an `Arc` that the caller keeps, or is null; interrupts are disabled.
pub unsafe fn load_space(cpu: &Cpu, space: *const AddressSpace) {
    let loaded = &cpu.scheduler.loaded;
    let old = loaded.get();
    if old == space {
        return;
    }
    // SAFETY: a thread's pointer comes from the reference that it holds; the CPU takes one of its own, and
    // gives it up when another space is loaded.
    unsafe {
        if let Some(new) = space.as_ref() {
            Arc::increment_strong_count(space);
            new.active.fetch_or(1 << cpu.number, Ordering::SeqCst);
        }
        machine::set_cr3(space.as_ref().map_or(kernel_map::root(), AddressSpace::root));
        loaded.set(space);
        if let Some(before) = old.as_ref() {
            before.active.fetch_and(!(1 << cpu.number), Ordering::SeqCst);
            drop(Arc::from_raw(old));
        }
    }
}

/// Switches from `previous` to `next`. Interrupts are disabled, no lock is held.
pub fn switch(cpu: &Cpu, previous: &Thread, next: &Thread) {
    let switches = &cpu.scheduler.switches;
    switches.store(switches.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    extended::save_at_switch(cpu, previous);
    extended::switch_control(previous, next);
    if !next.space.get().is_null() {
        // SAFETY: the thread holds the reference behind its pointer.
        unsafe { load_space(cpu, next.space.get()) };
    }
    if next.thread_pointer.get() != 0 {
        // SAFETY: as in `rumpuser_set_thread_pointer`.
        unsafe { machine::wrmsr(machine::MSR_FS_BASE, next.thread_pointer.get()) };
    }
    // Another process may use the same segment base with another meaning: load it anew.
    cpu.loaded_fs.set(u64::MAX >> 1);
    cpu.loaded_gs.set(u64::MAX >> 1);
    cpu.constants.set(next.constants.table());
    cpu.set_current(next);
    cpu.scheduler.previous.set(previous);
    previous.tell_presence(-1);
    next.tell_presence(cpu.number as i32);
    next.on_cpu.store(true, Ordering::Relaxed);
    next.state.store(state::RUNNING, Ordering::Relaxed);
    next.cpu.store(cpu.number, Ordering::Relaxed);
    // SAFETY: `next` isn't running and its stack pointer was saved by this function or made by `Thread::new`.
    unsafe { switch_stacks(previous.stack_pointer.as_ptr(), next.stack_pointer.get()) };
    finish();
}

/// The other half of a switch, on the stack of the thread that goes on.
fn finish() {
    let cpu = cpu::current();
    let pointer = cpu.scheduler.previous.replace(null());
    // SAFETY: the thread before has just stopped here; it lives until `reap` below at least.
    let previous = unsafe { &*pointer };
    match previous.state.load(Ordering::Relaxed) {
        state::DEAD => {
            stack::release(previous.stack_top);
            previous.on_cpu.store(false, Ordering::Release);
            // SAFETY: the scheduler's own reference, given up at the end of the thread.
            drop(unsafe { Arc::from_raw(pointer) });
        }
        state::RUNNING if !super::is_idle(previous) => {
            // It may not run here any more.
            previous.state.store(state::READY, Ordering::Relaxed);
            previous.on_cpu.store(false, Ordering::Release);
            super::enqueue(previous);
        }
        _ => previous.on_cpu.store(false, Ordering::Release),
    }
}
