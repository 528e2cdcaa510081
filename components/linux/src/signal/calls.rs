//! System calls: signals.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use rumpkern::{Errno, Result, wait::WaitError};
use rumpuser::{NEVER, rumpuser_clock_monotonic, rumpuser_interrupted, rumpuser_park};

use super::{
    Action, SignalInfo, SignalSet, deliver,
    frame::{self, StackT},
    number::*,
    send,
};
use crate::{
    process::Process,
    registry,
    task::{AlternateStack, Task},
    user::{Timespec, UserPtr},
};

/// Bytes in the kernel's `sigset_t`, which calls must give.
const SET_SIZE: usize = 8;
/// Less stack than this is refused by sigaltstack (MINSIGSTKSZ).
const STACK_MINIMUM: usize = 2048;

fn check_size(size: usize) -> Result<()> {
    if size == SET_SIZE { Ok(()) } else { Err(Errno::EINVAL) }
}

fn check_signal(signal: i32) -> Result<Option<u32>> {
    match signal {
        0 => Ok(None),
        1..=64 => Ok(Some(signal as u32)),
        _ => Err(Errno::EINVAL),
    }
}

/// rt_sigaction(2).
pub fn rt_sigaction(
    task: &Task,
    signal: i32,
    new: UserPtr<Action>,
    old: UserPtr<Action>,
    size: usize,
) -> Result<usize> {
    check_size(size)?;
    let signal = check_signal(signal)?.ok_or(Errno::EINVAL)?;
    let process = task.process();
    let actions = process.actions();
    let before = if new.is_null() {
        actions.get(signal)
    } else {
        let mut action = new.read()?;
        if SignalSet::UNBLOCKABLE.contains(signal) {
            return Err(Errno::EINVAL);
        }
        action.flags &= Action::SUPPORTED;
        action.mask = action.mask.minus(SignalSet::UNBLOCKABLE);
        let before = actions.set(signal, action);
        if actions.ignores(signal) {
            let set = SignalSet::EMPTY.with(signal);
            process.pending.lock().discard(set);
            for task in process.tasks() {
                task.signals.lock().pending.discard(set);
            }
        }
        before
    };
    old.write_if_wanted(&before)?;
    Ok(0)
}

/// rt_sigprocmask(2).
pub fn rt_sigprocmask(
    task: &Task,
    how: i32,
    new: UserPtr<SignalSet>,
    old: UserPtr<SignalSet>,
    size: usize,
) -> Result<usize> {
    check_size(size)?;
    let before = task.mask();
    if !new.is_null() {
        let set = new.read()?;
        let mask = match how {
            0 => before.or(set),
            1 => before.minus(set),
            2 => set,
            _ => return Err(Errno::EINVAL),
        };
        deliver::set_mask(task, mask);
    }
    old.write_if_wanted(&before)?;
    Ok(0)
}

/// rt_sigpending(2).
pub fn rt_sigpending(task: &Task, result: UserPtr<SignalSet>, size: usize) -> Result<usize> {
    if size > SET_SIZE {
        return Err(Errno::EINVAL);
    }
    let set = deliver::pending(task).and(task.mask());
    crate::user::write_bytes(result.address(), &set.0.to_le_bytes()[..size])?;
    Ok(0)
}

/// Replaces the mask until the call that runs has ended: ppoll, pselect, epoll_pwait, sigsuspend. A handler that
/// interrupts the call brings the old mask back when it returns; otherwise [`end_temporary_mask`] does.
pub fn set_temporary_mask(task: &Task, mask: SignalSet) {
    let old = task.mask();
    {
        let mut signals = task.signals.lock();
        // A restarted call finds its mask in place.
        signals.saved_mask.get_or_insert(old);
    }
    deliver::set_mask(task, mask);
}

/// Brings back the mask after a call that was not interrupted. After EINTR the run loop does it.
pub fn end_temporary_mask(task: &Task) {
    let saved = task.signals.lock().saved_mask.take();
    if let Some(mask) = saved {
        deliver::set_mask(task, mask);
    }
}

/// rt_sigsuspend(2).
pub fn rt_sigsuspend(task: &Task, mask: UserPtr<SignalSet>, size: usize) -> Result<usize> {
    check_size(size)?;
    set_temporary_mask(task, mask.read()?);
    pause(task)
}

/// pause(2).
pub fn pause(_task: &Task) -> Result<usize> {
    while !rumpuser_interrupted() {
        rumpuser_park(NEVER);
    }
    Err(Errno::EINTR)
}

