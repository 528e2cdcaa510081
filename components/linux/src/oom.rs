//! When memory runs out: the largest process is killed, so that the others live.

use core::sync::atomic::{AtomicU64, Ordering};

use rumpuser::{rumpuser_clock_monotonic, rumpuser_memory_statistics, rumpuser_park, rumpuser_yield};

use crate::{
    console, registry,
    signal::{SignalInfo, number::SIGKILL, send},
    task::Task,
};

/// How long a victim has to die before another is chosen.
const PATIENCE: u64 = 200_000_000;
/// How long a task waits before it looks for memory again.
const PAUSE: u64 = 2_000_000;
/// How often a task looks.
const TRIES: u32 = 2000;

/// Pages taken back from the caches at a time.
const RECLAIM: usize = 256;

/// The task found no memory: makes some. Returns whether to try again; false if the task itself is to die.
pub fn relieve(task: &Task, tries: &mut u32) -> bool {
    static LAST_KILL: AtomicU64 = AtomicU64::new(0);
    if task.dying.load(Ordering::Acquire) || *tries > TRIES {
        return false;
    }
    *tries += 1;
    if rumpkern::reclaim::reclaim(RECLAIM) > 0 {
        return true;
    }
    let now = rumpuser_clock_monotonic();
    let last = LAST_KILL.load(Ordering::Relaxed);
    let due = last == 0 || now.saturating_sub(last) > PATIENCE;
    if due && LAST_KILL.compare_exchange(last, now.max(1), Ordering::SeqCst, Ordering::Relaxed).is_ok() {
        kill_largest();
    }
    if is_killed(task) {
        return false;
    }
    rumpuser_yield();
    rumpuser_park(now.saturating_add(PAUSE));
    true
}

/// System calls that make objects of the kernel's: names of the headers, without `__NR_`.
macro_rules! set_of_calls {
    ($($name:ident)*) => {{
        let mut set = [0u64; 8];
        $( set[linux_raw_sys::general::$name as usize / 64] |= 1 << (linux_raw_sys::general::$name % 64); )*
        set
    }};
}

/// What is refused when only the kernel's last reserve is left: calls that keep memory when they have ended.
static KEEPS_MEMORY: [u64; 8] = set_of_calls!(
    __NR_open __NR_open_by_handle_at __NR_openat __NR_openat2 __NR_creat __NR_pipe __NR_pipe2 __NR_socket __NR_socketpair __NR_accept
    __NR_accept4 __NR_epoll_create __NR_epoll_create1 __NR_epoll_ctl __NR_eventfd __NR_eventfd2 __NR_signalfd
    __NR_signalfd4 __NR_timerfd_create __NR_memfd_create __NR_inotify_init __NR_inotify_init1
    __NR_inotify_add_watch __NR_pidfd_open __NR_timer_create __NR_mmap __NR_mremap __NR_mprotect __NR_shmget __NR_semget
    __NR_shmat __NR_clone __NR_clone3 __NR_fork __NR_vfork __NR_execve __NR_execveat __NR_mkdir __NR_mkdirat
    __NR_mknod __NR_mknodat __NR_symlink __NR_symlinkat __NR_link __NR_linkat __NR_rename __NR_renameat
    __NR_renameat2 __NR_setxattr __NR_lsetxattr __NR_fsetxattr __NR_mount __NR_sendmsg __NR_sendmmsg
    __NR_sendto __NR_dup __NR_dup2 __NR_dup3 __NR_fcntl __NR_rt_sigqueueinfo __NR_rt_tgsigqueueinfo
);

/// Whether a system call may be served: refuses those that keep memory when there is next to none, so that the
/// kernel's own allocations never fail.
#[inline]
pub fn admits(number: u64) -> bool {
    let keeps = KEEPS_MEMORY.get(number as usize / 64).is_some_and(|word| word >> (number % 64) & 1 == 1);
    !keeps || has_reserve()
}

/// Whether the kernel has more than its last reserve, after it took back what it could.
fn has_reserve() -> bool {
    const LEAST: u64 = 128 << 10;
    const MOST: u64 = 4 << 20;
    let enough = || {
        let memory = rumpuser_memory_statistics();
        memory.free >= (memory.total / 64).clamp(LEAST, MOST)
    };
    enough() || rumpkern::reclaim::reclaim(RECLAIM) > 0 && enough()
}

/// Whether the task is to die, whatever it waits for.
pub fn is_killed(task: &Task) -> bool {
    task.dying.load(Ordering::Acquire) || crate::signal::deliver::pending(task).contains(SIGKILL)
}

fn kill_largest() {
    let largest = registry::processes()
        .into_iter()
        .filter(|process| {
            !process.is_zombie() && !process.exiting.load(Ordering::Relaxed) && process.pid() != 1
        })
        .filter_map(|process| process.space().map(|space| (space.pmap().resident(), process)))
        .max_by_key(|(resident, _)| *resident);
    let Some((resident, process)) = largest else { return };
    let name = process.tasks().first().map(|task| task.name()).unwrap_or_default();
    let total = rumpuser_memory_statistics().total >> 20;
    console::message(format_args!(
        "out of memory ({total} MiB): killing {name} (process {}), which has {} MiB",
        process.pid(),
        resident >> 8,
    ));
    send::to_process(&process, SignalInfo::kernel(SIGKILL));
}
