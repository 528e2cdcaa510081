//! Signals, as far as one address space allows: a handler runs in the thread that the signal is for, when it makes a call
//! or sleeps ([`super::deliver`]), or at an interrupt of what it computes ([`super::trap`]).

use core::{
    ffi::{c_int, c_void},
    sync::atomic::{AtomicU64, Ordering},
};

use rumpuser::{
    rumpuser_clear_interrupt, rumpuser_clock_monotonic, rumpuser_interrupted, rumpuser_park, sync::SpinLock,
};

use super::{
    deliver::{self, Cause},
    lwp::{self, Lwp, TimeSpec, current, failed, monotonic_deadline},
    process,
    sender::{self, Sender, Senders},
};
use crate::{
    errno::{EAGAIN, EINTR, EINVAL, ERESTART, ESRCH, Errno},
    weak::alias,
};

/// Signals are numbered 1 to 63 (`NSIG` is 64).
const LIMIT: usize = 64;
/// `SIG_DFL` and `SIG_IGN`.
pub const DEFAULT: usize = 0;
pub const IGNORE: usize = 1;
/// `SIGKILL` and `SIGSTOP`, which can't be caught or held off.
pub const UNSTOPPABLE: u64 = 1 << 9 | 1 << 17;
/// Signals that are ignored by default: URG, CONT, CHLD, IO, WINCH, INFO, PWR, and those that stop (STOP, TSTP, TTIN,
/// TTOU).
const IGNORED: u64 = 1 << 16
    | 1 << 19
    | 1 << 20
    | 1 << 23
    | 1 << 28
    | 1 << 29
    | 1 << 32
    | 1 << 17
    | 1 << 18
    | 1 << 21
    | 1 << 22;
/// `SA_RESTART`, `SA_RESETHAND`.
const RESTART: c_int = 0x2;
const ONCE: c_int = 0x4;

/// `sigset_t`: 128 bits, signal 1 first.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct SignalSet([u32; 4]);

impl SignalSet {
    /// A bit for each signal, at its number.
    pub fn bits(self) -> u64 {
        (u64::from(self.0[0]) | u64::from(self.0[1]) << 32) << 1
    }

    /// The set of these bits.
    pub fn of(bits: u64) -> Self {
        let bits = bits >> 1;
        SignalSet([bits as u32, (bits >> 32) as u32, 0, 0])
    }
}

/// `struct sigaction`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Action {
    handler: usize,
    mask: SignalSet,
    flags: c_int,
}

/// `siginfo_t`: number, code, error; of a trap the address and the trap's number, of what was sent the process and the user in
/// the address's place; and padding to its size.
#[repr(C)]
pub struct Information {
    number: c_int,
    code: c_int,
    error: c_int,
    address: usize,
    trap: c_int,
    rest: [c_int; 25],
}

const _: () = assert!(size_of::<Information>() == 128);

impl Information {
    /// What a handler is told.
    pub fn of(cause: &Cause) -> Self {
        let number = cause.number as c_int;
        Information {
            number,
            code: cause.code,
            error: 0,
            address: cause.address,
            trap: cause.kind,
            rest: [0; 25],
        }
    }
}

const NONE: Action = Action { handler: DEFAULT, mask: SignalSet([0; 4]), flags: 0 };
static ACTIONS: SpinLock<[Action; LIMIT]> = SpinLock::new([NONE; LIMIT]);
/// Signals for a program as a whole, for the next of its threads that looks. Programs after the last share its place.
static PENDING: [AtomicU64; 16] = [const { AtomicU64::new(0) }; 16];

/// Who sent a program's, and its threads'.
static SENDERS: [Senders<LIMIT>; PENDING.len()] = [const { Senders::new() }; PENDING.len()];

/// The place of a program, by its number.
fn shared(program: usize) -> &'static AtomicU64 {
    &PENDING[program.min(PENDING.len() - 1)]
}

fn senders(program: usize) -> &'static Senders<LIMIT> {
    &SENDERS[program.min(SENDERS.len() - 1)]
}

/// Why a signal that was taken came.
pub fn cause(lwp: &Lwp, number: usize) -> Cause {
    senders(lwp.program.load(Ordering::Relaxed)).cause(number)
}

impl Lwp {
    /// Signals for all of its program.
    fn shared(&self) -> &'static AtomicU64 {
        shared(self.program.load(Ordering::Relaxed))
    }
}

impl Action {
    /// The function, or [`DEFAULT`] or [`IGNORE`].
    pub fn handler(&self) -> usize {
        self.handler
    }

    /// What it holds off.
    pub fn mask(&self) -> SignalSet {
        self.mask
    }

    /// `SA_*`.
    pub fn flags(&self) -> c_int {
        self.flags
    }

    /// Whether the signal with this action and number is as good as not sent.
    pub fn ignores(&self, number: usize) -> bool {
        self.handler == IGNORE || self.handler == DEFAULT && IGNORED & 1 << number != 0
    }
}

