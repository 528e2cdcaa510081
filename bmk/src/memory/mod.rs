//! Memory: frames, the kernel heap, the kernel's own mappings, user address spaces, access to user memory.

pub mod access;
pub mod buddy;
pub mod frames;
pub mod heap;
pub mod kernel_map;
pub mod layout;
pub mod pmap;
pub mod shootdown;
pub mod space;
pub mod stack;

pub use kernel_map::{map_device, map_firmware};
