//! The Linux personality: runs unmodified x86-64 Linux ELF programs.
//!
//! A process ([`process`]) has tasks ([`task`]), each a platform thread that runs user code and serves its traps.
//! System calls come through [`table`]; their arguments through [`argument`] and [`user`].
#![no_std]

extern crate alloc;

pub mod argument;
pub mod clock;
pub mod clone;
pub mod console;
pub mod credentials;
pub mod elf;
pub mod exec;
pub mod exec_image;
pub mod exit;
pub mod faults;
pub mod files;
pub mod futex;
pub mod groups;
pub mod identity;
pub mod ipc;
pub mod limits;
pub mod memory;
pub mod oom;
pub mod owned;
pub mod pidfd;
pub mod prctl;
pub mod process;
pub mod procfs;
pub mod rc;
pub mod registry;
pub mod resource;
pub mod restart;
pub mod run;
pub mod scheduling;
pub mod signal;
pub mod space;
pub mod statistics;
pub mod sysfs;
pub mod system;
pub mod table;
pub mod task;
pub mod terminal;
pub mod timers;
pub mod trace;
pub mod user;
pub mod uts;
pub mod vdso;
pub mod wait;

pub use rc::start;
