//! What every kernel has: the heap, the hypercalls, the ends of panics, and the way from the entry code to `main`. The
//! kernel for NetBSD's components takes in this file, too.

#[global_allocator]
static HEAP: bmk::memory::heap::KernelHeap = bmk::memory::heap::KernelHeap;

rumpuser::provide!(bmk::hypercalls::Kernel);

#[cfg(not(test))]
#[panic_handler]
fn panic(information: &core::panic::PanicInfo) -> ! {
    bmk::panic::rust(information)
}

/// `core` and `alloc` are compiled for unwinding; nothing unwinds here. C++ programs have functions of these names, so
/// NetBSD images keep these to the platform.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// See [`rust_eh_personality`].
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    panic!("unwinding in the kernel")
}

unsafe extern "C" {
    static kernel_start: u8;
    static kernel_text_end: u8;
    static kernel_rodata_end: u8;
    static kernel_end: u8;
    static boot_pml4: u8;
    pub static boot_stack: u8;
    pub static boot_stack_top: u8;
    static trampoline_start: u8;
    static trampoline_words: u8;
    static trampoline_end: u8;
}

/// Called by the entry code.
#[unsafe(no_mangle)]
extern "sysv64" fn kernel_boot(magic: u32, information: u64, delta: u64) -> ! {
    let at = |symbol: *const u8| symbol as usize;
    let (start, text_end) = (at(&raw const kernel_start), at(&raw const kernel_text_end));
    let (rodata_end, end) = (at(&raw const kernel_rodata_end), at(&raw const kernel_end));
    let trampoline = at(&raw const trampoline_start);
    // SAFETY: the linker's symbols enclose the code to copy.
    let code = unsafe {
        core::slice::from_raw_parts(&raw const trampoline_start, at(&raw const trampoline_end) - trampoline)
    };
    let image = bmk::boot::Image {
        text: start..text_end,
        rodata: text_end..rodata_end,
        data: rodata_end..end,
        boot_tables: at(&raw const boot_pml4),
        stack: at(&raw const boot_stack)..at(&raw const boot_stack_top),
        trampoline: (code, at(&raw const trampoline_words) - trampoline),
        delta,
    };
    bmk::boot::start(crate::platform(magic), image, magic, information, crate::main)
}
