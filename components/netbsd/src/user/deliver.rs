//! Running the handlers of signals: in a call of the thread's own, or in the middle of what it does, from a trap or an
//! interrupt. Then all registers are kept on the stack that the handler runs on, and taken back when it returns.
//!
//! `errno` is kept, too: calls of the rump kernel's that succeed set it to 0.

use alloc::vec;
use core::{
    arch::naked_asm,
    ffi::{c_int, c_void},
    sync::atomic::Ordering,
};

use rumpuser::{
    MachineTrap, UserContext, VectorRegisters, memory::PAGE_SIZE, rumpuser_copy_guarded, rumpuser_resume,
    rumpuser_trap_state_save,
};

use super::{
    context::{self, Context, FLOAT_LENGTH, FloatState, Stack},
    lwp::{Lwp, current, failed},
    memory,
    signal::{self, Action, Information},
};
use crate::{
    errno::{EINVAL, ENOMEM, EPERM},
    thread::{errno, set_errno},
    weak::alias,
};

/// `SA_ONSTACK`, `SA_NODEFER`.
const ON_STACK: c_int = 0x1;
const NO_DEFER: c_int = 0x10;
/// `SS_ONSTACK`, `SS_DISABLE`.
const IN_USE: c_int = 1;
const DISABLED: c_int = 4;
/// `MINSIGSTKSZ`.
const MINIMUM: usize = 8192;
/// What code may use below its stack pointer.
const RED_ZONE: usize = 128;
/// RFLAGS: single steps, backwards.
const STEP: u64 = 1 << 8;
const BACKWARDS: u64 = 1 << 10;

/// Why a signal comes. Of those that were sent see [`super::sender`].
#[derive(Default)]
pub struct Cause {
    pub number: usize,
    pub code: c_int,
    /// The address accessed, or of the instruction; of what was sent, the process.
    pub address: usize,
    /// The trap's number (`<machine/trap.h>`).
    pub kind: c_int,
    /// As the processor says.
    pub error: u64,
}

/// What stands on the stack while a handler runs: where it returns to, what it is told, and what comes back then. Behind
/// it is the extended state.
#[repr(C, align(16))]
struct Frame {
    padding: u64,
    back: usize,
    information: Information,
    context: Context,
    state_length: usize,
    error: c_int,
}

/// How far a frame's first argument, which the stack pointer points to when the handler has returned, is into it.
const BEHIND: usize = 16;
const _: () =
    assert!(size_of::<Frame>().is_multiple_of(16) && core::mem::offset_of!(Frame, information) == BEHIND);

impl Lwp {
    /// The stack for handlers, and whether a stack pointer is in it.
    pub fn stack(&self, pointer: usize) -> Stack {
        // SAFETY: the thread's own.
        let mut stack = unsafe { *self.alternate.get() };
        if stack.size == 0 {
            stack.flags = DISABLED;
        } else if (stack.base..stack.base + stack.size).contains(&pointer) {
            stack.flags = IN_USE;
        }
        stack
    }

    /// Where the stack of a handler begins, if it isn't to be the present one.
    fn other_stack(&self, action: &Action, pointer: usize) -> Option<usize> {
        let stack = self.stack(pointer);
        (action.flags() & ON_STACK != 0 && stack.flags == 0).then_some(stack.base + stack.size)
    }

    /// Holds off what the action says; returns what was held off before.
    fn hold_for(&self, action: &Action, number: usize) -> u64 {
        let own = if action.flags() & NO_DEFER != 0 { 0 } else { 1 << number };
        self.blocked[0].fetch_or(action.mask().bits() & !signal::UNSTOPPABLE | own, Ordering::SeqCst)
    }
}

/// Has what trapped go on with a handler; returns false if there is no memory for its frame.
pub fn enter(lwp: &Lwp, trap: &mut MachineTrap, action: &Action, cause: &Cause) -> bool {
    let registers = trap.context.registers;
    let present = registers.rsp as usize;
    let top = lwp.other_stack(action, present).unwrap_or_else(|| present.wrapping_sub(RED_ZONE));
    let mut state = vec![0; rumpuser_trap_state_save(&trap.context, &mut [])];
    let place = top.wrapping_sub(size_of::<Frame>() + state.len()) & !15;
    rumpuser_trap_state_save(&trap.context, &mut state);
    let mut frame = Frame {
        padding: 0,
        back: returned as *const () as usize,
        information: Information::of(cause),
        context: Context {
            flags: context::MASK | context::STACK | context::GENERAL | context::FLOAT,
            stack: lwp.stack(present),
            ..Context::default()
        },
        state_length: state.len(),
        error: errno(),
    };
    frame.context.machine.set_registers(&registers);
    frame.context.machine.set_trap(cause.kind as u64, cause.error);
    if let Some(float) = state.get(..FLOAT_LENGTH) {
        frame.context.machine.float.copy_from_slice(float);
    }
    frame.context.mask = signal::SignalSet::of(lwp.blocked[0].load(Ordering::SeqCst));
    let pieces = [
        ((&raw const frame) as usize, place, size_of::<Frame>()),
        (state.as_ptr() as usize, place.wrapping_add(size_of::<Frame>()), state.len()),
    ];
    for (source, destination, length) in pieces {
        if rumpuser_copy_guarded(source, destination, length) != 0 {
            return false;
        }
    }
    lwp.hold_for(action, cause.number);
    let to = &mut trap.context.registers;
    to.rip = action.handler() as u64;
    to.rsp = (place + BEHIND - 8) as u64;
    to.rdi = cause.number as u64;
    to.rsi = (place + BEHIND) as u64;
    to.rdx = (place + core::mem::offset_of!(Frame, context)) as u64;
    to.rflags &= !(STEP | BACKWARDS);
    true
}

