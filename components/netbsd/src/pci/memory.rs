//! Device registers and memory that devices reach: `rumpcomp_pci_map`, `rumpcomp_pci_d*`, `rumpcomp_pci_virt_to_mach`.

use core::{
    alloc::Layout,
    ffi::{c_ulong, c_void},
};

use rumpuser::{memory::PAGE_SIZE, rumpuser_frame_of};

use super::MAP;
use crate::{
    errno::{EINVAL, ENOMEM, Errno},
    user::memory,
};

/// Maps registers; null without PCI.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn rumpcomp_pci_map(address: c_ulong, length: c_ulong) -> *mut c_void {
    let map = *MAP.lock();
    map.map_or(core::ptr::null_mut(), |map| map(address, length as usize) as *mut c_void)
}

/// Physically contiguous memory: whole pages, aligned.
fn layout(size: usize, alignment: usize) -> Option<Layout> {
    let size = size.max(1).checked_next_multiple_of(PAGE_SIZE)?;
    Layout::from_size_align(size, alignment.max(PAGE_SIZE)).ok()
}

/// # Safety
/// The pointers are to places for words.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpcomp_pci_dmalloc(
    size: usize,
    alignment: usize,
    physical: *mut c_ulong,
    address: *mut c_ulong,
) -> Errno {
    let Some(layout) = layout(size, alignment) else { return EINVAL };
    // SAFETY: the layout has a size; the places are the caller's promise. The heap's frames are contiguous.
    unsafe {
        let block = alloc::alloc::alloc_zeroed(layout);
        if block.is_null() {
            return ENOMEM;
        }
        *physical = rumpcomp_pci_virt_to_mach(block.cast());
        *address = block as c_ulong;
    }
    0
}

/// # Safety
/// The memory came from [`rumpcomp_pci_dmalloc`] with this size.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpcomp_pci_dmafree(address: c_ulong, size: usize) {
    if let Some(layout) = layout(size, PAGE_SIZE) {
        // SAFETY: whole frames are freed one by one, whatever their alignment was.
        unsafe { alloc::alloc::dealloc(address as *mut u8, layout) };
    }
}

/// `struct rumpcomp_pci_dmaseg`.
#[repr(C)]
pub struct Segment {
    physical: c_ulong,
    length: c_ulong,
    address: c_ulong,
}

/// All segments in one piece: possible where there is one.
///
/// # Safety
/// There are `count` segments; `place` is one for a pointer.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpcomp_pci_dmamem_map(
    segments: *const Segment,
    count: usize,
    _total: usize,
    place: *mut *mut c_void,
) -> Errno {
    if count != 1 {
        return ENOMEM;
    }
    // SAFETY: the caller's promise.
    unsafe { *place = (*segments).address as *mut c_void };
    0
}

/// The physical address of memory of the kernel or of a program.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn rumpcomp_pci_virt_to_mach(address: *mut c_void) -> c_ulong {
    let offset = (address as usize % PAGE_SIZE) as c_ulong;
    memory::frame_at(address as usize).unwrap_or_else(|| rumpuser_frame_of(address.cast())).physical()
        + offset
}
