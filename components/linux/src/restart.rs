//! What becomes of a system call that a signal interrupted: it fails with EINTR, or it runs again.
//!
//! Handlers of system calls only ever say EINTR. What follows depends on the call and on whether the program's
//! handler ran, as signal(7) has it. A call that is restarted without a handler keeps its deadline, see
//! [`Task::deadline_after`].

use core::sync::atomic::Ordering;

use linux_raw_sys::general::*;
use rumpkern::Errno;

use crate::{signal::Action, task::Task};

/// A system call that gave EINTR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interrupted {
    /// Its number.
    pub number: u64,
}

/// Bytes in the `syscall` instruction.
const INSTRUCTION: u64 = 2;

/// How a call behaves when interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    /// Restarted if the handler has SA_RESTART, or if none ran.
    AsAsked,
    /// Restarted only if no handler ran.
    WithoutHandler,
    /// Never restarted.
    Never,
}

#[allow(non_upper_case_globals, reason = "the names are the kernel headers' own")]
fn policy(number: u64) -> Policy {
    match number as u32 {
        __NR_poll | __NR_ppoll | __NR_select | __NR_pselect6 | __NR_nanosleep | __NR_clock_nanosleep
        | __NR_pause | __NR_rt_sigsuspend => Policy::WithoutHandler,
        __NR_epoll_wait | __NR_epoll_pwait | __NR_epoll_pwait2 | __NR_rt_sigtimedwait | __NR_semop
        | __NR_semtimedop | __NR_msgsnd | __NR_msgrcv | __NR_io_getevents | __NR_restart_syscall => {
            Policy::Never
        }
        _ => Policy::AsAsked,
    }
}

/// A handler is about to run: it sees EINTR, or the call runs again when it returns.
pub fn before_handler(task: &Task, call: Interrupted, action: &Action) {
    if policy(call.number) == Policy::AsAsked && action.flags & Action::RESTART != 0 {
        rewind(task, call);
    } else {
        fail(task);
    }
}

/// No handler runs. `disturbed`: a signal was there all the same, or the process was stopped; otherwise somebody else
/// took what interrupted the call, and the program must not notice.
pub fn without_handler(task: &Task, call: Interrupted, disturbed: bool) {
    let asked_for = call.number == u64::from(__NR_restart_syscall);
    if policy(call.number) == Policy::Never && (disturbed || asked_for) {
        fail(task);
    } else {
        task.restarting.store(true, Ordering::Relaxed);
        rewind(task, call);
    }
}

fn fail(task: &Task) {
    task.with_context(|context| context.registers.rax = i64::from(-Errno::EINTR.code()) as u64);
}

fn rewind(task: &Task, call: Interrupted) {
    task.with_context(|context| {
        context.registers.rax = call.number;
        context.registers.rip = context.registers.rip.wrapping_sub(INSTRUCTION);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_those_of_signal_7() {
        assert_eq!(policy(u64::from(__NR_read)), Policy::AsAsked);
        assert_eq!(policy(u64::from(__NR_futex)), Policy::AsAsked);
        assert_eq!(policy(u64::from(__NR_poll)), Policy::WithoutHandler);
        assert_eq!(policy(u64::from(__NR_epoll_wait)), Policy::Never);
    }
}
