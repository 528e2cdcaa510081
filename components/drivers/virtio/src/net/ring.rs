//! A split ring (virtio 1.2, section 2.7) for many small exchanges: what [`crate::queue`] is for disks, with the
//! bookkeeping left to the two users, who know what a slot is.
//!
//! The memory is seen as atomics, so reading what the device writes, and writing while it reads, is always defined.
#![allow(unsafe_code, reason = "looks at DMA memory as the ring's structures")]

use core::{
    slice,
    sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence},
};

use rumpuser::{Frame, OutOfMemory, device::DmaMemory, memory::PAGE_SIZE, rumpuser_frame_address};

use crate::{
    features::Features,
    transport::{LEGACY_ALIGNMENT, QueueAddresses},
};

/// Flags of a descriptor.
pub const NEXT: u16 = 1;
/// The device writes to it.
pub const WRITABLE: u16 = 2;
/// It is a table.
pub const INDIRECT: u16 = 4;
/// Flag of either ring: don't tell me (without event indices).
const QUIET: u16 = 1;

/// A descriptor.
#[repr(C)]
pub struct Descriptor {
    address: AtomicU64,
    length: AtomicU32,
    flags: AtomicU16,
    next: AtomicU16,
}

impl Descriptor {
    /// Fills it in.
    #[inline]
    pub fn set(&self, address: u64, length: u32, flags: u16, next: u16) {
        self.address.store(address, Ordering::Relaxed);
        self.length.store(length, Ordering::Relaxed);
        self.flags.store(flags, Ordering::Relaxed);
        self.next.store(next, Ordering::Relaxed);
    }
}

/// What the device says of a chain that it is done with.
#[repr(C)]
struct Used {
    identifier: AtomicU32,
    length: AtomicU32,
}

/// Memory as a slice of plain atomics.
fn view<T>(memory: &DmaMemory, offset: usize, count: usize) -> &'static [T] {
    assert!(offset + count * size_of::<T>() <= memory.len() && offset.is_multiple_of(align_of::<T>()));
    let address = rumpuser_frame_address(Frame(memory.physical() / PAGE_SIZE as u64)) as usize + offset;
    // SAFETY: inside the memory, aligned, and T is made of atomic integers. The memory lives as long as the ring,
    // which keeps the slices to itself.
    unsafe { slice::from_raw_parts(address as *const T, count) }
}

/// A ring.
pub struct Ring {
    memory: DmaMemory,
    size: u16,
    descriptors: &'static [Descriptor],
    /// flags, index, ring, used event
    available: &'static [AtomicU16],
    /// flags, index
    used_header: &'static [AtomicU16],
    used: &'static [Used],
    available_event: &'static [AtomicU16],
    used_offset: usize,
    event_index: bool,
}

impl Ring {
    /// A ring as large as the device's `limit` and `largest` allow.
    pub fn new(limit: u16, largest: u16, features: Features) -> Result<Ring, OutOfMemory> {
        // The largest power of two.
        let size = 1_u16 << limit.clamp(1, largest).ilog2();
        let count = usize::from(size);
        let available = count * size_of::<Descriptor>();
        let used_offset = (available + 6 + 2 * count).next_multiple_of(LEGACY_ALIGNMENT);
        let memory = DmaMemory::new(used_offset + 6 + 8 * count)?;
        Ok(Ring {
            size,
            descriptors: view(&memory, 0, count),
            available: view(&memory, available, count + 3),
            used_header: view(&memory, used_offset, 2),
            used: view(&memory, used_offset + 4, count),
            available_event: view(&memory, used_offset + 4 + 8 * count, 1),
            used_offset,
            event_index: features.contains(Features::EVENT_INDEX),
            memory,
        })
    }

    /// Where the device finds it.
    pub fn addresses(&self) -> QueueAddresses {
        let base = self.memory.physical();
        QueueAddresses {
            size: self.size,
            descriptors: base,
            available: base + (usize::from(self.size) * size_of::<Descriptor>()) as u64,
            used: base + self.used_offset as u64,
        }
    }

