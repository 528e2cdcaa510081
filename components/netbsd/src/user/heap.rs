//! `malloc` and its relatives, on the kernel's heap. Each block has its size and alignment in front.

use alloc::alloc::{alloc, dealloc};
use core::{alloc::Layout, ffi::c_void, ptr::null_mut};

use crate::{
    errno::{EINVAL, ENOMEM, Errno},
    thread::set_errno,
};

/// Bytes in front of a block; every block is aligned so.
const HEADER: usize = 16;

/// In front of a block: (bytes that were asked for, distance from the start of the memory).
type Header = [usize; 2];

fn layout(size: usize, alignment: usize) -> Option<Layout> {
    Layout::from_size_align(size.checked_add(alignment)?, alignment).ok()
}

fn allocate(size: usize, alignment: usize) -> *mut c_void {
    let alignment = alignment.max(HEADER);
    let Some(layout) = layout(size, alignment) else { return null_mut() };
    // SAFETY: the layout has a size of at least its alignment, which has room for the header.
    unsafe {
        let memory = alloc(layout);
        if memory.is_null() {
            return null_mut();
        }
        let block = memory.add(alignment);
        block.cast::<Header>().sub(1).write([size, alignment]);
        block.cast()
    }
}

fn or_errno(block: *mut c_void) -> *mut c_void {
    if block.is_null() {
        set_errno(ENOMEM);
    }
    block
}

/// Memory.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn malloc(size: usize) -> *mut c_void {
    or_errno(allocate(size, HEADER))
}

/// Zeroed memory.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    let Some(bytes) = count.checked_mul(size) else { return or_errno(null_mut()) };
    let block = allocate(bytes, HEADER);
    if !block.is_null() {
        // SAFETY: the block has so many bytes.
        unsafe { core::ptr::write_bytes(block.cast::<u8>(), 0, bytes) };
    }
    or_errno(block)
}

/// # Safety
/// The block is null or came from one of these functions.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn free(block: *mut c_void) {
    if block.is_null() {
        return;
    }
    // SAFETY: the caller's promise; `allocate` wrote the header.
    unsafe {
        let [size, alignment] = block.cast::<Header>().sub(1).read();
        if let Some(layout) = layout(size, alignment) {
            dealloc(block.cast::<u8>().sub(alignment), layout);
        }
    }
}

/// # Safety
/// As [`free`].
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn realloc(block: *mut c_void, size: usize) -> *mut c_void {
    if block.is_null() {
        return malloc(size);
    }
    // SAFETY: the caller's promise; `allocate` wrote the header.
    unsafe {
        let [old, alignment] = block.cast::<Header>().sub(1).read();
        let moved = if alignment == HEADER {
            // In place where the heap has room.
            let (Some(before), Some(after)) = (layout(old, alignment), layout(size, alignment)) else {
                return or_errno(null_mut());
            };
            let memory = alloc::alloc::realloc(block.cast::<u8>().sub(alignment), before, after.size());
            if memory.is_null() {
                return or_errno(null_mut());
            }
            memory.cast::<Header>().write([size, alignment]);
            return memory.add(alignment).cast();
        } else {
            allocate(size, HEADER)
        };
        if !moved.is_null() {
            core::ptr::copy_nonoverlapping(block.cast::<u8>(), moved.cast(), old.min(size));
            free(block);
        }
        or_errno(moved)
    }
}

/// # Safety
/// `place` is one for a pointer.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn posix_memalign(place: *mut *mut c_void, alignment: usize, size: usize) -> Errno {
    if !alignment.is_power_of_two() || alignment < size_of::<usize>() {
        return EINVAL;
    }
    let block = allocate(size, alignment);
    if block.is_null() {
        return ENOMEM;
    }
    // SAFETY: the caller's promise.
    unsafe { *place = block };
    0
}

/// Aligned memory.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn aligned_alloc(alignment: usize, size: usize) -> *mut c_void {
    if !alignment.is_power_of_two() {
        set_errno(EINVAL);
        return null_mut();
    }
    or_errno(allocate(size, alignment))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_keep_their_contents_and_alignment() {
        // SAFETY: every block is used within its size and freed once.
        unsafe {
            let mut block = malloc(10).cast::<u8>();
            core::ptr::write_bytes(block, 7, 10);
            for size in [100, 5000, 70_000, 20] {
                block = realloc(block.cast(), size).cast();
                assert_eq!((block as usize % 16, *block.add(9)), (0, 7));
            }
            free(block.cast());
            let mut aligned = null_mut();
            assert_eq!(posix_memalign(&mut aligned, 4096, 10), 0);
            assert_eq!(aligned as usize % 4096, 0);
            assert!(posix_memalign(&mut aligned, 24, 10) == EINVAL);
            aligned = realloc(aligned, 9000);
            assert!(!aligned.is_null());
            free(aligned);
            let zeroed = calloc(10, 100).cast::<u8>();
            assert!((0..1000).all(|index| *zeroed.add(index) == 0));
            free(zeroed.cast());
        }
    }
}
