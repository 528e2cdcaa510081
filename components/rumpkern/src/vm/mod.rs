//! Virtual memory: address spaces ([`Space`]) and what can be mapped into them ([`Pager`]).
//!
//! A space is a sorted map of entries over a [`rumpuser::Pmap`]. Private pages live in the pmap alone; pages
//! that several spaces or the file interface can see belong to a pager, and the pmap holds references on them.

mod advise;
mod entry;
mod fault;
mod fork;
mod map;
mod pager;
mod peek;
mod registration;
mod remap;
mod report;
mod shared;
mod space;
#[cfg(test)]
mod tests;

pub use advise::{Advice, Lock};
pub use entry::{Backing, Entry, EntryFlags, Name};
pub use fault::FaultError;
pub use pager::Pager;
pub use remap::Destination;
pub use report::{EntryReport, Usage};
pub use shared::{FixedPages, SharedMemory};
pub use space::{Attachment, Limit, Placement, Request, Space};

/// How many entries a space may have (Linux: vm.max_map_count).
pub const ENTRIES_MAX: usize = 65_530;
