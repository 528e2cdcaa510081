//! Programs in the kernel's own mode: their traps, and interrupts of theirs for which there are signals, go to the handler
//! of the component that runs them (`rumpuser_set_trap_handler`).

use core::sync::atomic::Ordering;

use rumpuser::{MachineTrap, UserContext, VectorRegisters, user::Registers};

use super::{frame::KernelFrame, user::USER_FLAGS};
use crate::{
    cpu, hooks, machine,
    memory::{access, stack},
    schedule::{self, thread::Thread},
};

/// Below a stack pointer, what code may use without moving it.
const RED_ZONE: u64 = 128;

/// The running thread, once there are threads.
fn thread() -> Option<&'static Thread> {
    // SAFETY: null before the scheduler starts, else the running thread.
    unsafe { cpu::current().current.get().as_ref() }
}

/// Whether somebody may handle a trap of the running thread.
pub fn may_handle() -> bool {
    hooks::handles_traps() && thread().is_some_and(|thread| thread.thread_pointer.get() != 0)
}

/// Where a frame for what was interrupted begins: below it, or on the thread's own stack if it runs on another. The entry
/// code does the same for interrupts.
pub fn place(frame: &KernelFrame) -> usize {
    let own = thread().map_or(0, |thread| thread.trap_stack.get());
    let top = if own != 0 && (own ^ frame.rsp) >= stack::SLOT as u64 { own } else { frame.rsp - RED_ZONE };
    (top as usize).wrapping_sub(size_of::<KernelFrame>()) & !15
}

/// Asks whether an exception is handled.
pub fn handles(frame: &mut KernelFrame, address: usize) -> bool {
    // What has interrupts disabled must not wait for what other CPUs do.
    may_handle() && frame.rflags & machine::FLAG_INTERRUPT != 0 && ask(frame, address)
}

/// At the end of an interrupt, whose thread may have been asked for something.
pub fn interrupted(frame: &mut KernelFrame) {
    let asked = |thread: &&Thread| thread.trap_stack.get() != 0 && thread.interrupted.load(Ordering::Relaxed);
    let Some(thread) = thread().filter(asked) else { return };
    if schedule::may_sleep() && may_handle() {
        ask(frame, 0);
    }
    if thread.interrupted.load(Ordering::Relaxed) {
        // In the kernel's components: they look by themselves, or the next interrupt finds the program.
        schedule::look_again();
    }
}

fn ask(frame: &mut KernelFrame, address: usize) -> bool {
    let mut trap = MachineTrap {
        vector: frame.vector as u8,
        error: frame.error,
        address,
        guarded: access::fixup(frame).is_some(),
        context: context(frame),
    };
    machine::interrupts_enable();
    let handled = hooks::trap(&mut trap);
    machine::cli();
    if handled {
        let KernelFrame { vector, error, .. } = *frame;
        *frame = KernelFrame { vector, error, ..self::frame(&trap.context) };
    }
    handled
}

macro_rules! general {
    ($callback:ident) => {
        $callback!(rax rbx rcx rdx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags)
    };
}

fn context(frame: &KernelFrame) -> UserContext {
    macro_rules! registers {
        ($($name:ident)*) => { Registers { $($name: frame.$name,)* fs_base: 0, gs_base: 0 } };
    }
    UserContext { registers: general!(registers), vectors: VectorRegisters(frame.vectors) }
}

/// What the entry code restores for a context: kernel mode, interrupts enabled, and of the flags those that a program may
/// change.
pub fn frame(context: &UserContext) -> KernelFrame {
    macro_rules! frame {
        ($($name:ident)*) => {
            KernelFrame {
                $($name: context.registers.$name,)*
                vectors: context.vectors.0,
                vector: 0,
                error: 0,
                cs: cpu::KERNEL_CODE.into(),
                ss: cpu::KERNEL_DATA.into(),
            }
        };
    }
    let mut frame = general!(frame);
    frame.rflags = frame.rflags & USER_FLAGS | machine::FLAG_INTERRUPT | 2;
    frame
}
