//! What terminals know of processes, and processes of terminals: job control.

use alloc::sync::Arc;

use rumpdev::tty::job::{Caller, JobControl};

use crate::{
    groups, registry,
    signal::{self, SignalInfo, send},
    task::Task,
};

/// Says to terminals who their processes are.
pub fn connect() {
    rumpdev::tty::job::set_job_control(&Processes);
}

/// The leader of a session ended.
pub fn session_ends(session: i32) {
    rumpdev::tty::job::session_ended(session);
}

struct Processes;

impl JobControl for Processes {
    fn caller(&self) -> Caller {
        Task::with_current(|task| {
            task.map_or_else(Caller::default, |task| {
                let process = task.process();
                Caller { process: process.pid(), group: process.group(), session: process.session() }
            })
        })
    }

    fn signal_group(&self, group: i32, signal: i32) {
        send::kernel_to_group(group, signal as u32);
    }

    fn signal_process(&self, process: i32, signal: i32) {
        if let Some(process) = registry::process(process) {
            send::to_process(&process, SignalInfo::kernel(signal as u32));
        }
    }

    fn ignores(&self, signal: i32) -> bool {
        Task::with_current(|task| {
            task.is_none_or(|task| {
                let action = task.process().actions().get(signal as u32);
                task.mask().contains(signal as u32) || action.handler == signal::Action::IGNORE
            })
        })
    }

    fn is_orphaned(&self, group: i32) -> bool {
        groups::is_orphaned(group)
    }

    fn session_of_group(&self, group: i32) -> Option<i32> {
        registry::group(group).first().map(|process| process.session())
    }

    fn is_privileged(&self) -> bool {
        const CAP_SYS_ADMIN: u32 = 21;
        Task::current().is_none_or(|task: Arc<Task>| task.credentials().capable(CAP_SYS_ADMIN))
    }
}
