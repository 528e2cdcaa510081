//! The system call table: one line per x86-64 system call, which gives its number, its name, and its handler if it
//! has one. Dispatch, names and the coverage page (`docs/system-calls.md`) are made from it.
//!
//! A handler is a function `fn(&Task, arguments...) -> Result<usize>`, see [`crate::argument::Handler`]. A call
//! without one gives ENOSYS, and is named once on the console.

use core::sync::atomic::{AtomicU64, Ordering};

use rumpkern::{Errno, Result};

use crate::{argument::Handler, task::Task};

/// A line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// The number.
    pub number: u64,
    /// The name, without `sys_`.
    pub name: &'static str,
    /// The handler's path in this crate; empty if there is none.
    pub handler: &'static str,
}

/// More than the largest number in the table.
const LIMIT: usize = 512;

macro_rules! system_calls {
    ($($number:literal $name:ident $(=> $handler:path)?;)*) => {
        /// Every system call, by number.
        pub static CALLS: &[Call] = &[
            $(Call { number: $number, name: stringify!($name), handler: concat!($(stringify!($handler))?) },)*
        ];

        /// Calls the handler of `number`.
        pub fn dispatch(task: &Task, number: u64, arguments: &[u64; 6]) -> Result<usize> {
            match number {
                $($number => system_calls!(@call task $number arguments $($handler)?),)*
                _ => absent(task, number),
            }
        }
    };
    (@call $task:ident $number:literal $arguments:ident $handler:path) => {
        Handler::call($handler, $task, $arguments)
    };
    (@call $task:ident $number:literal $arguments:ident) => { absent($task, $number) };
}

/// The name of a system call.
pub fn name(number: u64) -> Option<&'static str> {
    CALLS.binary_search_by_key(&number, |call| call.number).ok().map(|index| CALLS[index].name)
}

/// Names a missing call on the console, the first time.
#[cold]
fn absent(task: &Task, number: u64) -> Result<usize> {
    static NAMED: [AtomicU64; LIMIT / 64] = [const { AtomicU64::new(0) }; LIMIT / 64];
    let index = (number as usize).min(LIMIT - 1);
    let bit = 1 << (index % 64);
    if NAMED[index / 64].fetch_or(bit, Ordering::Relaxed) & bit == 0 {
        let name = name(number).unwrap_or("unknown");
        crate::console::message(format_args!(
            "{}: system call {name} ({number}) is not implemented",
            task.name()
        ));
    }
    Err(Errno::ENOSYS)
}