/// A new thread holds off what its parent does.
pub fn inherit(parent: &Lwp, child: &Lwp) {
    child.blocked[0].store(parent.blocked[0].load(Ordering::Relaxed), Ordering::Relaxed);
}

/// Sends a signal to a thread; 0 asks whether it is there.
pub fn send(lwp: &Lwp, signal: c_int) -> Errno {
    match usize::try_from(signal) {
        Ok(0) => 0,
        Ok(number) if number < LIMIT => {
            senders(lwp.program.load(Ordering::Relaxed)).note(number, Sender::caller(sender::THREAD));
            lwp.pending[0].fetch_or(1 << number, Ordering::SeqCst);
            if current().is_some_and(|me| me.id == lwp.id) {
                deliver(lwp);
            } else {
                lwp.interrupt();
            }
            0
        }
        _ => EINVAL,
    }
}

/// Sends a signal to a program; which of its threads gets it is seen when they wake. It runs no handlers.
pub fn send_to_program(program: usize, signal: c_int, sender: Sender) -> Errno {
    match usize::try_from(signal) {
        Ok(0) => 0,
        Ok(number) if number < LIMIT => {
            senders(program).note(number, sender);
            shared(program).fetch_or(1 << number, Ordering::SeqCst);
            lwp::interrupt_program(program);
            0
        }
        _ => EINVAL,
    }
}

/// How a signal ends a sleep in the kernel, if one waits for the thread that does more than be ignored: the signal is this
/// thread's from then on.
pub fn interruption(lwp: &Lwp) -> Option<Errno> {
    loop {
        let open = !lwp.blocked[0].load(Ordering::SeqCst);
        let own = lwp.pending[0].load(Ordering::SeqCst) & open;
        let present = own | lwp.shared().load(Ordering::SeqCst) & open;
        if present == 0 {
            return None;
        }
        let number = present.trailing_zeros() as usize;
        let bit = 1 << number;
        let action = action(number, false);
        let from = if own & bit != 0 { &lwp.pending[0] } else { lwp.shared() };
        // Another thread of the program may have been faster.
        let taken = from.fetch_and(!bit, Ordering::SeqCst) & bit != 0;
        if taken && !action.ignores(number) {
            lwp.pending[0].fetch_or(bit, Ordering::SeqCst);
            return Some(if action.flags & RESTART != 0 { ERESTART } else { EINTR });
        }
    }
}

/// Takes the first signal of `wanted` that waits for the thread.
fn take(lwp: &Lwp, wanted: u64) -> Option<usize> {
    for set in [&lwp.pending[0], lwp.shared()] {
        let present = set.load(Ordering::SeqCst) & wanted;
        if present != 0 {
            let number = present.trailing_zeros() as usize;
            if set.fetch_and(!(1 << number), Ordering::SeqCst) & 1 << number != 0 {
                return Some(number);
            }
        }
    }
    None
}

/// Handles the signals that wait for the calling thread and aren't held off; returns whether a handler ran.
pub fn deliver(lwp: &Lwp) -> bool {
    // First, as what is sent is noted before the thread is asked to look.
    if rumpuser_interrupted() {
        rumpuser_clear_interrupt();
    }
    let mut ran = false;
    while let Some(number) = take_open(lwp) {
        ran |= handle(lwp, number);
    }
    ran
}

/// Takes the first signal that waits for the thread and isn't held off.
pub fn take_open(lwp: &Lwp) -> Option<usize> {
    take(lwp, !lwp.blocked[0].load(Ordering::SeqCst))
}

/// The action of a signal, which if it `comes` may be for once.
pub fn action(number: usize, comes: bool) -> Action {
    let mut actions = ACTIONS.lock();
    let action = actions[number];
    if comes && action.flags & ONCE != 0 {
        actions[number] = NONE;
    }
    action
}

fn handle(lwp: &Lwp, number: usize) -> bool {
    let action = action(number, true);
    match action.handler {
        _ if action.ignores(number) => false,
        DEFAULT => process::end_by_signal(number as u8),
        _ => {
            deliver::call(lwp, &action, &cause(lwp, number));
            true
        }
    }
}

/// # Safety
/// `new` and `old` are null or actions.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn __sigaction14(signal: c_int, new: *const Action, old: *mut Action) -> c_int {
    let Some(number) = usize::try_from(signal).ok().filter(|number| (1..LIMIT).contains(number)) else {
        return failed(EINVAL);
    };
    let mut actions = ACTIONS.lock();
    // SAFETY: the caller's promise.
    unsafe {
        if !old.is_null() {
            *old = actions[number];
        }
        if !new.is_null() {
            if UNSTOPPABLE & 1 << number != 0 {
                drop(actions);
                return failed(EINVAL);
            }
            actions[number] = *new;
        }
    }
    0
}

