//! What a platform offers to a device driver: registers, DMA memory, interrupts (NetBSD: rumpcomp_pci_*).

use alloc::{boxed::Box, string::String, sync::Arc, vec::Vec};
use core::sync::atomic::AtomicU64;

use crate::{Frame, OutOfMemory};

/// An interrupt handler. Runs on the CPU that took the interrupt, with interrupts disabled: it must be
/// short, must not sleep, and may take only locks of [`crate::sync::InterruptLock`].
pub type InterruptHandler = Box<dyn Fn() + Send + Sync>;

/// A mapped register window. Accesses are volatile and of the given width.
#[derive(Debug, Clone, Copy)]
pub struct Registers {
    base: usize,
    length: usize,
}

macro_rules! access {
    ($($read:ident $write:ident $kind:ty;)*) => { $(
        /// Reads a register. Panics if it is outside the window or misaligned.
        pub fn $read(&self, offset: usize) -> $kind {
            // SAFETY: `address` checked that the register is inside the mapped window and aligned.
            unsafe { core::ptr::read_volatile(self.address(offset, size_of::<$kind>()) as *const $kind) }
        }
        /// Writes a register. Panics if it is outside the window or misaligned.
        pub fn $write(&self, offset: usize, value: $kind) {
            // SAFETY: as above.
            unsafe { core::ptr::write_volatile(self.address(offset, size_of::<$kind>()) as *mut $kind, value) }
        }
    )* };
}

impl Registers {
    /// A window at a mapped virtual address.
    ///
    /// # Safety
    /// `base..base + length` is mapped, uncached where the device needs it, for as long as the machine runs.
    pub unsafe fn new(base: usize, length: usize) -> Self {
        Registers { base, length }
    }

    /// Bytes in the window.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether the window is empty.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// A part of the window; `None` if it isn't inside.
    pub fn part(&self, offset: usize, length: usize) -> Option<Registers> {
        (offset.checked_add(length)? <= self.length).then(|| Registers { base: self.base + offset, length })
    }

    fn address(&self, offset: usize, size: usize) -> usize {
        assert!(
            offset + size <= self.length && (self.base + offset).is_multiple_of(size),
            "register {offset:#x} of {self:x?}"
        );
        self.base + offset
    }

    access! {
        read8 write8 u8;
        read16 write16 u16;
        read32 write32 u32;
        read64 write64 u64;
    }
}

/// A PCI function (PCI Local Bus 3.0, PCI Express Base).
pub trait PciDevice: Send + Sync {
    /// (segment, bus, device, function).
    fn location(&self) -> (u16, u8, u8, u8);
    /// (vendor, device, subsystem vendor, subsystem device).
    fn identifiers(&self) -> (u16, u16, u16, u16);
    /// (base class, subclass, programming interface).
    fn class(&self) -> (u8, u8, u8);
    /// Reads 1, 2 or 4 bytes of configuration space.
    fn config_read(&self, offset: u16, size: u8) -> u32;
    /// Writes 1, 2 or 4 bytes of configuration space.
    fn config_write(&self, offset: u16, size: u8, value: u32);
    /// Offsets of the capabilities with this identifier, in list order.
    fn capabilities(&self, identifier: u8) -> Vec<u16>;
    /// Maps a memory BAR (0 to 5), uncached; `None` if it is absent, empty, or an I/O BAR.
    fn map_bar(&self, bar: u8) -> Option<Registers>;
    /// Turns on memory decoding and bus mastering.
    fn enable(&self);
    /// Sets what is called, in thread context, before the device is taken out; afterwards its driver must not touch
    /// it. Only devices whose drivers can let go are taken out; others may still vanish.
    fn set_removal_handler(&self, _handler: Box<dyn Fn() + Send + Sync>) {}
    /// Turns on MSI-X with one vector per handler, vector `i` calling handler `i` on CPU `i % count`. Falls
    /// back to MSI or the interrupt pin where there is one handler. Returns whether it worked.
    fn establish_interrupts(&self, handlers: Vec<InterruptHandler>) -> bool;
    /// Turns off the MSI-X that [`establish_interrupts`](Self::establish_interrupts) turned on. Its vectors aren't used again.
    fn release_interrupts(&self) {}
    /// Turns on MSI with one vector, for drivers that know of neither messages nor pins. Returns whether the function has
    /// it and it worked.
    fn establish_message_interrupt(&self, _handler: InterruptHandler) -> bool {
        false
    }
    /// Connects the interrupt pin alone, for drivers that don't know of messages. The pin signals by level until the
    /// handler has quieted the device or turned the pin off (bit 10 of the command register). Returns whether it worked.
    fn establish_pin_interrupt(&self, _handler: InterruptHandler) -> bool {
        false
    }
}

/// A virtio-mmio device (virtio 1.2, section 4.2) that the platform found.
pub trait MmioDevice: Send + Sync {
    /// The register window.
    fn registers(&self) -> Registers;
    /// Connects the device's interrupt. Returns whether it worked.
    fn establish_interrupt(&self, handler: InterruptHandler) -> bool;
}

/// A reference by which another domain reaches a page of this one.
pub type GrantReference = u32;

/// The states of either end of a device of Xen's (public/io/xenbus.h).
pub mod xenbus_state {
    /// Nothing has been said.
    pub const INITIALISING: u32 = 1;
    /// The backend waits for the frontend.
    pub const INIT_WAIT: u32 = 2;
    /// The frontend has said all that it has to say.
    pub const INITIALISED: u32 = 3;
    /// Both work.
    pub const CONNECTED: u32 = 4;
    /// The device goes away.
    pub const CLOSING: u32 = 5;
    /// It is gone.
    pub const CLOSED: u32 = 6;
}

