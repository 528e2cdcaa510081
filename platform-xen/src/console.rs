//! The console: a ring of bytes for each direction (Xen, public/io/console.h), and before it is there, the hypervisor's own
//! log by a port.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use once_cell::race::OnceBox;

use crate::{clock, events, hypercall, memory, ring::ByteRing};

/// What is written here appears in the hypervisor's log, if that takes what guests say.
const LOG_PORT: u16 = 0xe9;
const CONSOLE_FRAME: u32 = 17;
const CONSOLE_PORT: u32 = 18;
/// How long a writer waits for the console's daemon, in nanoseconds.
const PATIENCE: u64 = 1_000_000_000;

/// `struct xencons_interface`.
#[repr(C)]
struct Interface {
    input: [AtomicU8; 1024],
    output: [AtomicU8; 2048],
    input_consumer: AtomicU32,
    input_producer: AtomicU32,
    output_consumer: AtomicU32,
    output_producer: AtomicU32,
}

struct Console {
    interface: &'static Interface,
    /// It changes when the domain is restored.
    port: AtomicU32,
}

static CONSOLE: OnceBox<Console> = OnceBox::new();
/// Nobody has read for long: writers don't wait any more.
static STUCK: AtomicBool = AtomicBool::new(false);
static LISTENS: AtomicBool = AtomicBool::new(false);

impl Console {
    fn port(&self) -> events::Port {
        self.port.load(Ordering::Relaxed)
    }

    fn output(&self) -> ByteRing<'_> {
        let interface = self.interface;
        ByteRing::new(&interface.output, &interface.output_consumer, &interface.output_producer)
    }

    fn input(&self) -> ByteRing<'_> {
        let interface = self.interface;
        ByteRing::new(&interface.input, &interface.input_consumer, &interface.input_producer)
    }

    fn write(&self, bytes: &[u8]) {
        let mut rest = bytes;
        let mut limit = None;
        while !rest.is_empty() {
            let Ok(count) = self.output().send(rest) else { return };
            if count > 0 {
                events::notify(self.port());
                rest = &rest[count..];
                limit = None;
                STUCK.store(false, Ordering::Relaxed);
                continue;
            }
            let now = clock::system_time();
            if STUCK.load(Ordering::Relaxed) || now >= *limit.get_or_insert(now.saturating_add(PATIENCE)) {
                STUCK.store(true, Ordering::Relaxed);
                return;
            }
            hypercall::yield_cpu();
        }
    }

    /// Takes what was typed, as far as there is room for it.
    fn read(&self) {
        let mut bytes = [0; 256];
        loop {
            let room = bmk::console::room().min(bytes.len());
            match self.input().receive(&mut bytes[..room]) {
                Ok(count @ 1..) => {
                    bmk::console::input(&bytes[..count]);
                    events::notify(self.port());
                }
                _ => break,
            }
        }
    }
}

/// Finds the rings, once memory works.
pub fn initialise() {
    let (Some(frame), Some(port)) = (memory::parameter(CONSOLE_FRAME), memory::parameter(CONSOLE_PORT))
    else {
        return;
    };
    let address = bmk::memory::map_firmware(frame * 4096, 4096);
    // SAFETY: the console's page, mapped for ever; the structure is made of atomics.
    let interface = unsafe { &*(address as *const Interface) };
    let Ok(port) = u32::try_from(port) else { return };
    let _ = CONSOLE.set(Box::new(Console { interface, port: AtomicU32::new(port) }));
}

/// Takes the channel of a restored domain, while the other CPUs stand still; its page is where it was.
pub fn resume() {
    if let Some(console) = CONSOLE.get()
        && let Some(port) = memory::parameter(CONSOLE_PORT).and_then(|port| u32::try_from(port).ok())
    {
        console.port.store(port, Ordering::Relaxed);
        if LISTENS.load(Ordering::Acquire) {
            events::establish(port, Box::new(resume_input));
        }
    }
}

fn write_log(bytes: &[u8]) {
    // SAFETY: the instruction reads `bytes.len()` bytes from the slice's start on; the port is the hypervisor's.
    unsafe {
        core::arch::asm!("rep outsb", in("dx") LOG_PORT, inout("rsi") bytes.as_ptr() => _,
            inout("rcx") bytes.len() => _, options(nostack, preserves_flags, readonly));
    }
}

/// Writes. Any context.
pub fn write(bytes: &[u8]) {
    match CONSOLE.get() {
        Some(console) => console.write(bytes),
        None => write_log(bytes),
    }
}

/// Turns on input, once there is someone to read it.
pub fn start_input() {
    let Some(console) = CONSOLE.get() else { return };
    if !LISTENS.swap(true, Ordering::AcqRel) {
        events::establish(console.port(), Box::new(resume_input));
        resume_input();
    }
}

/// Takes what was left in the ring.
pub fn resume_input() {
    static READING: rumpuser::sync::InterruptLock<()> = rumpuser::sync::InterruptLock::new(());
    if let Some(console) = CONSOLE.get()
        && LISTENS.load(Ordering::Acquire)
    {
        let _guard = READING.lock();
        console.read();
    }
}