/// # Safety
/// As [`__sigaction14`].
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn __sigaction_sigtramp(
    signal: c_int,
    new: *const Action,
    old: *mut Action,
    _trampoline: *const c_void,
    _version: c_int,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { __sigaction14(signal, new, old) }
}

/// # Safety
/// `new` and `old` are null or sets.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn _sys___sigprocmask14(
    how: c_int,
    new: *const SignalSet,
    old: *mut SignalSet,
) -> c_int {
    let Some(lwp) = current() else { return failed(EINVAL) };
    let before = lwp.blocked[0].load(Ordering::SeqCst);
    // SAFETY: the caller's promise.
    unsafe {
        if !old.is_null() {
            *old = SignalSet::of(before);
        }
        if !new.is_null() {
            let bits = (*new).bits();
            let after = match how {
                1 => before | bits,
                2 => before & !bits,
                3 => bits,
                _ => return failed(EINVAL),
            };
            lwp.blocked[0].store(after & !UNSTOPPABLE, Ordering::SeqCst);
            deliver(lwp);
        }
    }
    0
}

alias! {
    __sigprocmask14 = _sys___sigprocmask14;
    sigprocmask = _sys___sigprocmask14;
    sigaction = __sigaction14;
    sigpending = __sigpending14;
    __sigsuspend14 = _sys___sigsuspend14;
}

/// # Safety
/// `place` is one for a set.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn __sigpending14(place: *mut SignalSet) -> c_int {
    let Some(lwp) = current() else { return failed(EINVAL) };
    let pending = lwp.pending[0].load(Ordering::SeqCst) | lwp.shared().load(Ordering::SeqCst);
    // SAFETY: the caller's promise.
    unsafe { *place = SignalSet::of(pending & lwp.blocked[0].load(Ordering::SeqCst)) };
    0
}

/// # Safety
/// `mask` is a set.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn _sys___sigsuspend14(mask: *const SignalSet) -> c_int {
    let Some(lwp) = current() else { return failed(EINVAL) };
    // SAFETY: the caller's promise.
    let mask = unsafe { (*mask).bits() } & !UNSTOPPABLE;
    let before = lwp.blocked[0].swap(mask, Ordering::SeqCst);
    while !deliver(lwp) {
        rumpuser_park(rumpuser::NEVER);
    }
    lwp.blocked[0].store(before, Ordering::SeqCst);
    failed(EINTR)
}

/// # Safety
/// `set` is a set, `information` null or a place for a `siginfo_t`, `time` null or a time.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn ____sigtimedwait50(
    set: *const SignalSet,
    information: *mut c_void,
    time: *mut TimeSpec,
) -> c_int {
    let Some(lwp) = current() else { return failed(EINVAL) };
    // SAFETY: the caller's promise.
    let (wanted, deadline) = unsafe {
        let deadline = time.as_ref().map_or(rumpuser::NEVER, |time| monotonic_deadline(3, false, *time));
        ((*set).bits(), deadline)
    };
    loop {
        if let Some(number) = take(lwp, wanted) {
            if !information.is_null() {
                let found = Information::of(&cause(lwp, number));
                // SAFETY: the caller's promise.
                unsafe { information.cast::<Information>().write(found) };
            }
            return number as c_int;
        }
        if deliver(lwp) {
            return failed(EINTR);
        }
        if rumpuser_clock_monotonic() >= deadline {
            return failed(EAGAIN);
        }
        rumpuser_park(deadline);
    }
}

/// Sends a signal to a process, which is a program; groups of them have none but the caller's.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn kill(process: c_int, signal: c_int) -> c_int {
    send_to_process(process, signal, Sender::caller(sender::USER))
}

fn send_to_process(process: c_int, signal: c_int, sender: Sender) -> c_int {
    let Some(lwp) = current() else { return failed(ESRCH) };
    let own = process <= 0 || process == process::getpid_of_caller();
    let program = if own { Some(lwp.program.load(Ordering::Relaxed)) } else { process::with_pid(process) };
    let Some(program) = program else { return failed(ESRCH) };
    match send_to_program(program, signal, sender) {
        0 => {
            deliver(lwp);
            0
        }
        error => failed(error),
    }
}

/// Sends a signal to a process. The value that comes with it is lost.
///
/// # Safety
/// `information` is null or a `siginfo_t`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn sigqueueinfo(process: c_int, information: *const c_int) -> c_int {
    if information.is_null() {
        return failed(EINVAL);
    }
    // SAFETY: a `siginfo_t` begins with the number.
    send_to_process(process, unsafe { *information }, Sender::caller(sender::QUEUE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_signals_at_their_numbers() {
        let set = SignalSet([1 << 1 | 1 << 14, 1 << 30, 0, 0]);
        assert_eq!(set.bits(), 1 << 2 | 1 << 15 | 1 << 63);
        assert_eq!(SignalSet::of(set.bits()).0, set.0);
    }
}