/// rt_sigtimedwait(2).
pub fn rt_sigtimedwait(
    task: &Task,
    set: UserPtr<SignalSet>,
    info: UserPtr<[u8; 128]>,
    timeout: UserPtr<Timespec>,
    size: usize,
) -> Result<usize> {
    check_size(size)?;
    let wanted = set.read()?.minus(SignalSet::UNBLOCKABLE);
    let deadline = match timeout.non_null() {
        Some(timeout) => task.deadline_after(timeout.read()?.to_nanoseconds()?),
        None => NEVER,
    };
    let taken = await_signal(task, wanted, deadline).map_err(|error| match error {
        WaitError::TimedOut => Errno::EAGAIN,
        WaitError::Interrupted => Errno::EINTR,
    })?;
    info.write_if_wanted(&taken.to_bytes())?;
    Ok(taken.signal as usize)
}

/// Waits for a signal of `wanted`, blocked or not.
fn await_signal(
    task: &Task,
    wanted: SignalSet,
    deadline: u64,
) -> core::result::Result<SignalInfo, WaitError> {
    task.awaited.store(wanted.0, Ordering::SeqCst);
    let result = loop {
        // The sender of an awaited signal interrupts: the flag says only that something came.
        let interrupted = rumpuser_interrupted();
        if interrupted {
            rumpuser::rumpuser_clear_interrupt();
        }
        if let Some(info) = deliver::take(task, wanted) {
            break Ok(info);
        }
        let other = deliver::pending(task).minus(task.mask());
        if !other.is_empty()
            || task.dying.load(Ordering::Acquire)
            || task.process().job.lock().stopped_by != 0
        {
            break Err(WaitError::Interrupted);
        }
        if deadline != NEVER && rumpuser_clock_monotonic() >= deadline {
            break Err(WaitError::TimedOut);
        }
        if !interrupted {
            rumpuser_park(deadline);
        }
    };
    task.awaited.store(0, Ordering::SeqCst);
    // What was cleared above may still have to be looked at.
    task.interrupt();
    result
}

/// rt_sigreturn(2).
pub fn rt_sigreturn(task: &Task) -> Result<usize> {
    match task.with_context(frame::leave) {
        Ok((mask, stack)) => {
            // As Linux: what is wrong with the frame's stack is no reason to fail.
            let _ = change_stack(task, &stack);
            deliver::set_mask(task, mask);
            Ok(task.with_context(|context| context.registers.rax) as usize)
        }
        Err(_) => {
            send::force(task, SignalInfo::kernel(SIGSEGV));
            Ok(0)
        }
    }
}

fn change_stack(task: &Task, new: &StackT) -> Result<()> {
    let sp = task.with_context(|context| context.registers.rsp) as usize;
    let mut signals = task.signals.lock();
    let current = signals.stack;
    let auto = new.flags & frame::SS_AUTODISARM;
    let wanted = match new.flags & !frame::SS_AUTODISARM {
        frame::SS_DISABLE => AlternateStack::DISABLED,
        0 | frame::SS_ONSTACK => AlternateStack { base: new.base, size: new.size, flags: auto },
        _ => return Err(Errno::EINVAL),
    };
    if wanted == current {
        return Ok(());
    }
    if frame::stack_in_use(&current, sp) {
        return Err(Errno::EPERM);
    }
    if wanted.size != 0 && wanted.size < STACK_MINIMUM {
        return Err(Errno::ENOMEM);
    }
    signals.stack = wanted;
    Ok(())
}

/// sigaltstack(2).
pub fn sigaltstack(task: &Task, new: UserPtr<StackT>, old: UserPtr<StackT>) -> Result<usize> {
    let sp = task.with_context(|context| context.registers.rsp) as usize;
    let before = frame::report_stack(&task.signals.lock().stack, sp);
    if !new.is_null() {
        change_stack(task, &new.read()?)?;
    }
    old.write_if_wanted(&before)?;
    Ok(0)
}

fn from_user(task: &Task, signal: u32, code: i32) -> SignalInfo {
    SignalInfo::user(signal, code, task.process().pid(), task.credentials().uid)
}

fn kill_process(task: &Task, process: &Arc<Process>, signal: Option<u32>) -> Result<()> {
    if !send::permitted(task, process, signal.unwrap_or(0)) {
        return Err(Errno::EPERM);
    }
    if let Some(signal) = signal {
        send::to_process(process, from_user(task, signal, SignalInfo::SI_USER));
    }
    Ok(())
}