system_calls! {
    0 read => crate::files::io::read;
    1 write => crate::files::io::write;
    2 open => crate::files::open::open;
    3 close => crate::files::open::close;
    4 stat => crate::files::stat::stat;
    5 fstat => crate::files::stat::fstat;
    6 lstat => crate::files::stat::lstat;
    7 poll => crate::files::poll::poll;
    8 lseek => crate::files::io::lseek;
    9 mmap => crate::memory::mapping::mmap;
    10 mprotect => crate::memory::mapping::mprotect;
    11 munmap => crate::memory::mapping::munmap;
    12 brk => crate::memory::mapping::brk;
    13 rt_sigaction => crate::signal::calls::rt_sigaction;
    14 rt_sigprocmask => crate::signal::calls::rt_sigprocmask;
    15 rt_sigreturn => crate::signal::calls::rt_sigreturn;
    16 ioctl => crate::files::ioctl::ioctl;
    17 pread64 => crate::files::io::pread;
    18 pwrite64 => crate::files::io::pwrite;
    19 readv => crate::files::io::readv;
    20 writev => crate::files::io::writev;
    21 access => crate::files::stat::access;
    22 pipe => crate::files::open::pipe;
    23 select => crate::files::poll::select;
    24 sched_yield => crate::scheduling::sched_yield;
    25 mremap => crate::memory::mapping::mremap;
    26 msync => crate::memory::advice::msync;
    27 mincore => crate::memory::advice::mincore;
    28 madvise => crate::memory::advice::madvise;
    29 shmget => crate::memory::shm::shmget;
    30 shmat => crate::memory::shm::shmat;
    31 shmctl => crate::memory::shm::shmctl;
    32 dup => crate::files::open::dup;
    33 dup2 => crate::files::open::dup2;
    34 pause => crate::signal::calls::pause;
    35 nanosleep => crate::clock::nanosleep;
    36 getitimer => crate::timers::getitimer;
    37 alarm => crate::timers::alarm;
    38 setitimer => crate::timers::setitimer;
    39 getpid => crate::identity::getpid;
    40 sendfile => crate::files::splice::sendfile;
    41 socket => crate::files::socket::socket;
    42 connect => crate::files::socket::connect;
    43 accept => crate::files::socket::accept;
    44 sendto => crate::files::socket::sendto;
    45 recvfrom => crate::files::socket::recvfrom;
    46 sendmsg => crate::files::socket::sendmsg;
    47 recvmsg => crate::files::socket::recvmsg;
    48 shutdown => crate::files::socket::shutdown;
    49 bind => crate::files::socket::bind;
    50 listen => crate::files::socket::listen;
    51 getsockname => crate::files::socket::getsockname;
    52 getpeername => crate::files::socket::getpeername;
    53 socketpair => crate::files::socket::socketpair;
    54 setsockopt => crate::files::socket::setsockopt;
    55 getsockopt => crate::files::socket::getsockopt;
    56 clone => crate::clone::clone;
    57 fork => crate::clone::fork;
    58 vfork => crate::clone::vfork;
    59 execve => crate::exec::execve;
    60 exit => crate::exit::exit;
    61 wait4 => crate::wait::wait4;
    62 kill => crate::signal::calls::kill;
    63 uname => crate::system::uname;
    64 semget => crate::ipc::semaphore::semget;
    65 semop => crate::ipc::semaphore::semop;
    66 semctl => crate::ipc::semaphore::semctl;
    67 shmdt => crate::memory::shm::shmdt;
    68 msgget;
    69 msgsnd;
    70 msgrcv;
    71 msgctl;
    72 fcntl => crate::files::fcntl::fcntl;
    73 flock => crate::files::locks::flock;
    74 fsync => crate::files::io::fsync;
    75 fdatasync => crate::files::io::fdatasync;
    76 truncate => crate::files::attributes::truncate;
    77 ftruncate => crate::files::attributes::ftruncate;
    78 getdents => crate::files::names::getdents;
    79 getcwd => crate::files::names::getcwd;
    80 chdir => crate::files::names::chdir;
    81 fchdir => crate::files::names::fchdir;
    82 rename => crate::files::names::rename;
    83 mkdir => crate::files::names::mkdir;
    84 rmdir => crate::files::names::rmdir;
    85 creat => crate::files::open::creat;
    86 link => crate::files::names::link;
    87 unlink => crate::files::names::unlink;
    88 symlink => crate::files::names::symlink;
    89 readlink => crate::files::names::readlink;
    90 chmod => crate::files::attributes::chmod;
    91 fchmod => crate::files::attributes::fchmod;
    92 chown => crate::files::attributes::chown;
    93 fchown => crate::files::attributes::fchown;
    94 lchown => crate::files::attributes::lchown;
    95 umask => crate::files::names::umask;
    96 gettimeofday => crate::clock::gettimeofday;
    97 getrlimit => crate::resource::getrlimit;
    98 getrusage => crate::resource::getrusage;
    99 sysinfo => crate::system::sysinfo;
    100 times => crate::resource::times;
    101 ptrace => crate::system::ptrace;
    102 getuid => crate::identity::getuid;
    103 syslog => crate::system::syslog;
    104 getgid => crate::identity::getgid;
    105 setuid => crate::identity::setuid;
    106 setgid => crate::identity::setgid;
    107 geteuid => crate::identity::geteuid;
    108 getegid => crate::identity::getegid;
    109 setpgid => crate::groups::setpgid;
    110 getppid => crate::identity::getppid;
    111 getpgrp => crate::groups::getpgrp;
    112 setsid => crate::groups::setsid;
    113 setreuid => crate::identity::setreuid;
    114 setregid => crate::identity::setregid;
    115 getgroups => crate::identity::getgroups;
    116 setgroups => crate::identity::setgroups;
    117 setresuid => crate::identity::setresuid;
    118 getresuid => crate::identity::getresuid;
    119 setresgid => crate::identity::setresgid;
    120 getresgid => crate::identity::getresgid;
    121 getpgid => crate::groups::getpgid;
    122 setfsuid => crate::identity::setfsuid;
    123 setfsgid => crate::identity::setfsgid;
    124 getsid => crate::groups::getsid;
    125 capget => crate::identity::capget;
    126 capset => crate::identity::capset;
    127 rt_sigpending => crate::signal::calls::rt_sigpending;
    128 rt_sigtimedwait => crate::signal::calls::rt_sigtimedwait;
    129 rt_sigqueueinfo => crate::signal::calls::rt_sigqueueinfo;
    130 rt_sigsuspend => crate::signal::calls::rt_sigsuspend;
    131 sigaltstack => crate::signal::calls::sigaltstack;
    132 utime => crate::files::attributes::utime;
    133 mknod => crate::files::names::mknod;
    134 uselib;
    135 personality => crate::system::personality;
    136 ustat;
    137 statfs => crate::files::stat::statfs;
    138 fstatfs => crate::files::stat::fstatfs;
    139 sysfs;
    140 getpriority => crate::scheduling::getpriority;
    141 setpriority => crate::scheduling::setpriority;
    142 sched_setparam => crate::scheduling::sched_setparam;
    143 sched_getparam => crate::scheduling::sched_getparam;
    144 sched_setscheduler => crate::scheduling::sched_setscheduler;
    145 sched_getscheduler => crate::scheduling::sched_getscheduler;
    146 sched_get_priority_max => crate::scheduling::sched_get_priority_max;
    147 sched_get_priority_min => crate::scheduling::sched_get_priority_min;
    148 sched_rr_get_interval => crate::scheduling::sched_rr_get_interval;
    149 mlock => crate::memory::advice::mlock;
    150 munlock => crate::memory::advice::munlock;
    151 mlockall => crate::memory::advice::mlockall;
    152 munlockall => crate::memory::advice::munlockall;
    153 vhangup => crate::system::vhangup;
    154 modify_ldt;
    155 pivot_root;
    156 _sysctl;
    157 prctl => crate::prctl::prctl;
    158 arch_prctl => crate::prctl::arch_prctl;
    159 adjtimex => crate::clock::adjtimex;
    160 setrlimit => crate::resource::setrlimit;
    161 chroot => crate::files::names::chroot;
    162 sync => crate::files::io::sync;
    163 acct;
    164 settimeofday => crate::clock::settimeofday;
    165 mount => crate::files::mount::mount;
    166 umount2 => crate::files::mount::umount2;
    167 swapon;
    168 swapoff;
    169 reboot => crate::system::reboot;
    170 sethostname => crate::system::sethostname;
    171 setdomainname => crate::system::setdomainname;
    172 iopl;
    173 ioperm;
    174 create_module;
    175 init_module;
    176 delete_module;
    177 get_kernel_syms;
    178 query_module;
    179 quotactl;
    180 nfsservctl;
    181 getpmsg;
    182 putpmsg;
    183 afs_syscall;
    184 tuxcall;
    185 security;
    186 gettid => crate::identity::gettid;
    187 readahead => crate::files::io::readahead;
    188 setxattr => crate::files::xattr::setxattr;
    189 lsetxattr => crate::files::xattr::lsetxattr;
    190 fsetxattr => crate::files::xattr::fsetxattr;
    191 getxattr => crate::files::xattr::getxattr;
    192 lgetxattr => crate::files::xattr::lgetxattr;
    193 fgetxattr => crate::files::xattr::fgetxattr;
    194 listxattr => crate::files::xattr::listxattr;
    195 llistxattr => crate::files::xattr::llistxattr;
    196 flistxattr => crate::files::xattr::flistxattr;
    197 removexattr => crate::files::xattr::removexattr;
    198 lremovexattr => crate::files::xattr::lremovexattr;
    199 fremovexattr => crate::files::xattr::fremovexattr;
    200 tkill => crate::signal::calls::tkill;
    201 time => crate::clock::time;
    202 futex => crate::futex::futex;
    203 sched_setaffinity => crate::scheduling::sched_setaffinity;
    204 sched_getaffinity => crate::scheduling::sched_getaffinity;
    205 set_thread_area;
    206 io_setup;
    207 io_destroy;
    208 io_getevents;
    209 io_submit;
    210 io_cancel;
    211 get_thread_area;
    212 lookup_dcookie;
    213 epoll_create => crate::files::open::epoll_create;
    214 epoll_ctl_old;
    215 epoll_wait_old;
    216 remap_file_pages => crate::memory::mapping::remap_file_pages;
    217 getdents64 => crate::files::names::getdents64;
    218 set_tid_address => crate::clone::set_tid_address;
    219 restart_syscall => crate::signal::calls::restart_syscall;
    220 semtimedop => crate::ipc::semaphore::semtimedop;
    221 fadvise64 => crate::files::io::fadvise;
    222 timer_create => crate::timers::timer_create;
    223 timer_settime => crate::timers::timer_settime;
    224 timer_gettime => crate::timers::timer_gettime;
    225 timer_getoverrun => crate::timers::timer_getoverrun;
    226 timer_delete => crate::timers::timer_delete;
    227 clock_settime => crate::clock::clock_settime;
    228 clock_gettime => crate::clock::clock_gettime;
    229 clock_getres => crate::clock::clock_getres;
    230 clock_nanosleep => crate::clock::clock_nanosleep;
    231 exit_group => crate::exit::exit_group;
    232 epoll_wait => crate::files::epoll_calls::epoll_wait;
    233 epoll_ctl => crate::files::epoll_calls::epoll_ctl;
    234 tgkill => crate::signal::calls::tgkill;
    235 utimes => crate::files::attributes::utimes;
    236 vserver;
    237 mbind => crate::memory::policy::mbind;
    238 set_mempolicy => crate::memory::policy::set_mempolicy;
    239 get_mempolicy => crate::memory::policy::get_mempolicy;
    240 mq_open;
    241 mq_unlink;
    242 mq_timedsend;
    243 mq_timedreceive;
    244 mq_notify;
    245 mq_getsetattr;
    246 kexec_load;
    247 waitid => crate::wait::waitid;
    248 add_key;
    249 request_key;
    250 keyctl;
    251 ioprio_set => crate::scheduling::ioprio_set;
    252 ioprio_get => crate::scheduling::ioprio_get;
    253 inotify_init => crate::files::inotify::inotify_init;
    254 inotify_add_watch => crate::files::inotify::inotify_add_watch;
    255 inotify_rm_watch => crate::files::inotify::inotify_rm_watch;
    256 migrate_pages => crate::memory::policy::migrate_pages;
    257 openat => crate::files::open::openat;
    258 mkdirat => crate::files::names::mkdirat;
    259 mknodat => crate::files::names::mknodat;
    260 fchownat => crate::files::attributes::fchownat;
    261 futimesat => crate::files::attributes::futimesat;
    262 newfstatat => crate::files::stat::fstatat;
    263 unlinkat => crate::files::names::unlinkat;
    264 renameat => crate::files::names::renameat;
    265 linkat => crate::files::names::linkat;
    266 symlinkat => crate::files::names::symlinkat;
    267 readlinkat => crate::files::names::readlinkat;
    268 fchmodat => crate::files::attributes::fchmodat;
    269 faccessat => crate::files::stat::faccessat;
    270 pselect6 => crate::files::poll::pselect6;
    271 ppoll => crate::files::poll::ppoll;
    272 unshare => crate::system::unshare;
    273 set_robust_list => crate::futex::robust::set_robust_list;
    274 get_robust_list => crate::futex::robust::get_robust_list;
    275 splice => crate::files::splice::splice;
    276 tee => crate::files::splice::tee;
    277 sync_file_range => crate::files::io::sync_file_range;
    278 vmsplice => crate::files::splice::vmsplice;
    279 move_pages => crate::memory::policy::move_pages;
    280 utimensat => crate::files::attributes::utimensat;
    281 epoll_pwait => crate::files::epoll_calls::epoll_pwait;
    282 signalfd => crate::files::signalfd::signalfd;
    283 timerfd_create => crate::files::timerfd::timerfd_create;
    284 eventfd => crate::files::open::eventfd;
    285 fallocate => crate::files::attributes::fallocate;
    286 timerfd_settime => crate::files::timerfd::timerfd_settime;
    287 timerfd_gettime => crate::files::timerfd::timerfd_gettime;
    288 accept4 => crate::files::socket::accept4;
    289 signalfd4 => crate::files::signalfd::signalfd4;
    290 eventfd2 => crate::files::open::eventfd2;
    291 epoll_create1 => crate::files::open::epoll_create1;
    292 dup3 => crate::files::open::dup3;
    293 pipe2 => crate::files::open::pipe2;
    294 inotify_init1 => crate::files::inotify::inotify_init1;
    295 preadv => crate::files::io::preadv;
    296 pwritev => crate::files::io::pwritev;
    297 rt_tgsigqueueinfo => crate::signal::calls::rt_tgsigqueueinfo;
    298 perf_event_open;
    299 recvmmsg => crate::files::socket::recvmmsg;
    300 fanotify_init;
    301 fanotify_mark;
    302 prlimit64 => crate::resource::prlimit64;
    303 name_to_handle_at => crate::files::handle::name_to_handle_at;
    304 open_by_handle_at => crate::files::handle::open_by_handle_at;
    305 clock_adjtime => crate::clock::clock_adjtime;
    306 syncfs => crate::files::io::syncfs;
    307 sendmmsg => crate::files::socket::sendmmsg;
    308 setns;
    309 getcpu => crate::scheduling::getcpu;
    310 process_vm_readv => crate::memory::remote::process_vm_readv;
    311 process_vm_writev => crate::memory::remote::process_vm_writev;
    312 kcmp => crate::system::kcmp;
    313 finit_module;
    314 sched_setattr => crate::scheduling::sched_setattr;
    315 sched_getattr => crate::scheduling::sched_getattr;
    316 renameat2 => crate::files::names::renameat2;
    317 seccomp => crate::system::seccomp;
    318 getrandom => crate::system::getrandom;
    319 memfd_create => crate::memory::file::memfd_create;
    320 kexec_file_load;
    321 bpf;
    322 execveat => crate::exec::execveat;
    323 userfaultfd;
    324 membarrier => crate::scheduling::membarrier;
    325 mlock2 => crate::memory::advice::mlock2;
    326 copy_file_range => crate::files::splice::copy_file_range;
    327 preadv2 => crate::files::io::preadv2;
    328 pwritev2 => crate::files::io::pwritev2;
    329 pkey_mprotect => crate::memory::keys::pkey_mprotect;
    330 pkey_alloc => crate::memory::keys::pkey_alloc;
    331 pkey_free => crate::memory::keys::pkey_free;
    332 statx => crate::files::stat::statx;
    333 io_pgetevents;
    334 rseq => crate::system::refused;
    335 uretprobe;
    424 pidfd_send_signal => crate::pidfd::pidfd_send_signal;
    425 io_uring_setup;
    426 io_uring_enter;
    427 io_uring_register;
    428 open_tree;
    429 move_mount;
    430 fsopen;
    431 fsconfig;
    432 fsmount;
    433 fspick;
    434 pidfd_open => crate::pidfd::pidfd_open;
    435 clone3 => crate::clone::clone3;
    436 close_range => crate::files::open::close_range;
    437 openat2 => crate::files::open::openat2;
    438 pidfd_getfd;
    439 faccessat2 => crate::files::stat::faccessat2;
    440 process_madvise => crate::memory::remote::process_madvise;
    441 epoll_pwait2 => crate::files::epoll_calls::epoll_pwait2;
    442 mount_setattr;
    443 quotactl_fd;
    444 landlock_create_ruleset;
    445 landlock_add_rule;
    446 landlock_restrict_self;
    447 memfd_secret;
    448 process_mrelease;
    449 futex_waitv => crate::futex::futex_waitv;
    450 set_mempolicy_home_node;
    451 cachestat;
    452 fchmodat2 => crate::files::attributes::fchmodat2;
    453 map_shadow_stack;
    454 futex_wake;
    455 futex_wait;
    456 futex_requeue;
    457 statmount;
    458 listmount;
    459 lsm_get_self_attr;
    460 lsm_set_self_attr;
    461 lsm_list_modules;
    462 mseal;
}

