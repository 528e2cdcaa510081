//! The address space of a process.

use alloc::sync::Arc;

use rumpkern::Result;
use rumpuser::{Pmap, rumpuser_pmap_create};

/// An address space.
pub struct Space {
    pmap: Arc<dyn Pmap>,
}

impl Space {
    /// An empty one.
    pub fn new() -> Result<Arc<Space>> {
        Ok(Arc::new(Space { pmap: rumpuser_pmap_create()? }))
    }

    /// The page table.
    pub fn pmap(&self) -> &Arc<dyn Pmap> {
        &self.pmap
    }
}
