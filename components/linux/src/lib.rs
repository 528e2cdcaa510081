//! The Linux personality: runs unmodified x86-64 Linux ELF programs.
//!
//! A process ([`process`]) has tasks ([`task`]), each a platform thread that runs user code and serves its traps.
//! System calls come through [`table`]; their arguments through [`argument`] and [`user`].
#![no_std]

extern crate alloc;

pub mod argument;
pub mod console;
pub mod credentials;
pub mod elf;
pub mod exec_image;
pub mod files;
pub mod identity;
pub mod limits;
pub mod memory;
pub mod owned;
pub mod process;
pub mod procfs;
pub mod registry;
pub mod signal;
pub mod space;
pub mod sysfs;
pub mod table;
pub mod task;
pub mod user;
pub mod uts;
pub mod vdso;