/// Where the coverage page is, from the crate.
#[cfg(test)]
const PAGE: &str = "../../docs/system-calls.md";

#[cfg(test)]
mod tests {
    extern crate std;
    use std::{fmt::Write, string::String};

    use super::*;

    fn page() -> String {
        let present = CALLS.iter().filter(|call| !call.handler.is_empty()).count();
        let mut text = std::format!(
            "# System calls\n\n\
             Made from `components/linux/src/table.rs` by that crate's tests (`cargo xtask test` fails when it is\n\
             out of date; `UPDATE=1 cargo test -p linux coverage` writes it).\n\n\
             {present} of {} calls of Linux x86-64 are there. The others give ENOSYS, and the first use of each is\n\
             named on the console.\n\n| number | call | handler |\n|---|---|---|\n",
            CALLS.len()
        );
        for call in CALLS {
            let handler = call.handler.replace("crate::", "").replace(' ', "");
            let handler =
                if handler.is_empty() { String::from("absent") } else { std::format!("`{handler}`") };
            writeln!(text, "| {} | {} | {handler} |", call.number, call.name).expect("a string");
        }
        text
    }

    #[test]
    fn the_coverage_page_is_up_to_date() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, page()).expect("write the page");
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == page(), "out of date: UPDATE=1 cargo test -p linux coverage writes it");
    }

    #[test]
    fn the_list_for_traces_has_the_same_calls() {
        let calls = CALLS.iter().map(|call| (call.number, call.name));
        assert!(calls.eq(image::system_calls::all().map(|call| (call.number, call.name))));
    }

    #[test]
    fn numbers_ascend_and_agree_with_the_headers() {
        assert!(CALLS.windows(2).all(|pair| pair[0].number < pair[1].number));
        let expected = [
            (linux_raw_sys::general::__NR_read, "read"),
            (linux_raw_sys::general::__NR_futex, "futex"),
            (linux_raw_sys::general::__NR_statx, "statx"),
            (linux_raw_sys::general::__NR_clone3, "clone3"),
            (linux_raw_sys::general::__NR_futex_waitv, "futex_waitv"),
        ];
        for (number, expected) in expected {
            assert_eq!(name(u64::from(number)), Some(expected));
        }
        assert_eq!(name(336), None);
        assert_eq!(CALLS.last().map(|call| call.number < LIMIT as u64), Some(true));
    }
}
