//! Virtual CPUs: which there are, how they start, rest and go on (Xen, public/vcpu.h and public/hvm/hvm_vcpu.h). A CPU's number
//! is the kernel's number for it, too.

use alloc::{boxed::Box, format, vec::Vec};

use bmk::{hotplug, platform::CpuStart};
use platform_hw::guest;
use rumpuser::{Thread, ThreadSpec, sync::InterruptLock};

use crate::{
    events,
    hypercall::{self, PlainVcpu, VcpuOperation},
    memory,
    store::{self, Watch},
};

/// Where the toolstack says which CPUs are to run.
const NODE: &str = "cpu";
/// An error of Xen's: the CPU has registers already.
const EXISTS: i64 = -17;

/// The CPUs that the domain may ever have, the boot CPU first.
pub fn all() -> Vec<u32> {
    let exists = |cpu: &u32| hypercall::vcpu_plain(*cpu, PlainVcpu::IsUp).is_ok();
    (0..bmk::cpu::MAXIMUM as u32).take_while(exists).collect()
}

/// Whether the toolstack wants a CPU to run.
pub fn wanted(cpu: u32) -> bool {
    let availability = store::PLAIN.read(&format!("{NODE}/{cpu}/availability"));
    cpu == 0 || availability.map_or(true, |availability| availability == "online")
}

static THREAD: InterruptLock<Option<Thread>> = InterruptLock::new(None);
static WATCH: InterruptLock<Option<Watch>> = InterruptLock::new(None);

/// Starts to follow what the toolstack wants, in a thread on the boot CPU.
pub fn follow() {
    let main = Box::new(|| {
        loop {
            (1..bmk::cpu::possible()).for_each(adjust);
            rumpuser::rumpuser_park(rumpuser::NEVER);
        }
    });
    let spec = ThreadSpec { name: "cpus".into(), affinity: 1, main };
    let Ok(thread) = rumpuser::rumpuser_thread_create(spec) else { return };
    *THREAD.lock() = Some(thread);
    let changed = |_: &str| {
        if let Some(thread) = &*THREAD.lock() {
            thread.unpark();
        }
    };
    if let Ok(watch) = store::watch(NODE, changed) {
        *WATCH.lock() = Some(watch);
    }
}

fn adjust(number: usize) {
    let cpu = number as u32;
    let runs = bmk::cpu::online() & 1 << number != 0;
    match (wanted(cpu), runs) {
        (true, false) if hotplug::start(number) => {
            events::cpu_came(cpu);
            guest::cpu_came(number);
        }
        (true, false) => bmk::message!("CPU {number} doesn't start"),
        (false, true) if hotplug::stop(number, || take_interrupts(cpu)).is_err() => {
            bmk::message!("too little memory to take CPU {number} out of use");
        }
        _ => {}
    }
}

/// Has others take the interrupts of a CPU that goes.
fn take_interrupts(cpu: u32) {
    events::cpu_goes(cpu);
    guest::cpu_goes(cpu as usize);
}

/// Rests the calling CPU, until [`start`].
pub fn rest(cpu: u32) {
    // Events that came before its channels were moved are in its queues.
    events::deliver_here();
    let _ = hypercall::vcpu_plain(cpu, PlainVcpu::StopTimer);
    let _ = hypercall::vcpu_plain(cpu, PlainVcpu::Down);
}

/// Whether a CPU rests.
pub fn rests(cpu: u32) -> bool {
    hypercall::vcpu_plain(cpu, PlainVcpu::IsUp) == Ok(0)
}

/// `struct vcpu_hvm_context` with 64-bit registers.
#[repr(C)]
#[derive(Default)]
struct Context {
    mode: u32,
    padding: u32,
    rax: u64,
    rcx: u64,
    rdx: u64,
    rbx: u64,
    rsp: u64,
    rbp: u64,
    rsi: u64,
    rdi: u64,
    rip: u64,
    rflags: u64,
    cr0: u64,
    cr3: u64,
    cr4: u64,
    efer: u64,
}

// SAFETY: VCPUOP_initialise; the registers make the CPU run the kernel's code on a stack of its own.
unsafe impl VcpuOperation for Context {
    const COMMAND: u64 = 0;
}

const MODE_64: u32 = 1;
/// PE, MP, ET, NE, WP, PG.
const CR0: u64 = 0x8001_0033;
/// PAE, OSFXSR, OSXMMEXCPT.
const CR4: u64 = 0x620;
/// SCE, LME, LMA, NXE.
const EFER: u64 = 0xd01;
/// The bit that is always set.
const RFLAGS: u64 = 2;

/// Starts a CPU, in 64-bit mode at once; one that rests goes on. In a domain that was restored, those that rested were not saved.
pub fn start(cpu: u32, start: &CpuStart) {
    let context = Context {
        mode: MODE_64,
        // As after a call.
        rsp: start.stack - 8,
        rdi: start.argument,
        rip: start.entry,
        rflags: RFLAGS,
        cr0: CR0,
        cr3: start.tables,
        cr4: CR4,
        efer: EFER,
        ..Context::default()
    };
    // Whoever waits for the CPU says so if it doesn't come. The first is an error for one that rests, as it should be.
    let _ = memory::register_cpu(cpu);
    if matches!(hypercall::vcpu(cpu, &context), Ok(_) | Err(EXISTS)) {
        let _ = hypercall::vcpu_plain(cpu, PlainVcpu::Up);
    }
}