/// kill(2).
pub fn kill(task: &Task, pid: i32, signal: i32) -> Result<usize> {
    let signal = check_signal(signal)?;
    let group = match pid {
        1.. => {
            let process = registry::process(pid)
                .or_else(|| registry::task(pid).map(|task| task.process().clone()))
                .ok_or(Errno::ESRCH)?;
            return kill_process(task, &process, signal).map(|()| 0);
        }
        0 => Some(task.process().group()),
        -1 => None,
        i32::MIN => return Err(Errno::ESRCH),
        _ => Some(-pid),
    };
    let targets = match group {
        Some(group) => registry::group(group),
        None => registry::processes()
            .into_iter()
            .filter(|process| process.pid() != 1 && !Arc::ptr_eq(process, task.process()))
            .collect(),
    };
    let mut result = Err(Errno::ESRCH);
    for process in targets {
        match kill_process(task, &process, signal) {
            Ok(()) => result = Ok(0),
            Err(error) if result.is_err() => result = Err(error),
            Err(_) => {}
        }
    }
    result
}

fn kill_task(task: &Task, group: Option<i32>, tid: i32, info: Option<SignalInfo>) -> Result<usize> {
    let target = registry::task(tid).ok_or(Errno::ESRCH)?;
    if group.is_some_and(|group| target.process().pid() != group) {
        return Err(Errno::ESRCH);
    }
    if !send::permitted(task, target.process(), info.map_or(0, |info| info.signal)) {
        return Err(Errno::EPERM);
    }
    match info {
        Some(info) if !send::to_task(&target, info) && info.code != SignalInfo::SI_TKILL => {
            Err(Errno::EAGAIN)
        }
        _ => Ok(0),
    }
}

/// tkill(2).
pub fn tkill(task: &Task, tid: i32, signal: i32) -> Result<usize> {
    if tid <= 0 {
        return Err(Errno::EINVAL);
    }
    let info = check_signal(signal)?.map(|signal| from_user(task, signal, SignalInfo::SI_TKILL));
    kill_task(task, None, tid, info)
}

/// tgkill(2).
pub fn tgkill(task: &Task, group: i32, tid: i32, signal: i32) -> Result<usize> {
    if tid <= 0 || group <= 0 {
        return Err(Errno::EINVAL);
    }
    let info = check_signal(signal)?.map(|signal| from_user(task, signal, SignalInfo::SI_TKILL));
    kill_task(task, Some(group), tid, info)
}

/// The information that a program gives; it may claim to be the kernel, or kill, only to itself.
pub(crate) fn read_info(
    task: &Task,
    target: i32,
    signal: i32,
    info: UserPtr<SignalInfo>,
) -> Result<Option<SignalInfo>> {
    let mut info = info.read()?;
    let Some(signal) = check_signal(signal)? else { return Ok(None) };
    if (info.code >= 0 || info.code == SignalInfo::SI_TKILL) && target != task.process().pid() {
        return Err(Errno::EPERM);
    }
    info.signal = signal;
    info.padding = 0;
    Ok(Some(info))
}

/// rt_sigqueueinfo(2).
pub fn rt_sigqueueinfo(task: &Task, pid: i32, signal: i32, info: UserPtr<SignalInfo>) -> Result<usize> {
    let info = read_info(task, pid, signal, info)?;
    let process = registry::process(pid).ok_or(Errno::ESRCH)?;
    queue_to(task, &process, info)
}

/// Queues a program's signal to a process.
pub(crate) fn queue_to(task: &Task, process: &Arc<Process>, info: Option<SignalInfo>) -> Result<usize> {
    if !send::permitted(task, process, info.map_or(0, |info| info.signal)) {
        return Err(Errno::EPERM);
    }
    match info {
        Some(info) if !send::to_process(process, info) => Err(Errno::EAGAIN),
        _ => Ok(0),
    }
}

/// rt_tgsigqueueinfo(2).
pub fn rt_tgsigqueueinfo(
    task: &Task,
    group: i32,
    tid: i32,
    signal: i32,
    info: UserPtr<SignalInfo>,
) -> Result<usize> {
    if tid <= 0 || group <= 0 {
        return Err(Errno::EINVAL);
    }
    let info = read_info(task, group, signal, info)?;
    kill_task(task, Some(group), tid, info)
}

/// restart_syscall(2): calls are restarted under their own numbers, so nobody comes here but by mistake.
pub fn restart_syscall(_task: &Task) -> Result<usize> {
    Err(Errno::EINTR)
}
