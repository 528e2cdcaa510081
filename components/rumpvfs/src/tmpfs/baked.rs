//! What the image has of a file: bytes as they are, or compressed.

use alloc::vec;
use core::sync::atomic::{AtomicBool, Ordering};

use image::{
    compressed::{CLUSTER, Compressed},
    rootfs::Data,
};
use rumpkern::{Errno, Result};
use rumpuser::{
    Frame, memory::PAGE_SIZE, rumpuser_console_write, rumpuser_frame_alloc_uninitialised,
    rumpuser_frames_alloc,
};

use super::{
    Shared,
    pages::{Pages, Slot},
};

/// Pages of a cluster.
const CLUSTER_PAGES: u64 = (CLUSTER / PAGE_SIZE) as u64;

/// The image's part of a file; shrinks when the file does, to whole pages.
pub enum Baked {
    /// Page-aligned, and mapped as it is.
    Plain(&'static [u8]),
    /// Decompressed when it is used, to pages of the file's own.
    Compressed {
        /// In the image.
        data: Compressed<'static>,
        /// How much of it counts.
        length: u64,
    },
}

impl Baked {
    /// From the image.
    pub fn new(data: Data<'static>) -> Self {
        match data {
            Data::Plain(bytes) => Baked::Plain(bytes),
            Data::Compressed(data) => Baked::Compressed { data, length: data.size() },
        }
    }

    /// Bytes in it.
    pub fn length(&self) -> u64 {
        match self {
            Baked::Plain(bytes) => bytes.len() as u64,
            Baked::Compressed { length, .. } => *length,
        }
    }

    /// Forgets what is behind `length`.
    pub fn truncate(&mut self, length: u64) {
        match self {
            Baked::Plain(bytes) if (bytes.len() as u64) > length => *bytes = &bytes[..length as usize],
            Baked::Compressed { length: present, .. } => *present = length.min(*present),
            Baked::Plain(_) => {}
        }
    }

    /// Decompresses the cluster that has page `index`, into the pages of it that `pages` says nothing about.
    pub fn load(&self, index: u64, pages: &mut Pages, shared: &Shared) -> Result<()> {
        let Baked::Compressed { data, length } = self else { return Err(Errno::EIO) };
        let cluster = index / CLUSTER_PAGES;
        let mut bytes = vec![0; CLUSTER];
        let number = usize::try_from(cluster).map_err(|_| Errno::EIO)?;
        let given = data.cluster(number, &mut bytes).map_err(|_| damaged())?;
        let first = cluster * CLUSTER_PAGES;
        // What was cut off the file doesn't come back.
        let left = length.saturating_sub(first * PAGE_SIZE as u64);
        let given = usize::try_from(left).unwrap_or(usize::MAX).min(given);
        let absent = |page: u64| pages.get(page) == Slot::Absent;
        let whole = given > CLUSTER - PAGE_SIZE && (first..first + CLUSTER_PAGES).all(absent);
        // In one piece they are mapped at once.
        let run = if whole { rumpuser_frames_alloc(CLUSTER_PAGES.trailing_zeros()).ok() } else { None };
        for (page, part) in (first..).zip(bytes[..given].chunks(PAGE_SIZE)) {
            if pages.get(page) != Slot::Absent {
                continue;
            }
            let frame = match run {
                Some(run) => Frame(run.0 + page - first),
                None => rumpuser_frame_alloc_uninitialised()?,
            };
            frame.write(0, part);
            frame.fill(part.len(), PAGE_SIZE - part.len(), 0);
            pages.insert(page, frame);
            shared.charge(1);
        }
        Ok(())
    }
}

/// Tells of it, once.
fn damaged() -> Errno {
    static TOLD: AtomicBool = AtomicBool::new(false);
    if !TOLD.swap(true, Ordering::Relaxed) {
        rumpuser_console_write(b"rumprun: the image is damaged: a compressed file can't be read\n");
    }
    Errno::EIO
}