/// Where such a handler returns to.
#[unsafe(naked)]
unsafe extern "C" fn returned() {
    naked_asm!("lea rdi, [rsp - {behind}]", "call {go_on}", "ud2", behind = const BEHIND, go_on = sym go_on)
}

/// Goes on with what a handler interrupted, as it left the context.
unsafe extern "C" fn go_on(frame: *const Frame) -> ! {
    // SAFETY: `enter` wrote the frame and, behind it, the state; it is the thread's own, and the handler's to change.
    let (context, area) = unsafe {
        let length = (*frame).state_length;
        let state = core::slice::from_raw_parts_mut(frame.add(1).cast::<u8>().cast_mut(), length);
        if let Some(float) = state.get_mut(..FLOAT_LENGTH) {
            float.copy_from_slice(&(*frame).context.machine.float);
        }
        (&(*frame).context, state)
    };
    if let Some(lwp) = current() {
        lwp.hold(context.mask);
        signal::deliver(lwp);
    }
    // SAFETY: as above.
    set_errno(unsafe { (*frame).error });
    let registers = context.machine.registers();
    rumpuser_resume(&UserContext { registers, vectors: VectorRegisters([0; 16]) }, area)
}

/// Runs a handler in a call of the thread's.
pub fn call(lwp: &Lwp, action: &Action, cause: &Cause) {
    let mut information = Information::of(cause);
    let here = (&raw const information) as usize;
    let (float, error) = (FloatState::here(), errno());
    let mut context = Context {
        flags: context::MASK | context::STACK | context::FLOAT,
        stack: lwp.stack(here),
        mask: signal::SignalSet::of(lwp.hold_for(action, cause.number)),
        ..Context::default()
    };
    context.machine.float = float.0;
    FloatState::reset();
    let top = lwp.other_stack(action, here).unwrap_or(0) & !15;
    // SAFETY: the program gave a function of this kind, or one that looks at its first argument only; the stack is the
    // program's, for this.
    unsafe {
        call_on(
            cause.number as c_int,
            (&raw mut information).cast(),
            (&raw mut context).cast(),
            action.handler(),
            top,
        );
    }
    float.restore();
    set_errno(error);
    lwp.hold(context.mask);
}

/// Calls `handler` with the first three arguments; on the stack that ends at `top` unless that is 0.
#[unsafe(naked)]
unsafe extern "sysv64" fn call_on(
    _number: c_int,
    _information: *mut c_void,
    _context: *mut c_void,
    _handler: usize,
    _top: usize,
) {
    naked_asm!(
        "push rbp",
        "mov rbp, rsp",
        "test r8, r8",
        "jz 2f",
        "mov rsp, r8",
        "2: call rcx",
        "mov rsp, rbp",
        "pop rbp",
        "ret",
    )
}

/// # Safety
/// `new` and `old` are null or stacks.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn __sigaltstack14(new: *const Stack, old: *mut Stack) -> c_int {
    let Some(lwp) = current() else { return failed(EINVAL) };
    let here = 0u8;
    let present = lwp.stack((&raw const here) as usize);
    // SAFETY: the caller's promise.
    let (new, old) = unsafe { (new.as_ref().copied(), old.as_mut()) };
    if let Some(new) = new {
        if present.flags == IN_USE {
            return failed(EPERM);
        }
        if new.flags & !DISABLED != 0 {
            return failed(EINVAL);
        }
        let stack = match new.flags {
            DISABLED => Stack::default(),
            _ if new.size < MINIMUM => return failed(ENOMEM),
            _ if new.base.checked_add(new.size).is_none() => return failed(EINVAL),
            _ => Stack { flags: 0, ..new },
        };
        // It is for a thread that may have no other: the kernel uses it, too.
        if memory::touch(stack.base..stack.base + stack.size.next_multiple_of(PAGE_SIZE)).is_err() {
            return failed(ENOMEM);
        }
        // SAFETY: the thread's own.
        unsafe { *lwp.alternate.get() = stack };
    }
    if let Some(old) = old {
        *old = present;
    }
    0
}

alias! {
    sigaltstack = __sigaltstack14;
}
