//! Memory of the rump kernel: `rumpuser_malloc` and its relatives. The caller tells sizes when it frees.

use alloc::alloc::{alloc, alloc_zeroed, dealloc};
use core::{
    alloc::Layout,
    ffi::{c_int, c_void},
};

use rumpuser::memory::PAGE_SIZE;

use crate::errno::{EINVAL, ENOMEM, Errno};

/// The layout of a block: `rumpuser_free` doesn't know the alignment, so it follows from the size: a block is aligned
/// to its own size, up to a page.
fn layout(size: usize) -> Option<Layout> {
    let alignment = if size > 2048 { PAGE_SIZE } else { size.next_power_of_two().clamp(16, 512) };
    Layout::from_size_align(size.max(1), alignment).ok()
}

/// # Safety
/// The pointer is to a place for a pointer.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_malloc(size: usize, alignment: c_int, place: *mut *mut c_void) -> Errno {
    let alignment = usize::try_from(alignment).unwrap_or(0).max(1);
    let Some(mut layout) = layout(size) else { return EINVAL };
    if alignment > layout.align() {
        // Whole frames are freed one by one, whatever their alignment was.
        match Layout::from_size_align(size, alignment) {
            Ok(aligned) if layout.align() == PAGE_SIZE => layout = aligned,
            _ => return EINVAL,
        }
    }
    // SAFETY: the layout has a size; the place is the caller's promise.
    unsafe {
        let block = alloc(layout);
        *place = block.cast();
        if block.is_null() { ENOMEM } else { 0 }
    }
}

/// # Safety
/// The block came from `rumpuser_malloc` with this size.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_free(block: *mut c_void, size: usize) {
    if let Some(layout) = layout(size).filter(|_| !block.is_null()) {
        // SAFETY: the layout as it was allocated.
        unsafe { dealloc(block.cast(), layout) };
    }
}

/// Zeroed pages; the preferred address isn't looked at, and no page is executable.
///
/// # Safety
/// The pointer is to a place for a pointer.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_anonmmap(
    _preferred: *mut c_void,
    size: usize,
    alignment_bits: c_int,
    _executable: c_int,
    place: *mut *mut c_void,
) -> Errno {
    let alignment = 1usize.checked_shl(alignment_bits.max(0) as u32).unwrap_or(0).max(PAGE_SIZE);
    let Some(size) = size.max(1).checked_next_multiple_of(PAGE_SIZE) else { return EINVAL };
    let Ok(layout) = Layout::from_size_align(size, alignment) else { return EINVAL };
    // SAFETY: the layout has a size; the place is the caller's promise.
    unsafe {
        let block = alloc_zeroed(layout);
        *place = block.cast();
        if block.is_null() { ENOMEM } else { 0 }
    }
}

/// # Safety
/// The pages came from `rumpuser_anonmmap` with this size.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_unmap(block: *mut c_void, size: usize) {
    // SAFETY: frames are freed one by one, whatever the alignment was.
    unsafe { rumpuser_free(block, size.next_multiple_of(PAGE_SIZE)) };
}

#[cfg(test)]
mod tests {
    use core::ptr::null_mut;

    use super::*;

    #[test]
    fn blocks_are_aligned() {
        for (size, alignment) in [(1, 8), (100, 64), (320, 512), (4096, 4096), (8192, 16), (65536, 4096)] {
            let mut block = null_mut();
            // SAFETY: the place is one; the block is freed with its size.
            unsafe {
                assert_eq!(rumpuser_malloc(size, alignment, &mut block), 0);
                assert_eq!(block as usize % alignment as usize, 0);
                rumpuser_free(block, size);
            }
        }
        let mut block = null_mut();
        // SAFETY: the place is one.
        assert_eq!(unsafe { rumpuser_malloc(64, 4096, &mut block) }, EINVAL);
    }
}