    /// How many descriptors it has: a power of two.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// A descriptor. Panics beyond the size.
    #[inline]
    pub fn descriptor(&self, index: u16) -> &Descriptor {
        &self.descriptors[usize::from(index)]
    }

    /// Writes the entry of the available ring at `index`, which counts on for ever.
    #[inline]
    pub fn offer(&self, index: u16, head: u16) {
        self.available[2 + usize::from(index & (self.size - 1))].store(head, Ordering::Relaxed);
    }

    /// Shows the device everything before `index`.
    #[inline]
    pub fn publish(&self, index: u16) {
        self.available[1].store(index, Ordering::Release);
    }

    /// Whether the device wants to hear that the index went from `old` to `new`.
    pub fn wants_notification(&self, old: u16, new: u16) -> bool {
        // The device looks at the index, then says what it wants to hear; we do it the other way round.
        fence(Ordering::SeqCst);
        if self.event_index {
            let event = self.available_event[0].load(Ordering::Relaxed);
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            old != new && self.used_header[0].load(Ordering::Relaxed) & QUIET == 0
        }
    }

    /// How far the device says it is.
    #[inline]
    pub fn used_index(&self) -> u16 {
        self.used_header[1].load(Ordering::Acquire)
    }

    /// The entry of the used ring at `index`: (head, bytes written). As the device wrote it: check both.
    #[inline]
    pub fn used(&self, index: u16) -> (u32, u32) {
        let entry = &self.used[usize::from(index & (self.size - 1))];
        (entry.identifier.load(Ordering::Relaxed), entry.length.load(Ordering::Relaxed))
    }

    /// Wants an interrupt when the device's index passes `index`.
    pub fn want_interrupt(&self, index: u16) {
        if self.event_index {
            self.available[2 + usize::from(self.size)].store(index, Ordering::Relaxed);
        } else {
            self.available[0].store(0, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
    }

    /// Wants no interrupt; the last index looked at is `index`.
    pub fn want_none(&self, index: u16) {
        if self.event_index {
            // Half of all numbers away, where the device's index doesn't come before this is called again.
            let far = index.wrapping_add(0x8000);
            self.available[2 + usize::from(self.size)].store(far, Ordering::Relaxed);
        } else {
            self.available[0].store(QUIET, Ordering::Relaxed);
        }
    }

    /// Whether [`Ring::want_interrupt`] ends by itself with the first interrupt.
    pub fn interrupts_once(&self) -> bool {
        self.event_index
    }
}

/// Pieces of equal size of memory that the device reads: only one side uses a piece at a time.
pub struct Pieces {
    memory: DmaMemory,
    size: usize,
}

impl Pieces {
    /// That many pieces of `size` bytes.
    pub fn new(count: usize, size: usize) -> Result<Pieces, OutOfMemory> {
        Ok(Pieces { memory: DmaMemory::new(count * size)?, size })
    }

    /// The physical address of a piece.
    #[inline]
    pub fn physical(&self, piece: u16) -> u64 {
        self.memory.physical() + (usize::from(piece) * self.size) as u64
    }

    /// The bytes of a piece that the device doesn't use. Panics beyond the end.
    #[inline]
    pub fn bytes(&mut self, piece: u16) -> &mut [u8] {
        let offset = usize::from(piece) * self.size;
        assert!(offset + self.size <= self.memory.len());
        let address =
            rumpuser_frame_address(Frame(self.memory.physical() / PAGE_SIZE as u64)) as usize + offset;
        // SAFETY: inside the memory, which lives as long as `self`, borrowed for as long as the slice; a device
        // that reads a piece that isn't its own can't do more than send wrong bytes.
        unsafe { slice::from_raw_parts_mut(address as *mut u8, self.size) }
    }

    /// A piece as a table of descriptors.
    pub fn table(&self, piece: u16) -> &[Descriptor] {
        let entries = self.size / size_of::<Descriptor>();
        &view::<Descriptor>(&self.memory, usize::from(piece) * self.size, entries)[..entries]
    }
}