/// The frontend of a device that another domain offers (Xen).
pub trait XenbusDevice: Send + Sync {
    /// What it is: `vif`, `vbd`.
    fn kind(&self) -> &str;
    /// Its number.
    fn number(&self) -> u32;
    /// A value that the toolstack left for the frontend.
    fn frontend_value(&self, name: &str) -> Option<String>;
    /// A value of the backend's.
    fn backend_value(&self, name: &str) -> Option<String>;
    /// Publishes values for the backend, all at once. Returns whether it worked.
    fn publish(&self, values: &[(&str, String)]) -> bool;
    /// Sets the frontend's state.
    fn set_state(&self, state: u32);
    /// Waits until the backend is in one of these states, a while at most; returns the one it is in then.
    fn wait_for_backend(&self, states: &[u32]) -> u32;
    /// Sets what is called, in thread context, whenever the backend's state may have changed: with 0 if it is gone, and may
    /// come back if there is a resume handler.
    fn set_state_handler(&self, handler: Box<dyn Fn(u32) + Send + Sync>);
    /// Sets what is called, in thread context, when there is another backend, which waits for the frontend: the domain has been
    /// restored from a saved one, or moved, or the state handler has heard that the one before was gone. Nothing is granted
    /// any more in a restored domain (references still have to be ended), and no event channel is left (their numbers
    /// must not be used). The state handler isn't called meanwhile. The handler returns whether the driver goes on with the
    /// device; otherwise it is attached as a new one. A backend that goes away meanwhile is no reason not to.
    fn set_resume_handler(&self, _handler: Box<dyn Fn() -> bool + Send + Sync>) {}
    /// Lets the backend read, and write, a page. Any context. `None` without a free reference.
    fn grant(&self, frame: Frame, writable: bool) -> Option<GrantReference>;
    /// Takes the page back. False if the backend still uses it: then it stays granted, and must not be used for
    /// anything else. Any context.
    fn end_grant(&self, reference: GrantReference) -> bool;
    /// Takes the page back, and lets the backend reach another one by the same reference. False as with
    /// [`XenbusDevice::end_grant`]: then the other page isn't granted. Any context.
    fn exchange_grant(&self, reference: GrantReference, frame: Frame, writable: bool) -> bool;
    /// Makes an event channel with the backend, whose events call the handler on a CPU; returns its number.
    fn establish_event(&self, cpu: usize, handler: InterruptHandler) -> Option<u32>;
    /// Tells the backend. Any context.
    fn notify(&self, channel: u32);
    /// Closes an event channel: its handler doesn't run any more.
    fn close_event(&self, channel: u32);
}

/// A driver's look at a device: takes it (true) or leaves it for others.
pub trait Driver: Send + Sync {
    /// For messages.
    fn name(&self) -> &'static str;
    /// Called once for each PCI function that no driver took. Thread context.
    fn attach_pci(&self, _device: &Arc<dyn PciDevice>) -> bool {
        false
    }
    /// Called once for each virtio-mmio device that no driver took. Thread context.
    fn attach_mmio(&self, _device: &Arc<dyn MmioDevice>) -> bool {
        false
    }
    /// Called once for each frontend of a device of Xen's that no driver took. Thread context.
    fn attach_xenbus(&self, _device: &Arc<dyn XenbusDevice>) -> bool {
        false
    }
}

/// Physically contiguous memory that a device reads and writes, zeroed at first.
pub struct DmaMemory {
    frame: Frame,
    pages: usize,
}

impl DmaMemory {
    /// At least `bytes` bytes.
    pub fn new(bytes: usize) -> Result<Self, OutOfMemory> {
        let pages = bytes.div_ceil(crate::memory::PAGE_SIZE).next_power_of_two();
        Ok(DmaMemory { frame: crate::rumpuser_frames_alloc(pages.trailing_zeros())?, pages })
    }

    /// The address to tell the device.
    pub fn physical(&self) -> u64 {
        self.frame.physical()
    }

    /// Bytes in the region.
    pub fn len(&self) -> usize {
        self.pages * crate::memory::PAGE_SIZE
    }

    /// Never: a region has a page at least.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The memory as words, of which reading what a device writes is always defined.
    pub fn words(&self) -> &[AtomicU64] {
        let address = crate::rumpuser_frame_address(self.frame) as *const AtomicU64;
        // SAFETY: the frames are mapped, contiguous and page-aligned, stay allocated as long as `self`, and are
        // plain bytes that everybody else changes by volatile or atomic accesses, or copies of theirs.
        unsafe { core::slice::from_raw_parts(address, self.len() / size_of::<AtomicU64>()) }
    }

    /// Copies `bytes` to `offset`, where the device doesn't look at the moment. Panics if the range is not inside.
    #[inline]
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset <= self.len() && bytes.len() <= self.len() - offset, "DMA memory has an end");
        let address = crate::rumpuser_frame_address(self.frame);
        // SAFETY: the range is inside the memory; see `words`.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), address.add(offset), bytes.len()) }
    }

    /// The memory as a register window: every access is volatile and checked.
    pub fn registers(&self) -> Registers {
        // SAFETY: the frames are mapped and stay allocated as long as `self`, which the driver keeps.
        unsafe { Registers::new(crate::rumpuser_frame_address(self.frame) as usize, self.len()) }
    }
}

impl Drop for DmaMemory {
    fn drop(&mut self) {
        for page in 0..self.pages as u64 {
            crate::rumpuser_frame_release(Frame(self.frame.0 + page));
        }
    }
}
