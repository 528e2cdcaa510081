//! The platform for components of a NetBSD tree. The baker links it with the tree's archives and the programs.
#![no_std]
#![allow(unsafe_code, reason = "the entry point, the linker's symbols, the exports of the platform")]

extern crate alloc;

#[path = "../../kernel/src/boot.rs"]
mod boot;
#[path = "../../kernel/src/string.rs"]
mod string;

use bmk::platform::BootInformation;

#[global_allocator]
static HEAP: bmk::memory::heap::KernelHeap = bmk::memory::heap::KernelHeap;

rumpuser::provide!(bmk::hypercalls::Kernel);

#[cfg(not(test))]
#[panic_handler]
fn panic(information: &core::panic::PanicInfo) -> ! {
    bmk::panic::rust(information)
}

/// `core` and `alloc` are compiled for unwinding; nothing unwinds here. C++ programs have functions of these names, so
/// the baker keeps these to the platform.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// See [`rust_eh_personality`].
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    panic!("unwinding in the kernel")
}

/// Page tables of 2 MiB each with which the entry code maps the image's code and data; see the linker script.
const BOOT_TABLES: usize = 32;

unsafe extern "C" {
    static kernel_start: u8;
    static kernel_text_end: u8;
    static kernel_rodata_end: u8;
    static kernel_end: u8;
    static boot_pml4: u8;
    static boot_stack: u8;
    static boot_stack_top: u8;
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
    bmk::boot::start(&platform_hw::PC, image, magic, information, main)
}

/// Takes the devices for the tree's drivers.
static COLLECTOR: netbsd::pci::Collector =
    netbsd::pci::Collector { map: bmk::memory::kernel_map::map_device };
static DRIVERS: &[&dyn rumpuser::device::Driver] = &[&COLLECTOR];

/// The first thread.
fn main(payload: &'static [u8], information: BootInformation) {
    platform_hw::set_drivers(DRIVERS);
    bmk::platform::platform().start_devices();
    netbsd::start(payload, &information.command_line)
}
