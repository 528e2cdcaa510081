//! From the first Rust instruction to the first thread.

pub mod loader;
pub mod map;
pub mod setup;

use alloc::{boxed::Box, string::String};
use core::ops::Range;

use rumpuser::{Halt, ThreadSpec};

use crate::{
    clock,
    console::Console,
    cpu, memory, panic,
    platform::{self, BootInformation, Platform, platform},
    schedule, smp, trap,
};
use loader::Loaded;

/// What the entry code and the linker script know.
#[derive(Debug, Clone)]
pub struct Image {
    /// Code, by link addresses.
    pub text: Range<usize>,
    /// Constants.
    pub rodata: Range<usize>,
    /// Data, zeroed data included; the kernel's end.
    pub data: Range<usize>,
    /// The page tables of the entry code, which map the first 4 GiB to themselves.
    pub boot_tables: usize,
    /// The boot stack.
    pub stack: Range<usize>,
    /// The real-mode code for other CPUs, and the offset of its [`smp::TrampolineWords`].
    pub trampoline: (&'static [u8], usize),
    /// Load address less link address.
    pub delta: u64,
}

/// What runs in the first thread: gets the payload (empty if there is none).
pub type Main = fn(payload: &'static [u8], information: BootInformation);

/// Ends the machine before it has begun.
pub fn refuse(reason: core::fmt::Arguments) -> ! {
    let _ = core::fmt::write(&mut Console, format_args!("cannot boot: {reason}\n"));
    platform().halt(Halt::PowerOff(1))
}

/// Boots. `magic` and `information` are what the boot loader left in eax and ebx. Called once, by the entry
/// code, on the boot stack with interrupts disabled.
pub fn start(this: &'static dyn Platform, image: Image, magic: u32, information: u64, main: Main) -> ! {
    platform::register(this);
    cpu::initialise_boot();
    trap::initialise();
    trap::load();
    layout_delta(&image);
    let loaded = Loaded::read(magic, information);
    let payload = setup::memory(&image, &loaded);
    // SAFETY: the payload is mapped read-only in the direct map, for ever.
    let payload = unsafe { core::slice::from_raw_parts(payload.start as *const u8, payload.len()) };
    if let Ok(payload) = image::payload::Payload::parse(payload) {
        panic::set_symbols(payload.symbols());
    }
    let boot = cpu::current();
    if cpu::initialise_tables(boot).is_err() {
        refuse(format_args!("too little memory for the boot CPU"));
    }
    smp::enable_features();
    trap::extended::initialise();
    let mut information = BootInformation {
        memory: loaded.memory().map(|region| (region.start, region.end - region.start)).collect(),
        rsdp: loaded.rsdp(),
        command_line: String::from_utf8_lossy(loaded.command_line()).into_owned(),
    };
    this.discover(&information);
    clock::initialise(this.tsc_frequency());
    if let Some(more) = this.command_line() {
        if !information.command_line.is_empty() {
            information.command_line.push(' ');
        }
        information.command_line.push_str(&more);
    }
    let cpus = this.cpus();
    cpu::set_boot_hardware(cpus.first().copied().unwrap_or(0));
    this.initialise_cpu();
    schedule::adopt(boot, image.stack.end);
    smp::start(&image, &loaded, cpus.get(1..).unwrap_or_default());
    let first = ThreadSpec {
        name: "main".into(),
        affinity: u64::MAX,
        main: Box::new(move || main(payload, information)),
    };
    if crate::console::start().is_err() || schedule::spawn(first).is_err() {
        refuse(format_args!("too little memory for the first thread"));
    }
    schedule::idle::run()
}

fn layout_delta(image: &Image) {
    memory::layout::set_kernel_delta(image.delta);
}

/// The physical range of an image range.
pub(crate) fn physical(range: &Range<usize>) -> Range<u64> {
    memory::layout::physical(range.start)..memory::layout::physical(range.end)
}
