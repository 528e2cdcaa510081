//! The contract between the baker and the kernel.
//!
//! The baker appends a *payload* to the kernel, as an ELF segment of its own: a [`payload::Header`],
//! the [`config::Configuration`], the kernel's [`symbols`], and the root file system ([`rootfs`]), whose
//! file data is page-aligned, so that the kernel maps it straight from the image, or compressed. All numbers are little-endian.
#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

pub mod command_line;
pub mod compressed;
pub mod config;
#[cfg(feature = "std")]
mod contents;
pub mod machine;
pub mod mount_word;
pub mod network_word;
pub mod payload;
pub mod rootfs;
pub mod symbols;
pub mod system_calls;
#[cfg(feature = "std")]
pub mod tree;
#[cfg(feature = "std")]
pub mod writer;
