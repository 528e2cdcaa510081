//! The Linux personality: runs unmodified x86-64 Linux ELF programs.
#![no_std]

extern crate alloc;
