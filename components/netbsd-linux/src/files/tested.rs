//! The parts of [`crate::files`] that need nothing of the kernel's.
#![allow(dead_code, reason = "who uses them needs the kernel")]

mod layout;
mod listing;
