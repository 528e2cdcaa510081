//! Pages that a backend may map.

use rumpuser::{
    Frame,
    device::{GrantReference, XenbusDevice},
    rumpuser_frame_alloc_uninitialised, rumpuser_frame_release,
};

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

    /// Takes it back, and frees it. False if the backend keeps it: then it is nobody else's any more.
    pub fn end(self, device: &dyn XenbusDevice) -> bool {
        let ended = device.end_grant(self.reference);
        if ended {
            rumpuser_frame_release(self.frame);
        }
        ended
    }
}
