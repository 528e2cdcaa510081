//! Thread-local storage of programs: the linker's template, then the control block that FS points to (variant II).

use alloc::alloc::{alloc_zeroed, dealloc};
use core::alloc::Layout;

use crate::thread::ControlBlock;

core::arch::global_asm!(
    ".pushsection .data.rel.ro.weak, \"aw\", @progbits",
    ".balign 8",
    ".weak netbsd_tls_start, netbsd_tls_data_end, netbsd_tls_end, netbsd_tls_alignment",
    ".global netbsd_tls",
    "netbsd_tls: .quad netbsd_tls_start, netbsd_tls_data_end, netbsd_tls_end, netbsd_tls_alignment",
    ".popsection",
);

/// The template: where it starts, where its data ends, where it ends; and its alignment.
fn template() -> [usize; 4] {
    unsafe extern "C" {
        static netbsd_tls: [usize; 4];
    }
    // SAFETY: the words stand above, are filled in by the linker and never written.
    unsafe { netbsd_tls }
}

/// The layout of a thread's storage, and the offset of the control block in it.
fn layout() -> (Layout, usize) {
    let [start, _, end, alignment] = template();
    let alignment = alignment.clamp(16, 4096).next_power_of_two();
    // The storage ends where the block begins, which is aligned as the storage is.
    let offset = (end - start).next_multiple_of(alignment);
    let size = offset + size_of::<ControlBlock>();
    (Layout::from_size_align(size, alignment).unwrap_or(Layout::new::<ControlBlock>()), offset)
}

/// Storage for a new thread: the template's data, and a control block; null if there is no memory.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn _rtld_tls_allocate() -> *mut ControlBlock {
    let (layout, offset) = layout();
    let [start, data_end, end, _] = template();
    // SAFETY: the layout has a size; the template is memory of the image, and as long as the linker says.
    unsafe {
        let storage = alloc_zeroed(layout);
        if storage.is_null() {
            return core::ptr::null_mut();
        }
        let block = storage.add(offset);
        core::ptr::copy_nonoverlapping(start as *const u8, block.sub(end - start), data_end - start);
        ControlBlock::write(block.cast());
        block.cast()
    }
}

/// # Safety
/// The block came from [`_rtld_tls_allocate`], and its thread is gone.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn _rtld_tls_free(block: *mut ControlBlock) {
    if !block.is_null() {
        let (layout, offset) = layout();
        // SAFETY: the caller's promise.
        unsafe { dealloc(block.cast::<u8>().sub(offset), layout) };
    }
}

/// The storage of the first thread is set up before the first instruction of libc.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn __libc_static_tls_setup() {}

/// What FS points to.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn _lwp_getprivate() -> *mut ControlBlock {
    crate::thread::control_block()
}
