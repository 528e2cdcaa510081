//! Pages that a backend may map.

use rumpuser::{
    Frame,
    device::{GrantReference, XenbusDevice},
    rumpuser_frame_alloc_uninitialised, rumpuser_frame_release,
};

use crate::ring::Violation;

/// A page, and the reference by which the backend knows it.
pub struct Page {
    pub frame: Frame,
    pub reference: GrantReference,
}

impl Page {
    /// A new one, which the backend may read and write. `None` if there is no memory, or no reference, for it.
    pub fn new(device: &dyn XenbusDevice) -> Option<Self> {
        let frame = rumpuser_frame_alloc_uninitialised().ok()?;
        match device.grant(frame, true) {
            Some(reference) => Some(Page { frame, reference }),
            None => {
                rumpuser_frame_release(frame);
                None
            }
        }
    }

    /// Has another page take its place under its reference; returns the one that it was, which is the caller's, or `None` without
    /// memory. An error if the backend keeps it.
    pub fn exchange(&mut self, device: &dyn XenbusDevice) -> Result<Option<Frame>, Violation> {
        let Ok(frame) = rumpuser_frame_alloc_uninitialised() else { return Ok(None) };
        if device.exchange_grant(self.reference, frame, true) {
            return Ok(Some(core::mem::replace(&mut self.frame, frame)));
        }
        rumpuser_frame_release(frame);
        Err(Violation)
    }

    /// Takes it back, and frees it. False if the backend keeps it: then it is nobody else's any more.
    pub fn end(self, device: &dyn XenbusDevice) -> bool {
        let ended = device.end_grant(self.reference);
        if ended {
            rumpuser_frame_release(self.frame);
        }
        ended
    }
}
