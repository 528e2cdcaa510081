//! System calls: execve, execveat.
#![allow(unsafe_code, reason = "replaces what the task's thread reads without a lock")]

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::Ordering;

use rumpkern::{Errno, Result};
use rumpuser::{
    NEVER, UserContext, rumpuser_clear_interrupt, rumpuser_extended_state_load, rumpuser_memory_statistics,
    rumpuser_pmap_activate, user::Registers,
};
use rumpvfs::{access, mount::MountFlags, vnode::Attributes};

use crate::{
    clone,
    credentials::Credentials,
    exec_image::{ARGUMENTS_MAX, Executable, LoadOptions, Loaded},
    exit,
    files::context::{AT_FDCWD, Names},
    limits::Resource,
    registry,
    task::{AlternateStack, Task},
    timers,
    user::{read_path, read_strings},
};

const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
const AT_EMPTY_PATH: u32 = 0x1000;
/// Registers at the start of a program: interrupts on, nothing else.
const INITIAL_FLAGS: u64 = 0x202;

/// execve(2).
pub fn execve(task: &Task, path: usize, arguments: usize, environment: usize) -> Result<usize> {
    execveat(task, AT_FDCWD, path, arguments, environment, 0)
}

/// execveat(2).
pub fn execveat(
    task: &Task,
    directory: i32,
    path: usize,
    arguments: usize,
    environment: usize,
    flags: u32,
) -> Result<usize> {
    if flags & !(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0 {
        return Err(Errno::EINVAL);
    }
    let path = read_path(path)?;
    if path.is_empty() && flags & AT_EMPTY_PATH == 0 {
        return Err(Errno::ENOENT);
    }
    let names = Names::at(task, directory, &path)?;
    let lookup = names.lookup();
    let location = lookup.resolve_or_base(&path, flags & AT_SYMLINK_NOFOLLOW == 0)?;
    let budget = argument_budget(task);
    let mut arguments = read_strings(arguments, budget)?;
    if arguments.is_empty() {
        arguments.push(Vec::new());
    }
    let environment = read_strings(environment, budget)?;
    let name = name_at(directory, &path);
    let no_set_uid = location.mount.flags().contains(MountFlags::NO_SET_UID);
    let executable = Executable::open(&lookup, location, &name, arguments)?;
    let privileges = !no_set_uid && !task.no_new_privileges.load(Ordering::Relaxed);
    let credentials = after_exec(task.credentials(), privileges.then_some(&executable.attributes));
    let secure = credentials.euid != credentials.uid || credentials.egid != credentials.gid;
    let process = task.process();
    let limits = process.limits();
    let loaded = executable.load(&LoadOptions {
        environment: &environment,
        credentials: &credentials,
        secure,
        limits: &limits,
    })?;
    be_alone(task)?;

    // From here on there is no way back.
    let base = executable.name.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    task.set_name(base);
    process.set_executable(Some(executable.location.clone()));
    drop((names, executable));
    switch(task, loaded, credentials);
    Ok(0)
}

/// How many bytes of arguments (and as many of environment) are taken in: a quarter of the stack as on Linux, and a
/// small part of the memory, since the strings pass through the kernel's own.
fn argument_budget(task: &Task) -> usize {
    const ALWAYS: u64 = 128 << 10;
    const SHARE: u64 = 16;
    let stack = task.process().limit(Resource::Stack) / 4;
    let memory = rumpuser_memory_statistics().free / SHARE;
    usize::try_from(stack.min(memory).max(ALWAYS)).unwrap_or(ARGUMENTS_MAX).min(ARGUMENTS_MAX)
}

/// AT_EXECFN and the script name of a program found through a descriptor.
fn name_at(directory: i32, path: &[u8]) -> Vec<u8> {
    if directory == AT_FDCWD || path.first() == Some(&b'/') {
        return path.to_vec();
    }
    let mut name = alloc::format!("/dev/fd/{directory}").into_bytes();
    if !path.is_empty() {
        name.push(b'/');
        name.extend_from_slice(path);
    }
    name
}

/// Who the program runs as (capabilities(7), "Transformation of capabilities during execve").
fn after_exec(old: &Credentials, set_ids: Option<&Attributes>) -> Credentials {
    let mut new = old.clone();
    if let Some(attributes) = set_ids {
        if attributes.permissions & access::SET_UID != 0 {
            new.euid = attributes.uid;
        }
        if attributes.permissions & (access::SET_GID | 0o010) == access::SET_GID | 0o010 {
            new.egid = attributes.gid;
        }
    }
    (new.suid, new.fsuid) = (new.euid, new.euid);
    (new.sgid, new.fsgid) = (new.egid, new.egid);
    if new.uid == 0 || new.euid == 0 {
        new.permitted = new.bounding | new.inheritable;
        new.effective = if new.euid == 0 { new.permitted } else { new.ambient };
        new.ambient = 0;
    } else {
        new.permitted = new.ambient;
        new.effective = new.ambient;
    }
    new
}

/// Ends the process's other tasks and waits until they are gone. EINTR if this task is to end itself.
fn be_alone(task: &Task) -> Result<()> {
    let process = task.process();
    {
        let tasks = process.tasks.lock();
        if task.dying.load(Ordering::Acquire) {
            return Err(Errno::EINTR);
        }
        for other in tasks.iter().filter(|other| other.tid() != task.tid()) {
            other.dying.store(true, Ordering::Release);
            other.interrupt();
        }
    }
    let alone = || (process.tasks.lock().len() == 1).then_some(());
    let mut interrupted = false;
    while process.task_left.wait(NEVER, alone).is_err() {
        rumpuser_clear_interrupt();
        interrupted = true;
    }
    if interrupted {
        task.interrupt();
    }
    if task.dying.load(Ordering::Acquire) {
        return Err(Errno::EINTR);
    }
    if task.tid() != process.pid() {
        registry::remove_task(task.tid());
        task.set_tid(process.pid());
        registry::add_task(&task.arc());
        crate::run::fix_answers(task);
    }
    Ok(())
}

/// Makes the process the new program.
fn switch(task: &Task, loaded: Loaded, credentials: Credentials) {
    let process = task.process();
    exit::leave_memory(task);
    let old = process.replace_space(Some(loaded.space.clone()));
    rumpuser_pmap_activate(Some(loaded.space.pmap().clone()));
    clone::release_parent(task);
    drop(old);

    let actions = Arc::new(process.actions().duplicate());
    actions.reset_handlers();
    process.replace_actions(actions);
    timers::process_executes(process);
    process.executed.store(true, Ordering::Relaxed);
    process.exit_signal.store(crate::signal::number::SIGCHLD, Ordering::Relaxed);
    task.signals.lock().stack = AlternateStack::DISABLED;
    task.keep_capabilities.store(false, Ordering::Relaxed);
    if credentials.euid != credentials.uid {
        task.parent_death_signal.store(0, Ordering::Relaxed);
    }
    task.publish_credentials(credentials);
    if Arc::strong_count(task.files()) > 1 {
        let files = task.files().fork();
        // SAFETY: this is the task's own thread, and the reference above has ended.
        drop(unsafe { task.replace_files(Some(files)) });
    }
    task.files().close_on_exec();
    task.with_context(|context| start_at(context, &loaded));
}

/// The registers that a program starts with.
pub fn start_at(context: &mut UserContext, loaded: &Loaded) {
    *context = initial_context(loaded);
    rumpuser_extended_state_load(context, &[]);
}

/// As [`start_at`], for a task that doesn't run yet.
pub fn initial_context(loaded: &Loaded) -> UserContext {
    let registers = Registers {
        rip: loaded.rip as u64,
        rsp: loaded.rsp as u64,
        rflags: INITIAL_FLAGS,
        ..Registers::default()
    };
    UserContext { registers, ..UserContext::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_found_by_descriptor_has_a_name() {
        assert_eq!(name_at(AT_FDCWD, b"bin/sh"), b"bin/sh");
        assert_eq!(name_at(5, b"/bin/sh"), b"/bin/sh");
        assert_eq!(name_at(5, b""), b"/dev/fd/5");
        assert_eq!(name_at(5, b"sh"), b"/dev/fd/5/sh");
    }

    #[test]
    fn capabilities_follow_the_user() {
        let root = Credentials::default();
        let after = after_exec(&root, None);
        assert_eq!(after.effective, root.effective);
        let user = Credentials { uid: 7, euid: 7, ..root };
        let after = after_exec(&user, None);
        assert_eq!((after.permitted, after.effective, after.suid), (0, 0, 7));
    }
}
