//! The run loop of a task: user code, its traps, its end.
#![allow(unsafe_code, reason = "binds a task to the thread that runs it")]

use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::sync::atomic::Ordering;

use rumpkern::{Errno, Result};
use rumpuser::{
    CpuSet, ThreadSpec, Trap, rumpuser_extended_state_load, rumpuser_pmap_activate,
    rumpuser_set_constant_call, rumpuser_thread_create, rumpuser_thread_current, rumpuser_user_execute,
};

use crate::{
    exit, faults, oom,
    restart::Interrupted,
    signal::{deliver, frame::TrapDetails},
    statistics, table,
    task::Task,
    trace,
};

/// Starts a thread for a task. `state` is the extended state it begins with; empty for the initial one.
pub fn start(task: Arc<Task>, affinity: CpuSet, nice: i8, state: Vec<u8>) -> Result<()> {
    let thread = rumpuser_thread_create(ThreadSpec {
        name: task.name(),
        affinity,
        main: Box::new(move || run(task, nice, &state)),
    })?;
    drop(thread);
    Ok(())
}

/// What the thread of a task does.
fn run(task: Arc<Task>, nice: i8, state: &[u8]) {
    let thread = rumpuser_thread_current();
    if nice != 0 {
        thread.set_nice(nice);
    }
    // SAFETY: `task` is kept alive by this function until `unbind`, and was made for this thread alone.
    unsafe { task.bind(thread) };
    if let Some(space) = task.process().space() {
        rumpuser_pmap_activate(Some(space.pmap().clone()));
    }
    task.with_context(|context| rumpuser_extended_state_load(context, state));
    // What came before the thread could be interrupted.
    if deliver::has_work(&task) {
        task.interrupt();
    }
    crate::clone::announce(&task);
    fix_answers(&task);
    serve(&task);
    exit::task_ends(&task);
    rumpuser_pmap_activate(None);
    task.unbind();
}

/// Calls that the platform answers alone, as the answer is fixed for the task: getpid and gettid. Called by the
/// task itself, and again when its number has changed.
pub(crate) fn fix_answers(task: &Task) {
    rumpuser_set_constant_call(39, u32::try_from(task.process().pid()).ok());
    rumpuser_set_constant_call(186, u32::try_from(task.tid()).ok());
}

/// Runs user code until the task must end.
fn serve(task: &Task) {
    loop {
        let trap = task.with_context(rumpuser_user_execute);
        let goes_on = match trap {
            Trap::SystemCall => system_call(task),
            Trap::Interrupted => deliver::serve(task, None, TrapDetails::default()),
            Trap::PageFault { address, write, execute, present } => {
                faults::page_fault(task, address, write, execute, present)
            }
            Trap::Exception { vector, error } => faults::exception(task, vector, error),
        };
        if !goes_on {
            return;
        }
    }
}

/// Serves a system call. Returns whether the task goes on.
fn system_call(task: &Task) -> bool {
    let (number, arguments) = task.with_context(|context| {
        let registers = &context.registers;
        let arguments =
            [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9];
        (registers.rax, arguments)
    });
    let result = if trace::is_on() {
        trace::call(task, number, &arguments, dispatch)
    } else {
        dispatch(task, number, &arguments)
    };
    statistics::count(number, &result);
    let value = match result {
        Ok(value) => value as u64,
        Err(Errno::EINTR) => {
            return deliver::serve(task, Some(Interrupted { number }), TrapDetails::default());
        }
        Err(error) => i64::from(-error.code()) as u64,
    };
    // A restarted call that has ended leaves no deadline to the next.
    task.restarting.store(false, Ordering::Relaxed);
    task.with_context(|context| context.registers.rax = value);
    true
}

/// Calls the handler, if there is memory for what it does.
#[inline(never)]
fn dispatch(task: &Task, number: u64, arguments: &[u64; 6]) -> Result<usize> {
    if oom::admits(number) { table::dispatch(task, number, arguments) } else { Err(Errno::ENOMEM) }
}

/// Asks the running call's task to end: the run loop looks when the call returns EINTR.
pub fn end(task: &Task) -> Errno {
    task.dying.store(true, Ordering::Release);
    Errno::EINTR
}
