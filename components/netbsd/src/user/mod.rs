//! The base of userspace: what NetBSD's libc and libpthread expect of the kernel beside `rump_sys_*`.

mod areas;
pub mod context;
pub mod copy;
pub mod deliver;
pub mod heap;
pub mod interrupt;
pub mod lwp;
pub mod memory;
pub mod priority;
pub mod process;
mod root;
pub mod rump;
pub mod sender;
pub mod signal;
pub mod stack;
pub mod start;
pub mod stubs;
pub mod thread_storage;
pub mod time;
pub mod trap;
