//! Event channels (Xen, public/event_channel.h): binding, delivery to handlers, and the interrupts that are made of them.
//!
//! The hypervisor raises one vector on the CPU to which an event is bound; which events wait is told by the FIFO ABI, or by
//! the older one of two levels of bits.

mod fifo;
mod operations;
mod two_level;
mod upcall;

use alloc::{boxed::Box, vec::Vec};
use core::sync::atomic::{AtomicU32, Ordering};

use bmk::platform::{TIMER_VECTOR, WAKE_VECTOR};
use once_cell::race::OnceBox;
use rumpuser::{OutOfMemory, device::InterruptHandler, sync::InterruptLock};

use crate::{
    hypercall,
    memory::{self, VcpuInformation},
};
use operations::{AllocateUnbound, BindCpu, BindIpi, BindVirq, Close, Send, Unmask};

/// A channel of this domain.
pub type Port = u32;

/// The most channels: what the toolstack allows a domain unless told otherwise.
const PORTS: usize = 1024;
/// The timer's virtual interrupt.
const VIRQ_TIMER: u32 = 0;
/// Linux's name for the choice between the ABIs.
const NO_FIFO: &str = "xen.fifo_events=0";

/// Which events wait.
enum Abi {
    Fifo(Box<fifo::Fifo>),
    TwoLevel(two_level::TwoLevel),
}

impl Abi {
    /// Binds an event to a CPU; nobody else does, or unmasks it, meanwhile.
    fn bind(&self, port: Port, cpu: u32) {
        match self {
            Abi::Fifo(_) => drop(operations::perform(BindCpu { port, cpu })),
            Abi::TwoLevel(bits) => bits.bind(port, cpu),
        }
    }
}

struct Events {
    abi: Abi,
    /// Held while a handler runs, so that who closes a channel knows that it has ended.
    handlers: Vec<InterruptLock<Option<InterruptHandler>>>,
    /// The channel of [`WAKE_VECTOR`], for each CPU; 0 without one.
    wake: [AtomicU32; bmk::cpu::MAXIMUM],
    /// The CPU to which each channel of a device belongs, and goes back when it comes again. Held while channels are bound and unmasked.
    homes: InterruptLock<Box<[u8]>>,
}

static EVENTS: OnceBox<Events> = OnceBox::new();

fn events() -> Option<&'static Events> {
    EVENTS.get()
}

/// Chooses the ABI and the vector, on the boot CPU.
pub fn initialise(command_line: &str) -> Result<(), OutOfMemory> {
    let wants_fifo = !command_line.split_ascii_whitespace().any(|word| word == NO_FIFO);
    let abi = match wants_fifo.then(fifo::Fifo::new).transpose()?.flatten() {
        Some(fifo) => Abi::Fifo(Box::new(fifo)),
        None => Abi::TwoLevel(two_level::TwoLevel::new()),
    };
    let handlers = (0..PORTS).map(|_| InterruptLock::new(None)).collect();
    let homes = InterruptLock::new(alloc::vec![0; PORTS].into());
    let _ = EVENTS.set(Box::new(Events { abi, handlers, wake: [const { AtomicU32::new(0) }; _], homes }));
    let vector = bmk::trap::allocate_vector(Box::new(interrupted)).ok_or(OutOfMemory)?;
    upcall::initialise(vector).map_err(|_| OutOfMemory)
}

/// Sets the events of a restored domain up, on the boot CPU while the others stand still. No channel of before is left, so
/// the handlers go, too: to the caller, who may drop them when there are interrupts again.
pub fn resume() -> Result<Vec<InterruptHandler>, i64> {
    let Some(events) = events() else { return Err(-1) };
    let handlers = events.handlers.iter().filter_map(|slot| slot.lock().take()).collect();
    events.homes.lock().fill(0);
    match &events.abi {
        Abi::Fifo(fifo) => fifo.resume()?,
        Abi::TwoLevel(bits) => bits.reset(),
    }
    upcall::resume()?;
    Ok(handlers)
}

/// Gives the calling CPU its timer and the interrupt that others send it.
pub fn initialise_cpu(cpu: u32) -> Result<(), i64> {
    let Some(events) = events() else { return Err(-1) };
    if let Abi::Fifo(fifo) = &events.abi {
        fifo.initialise_cpu(cpu)?;
    }
    upcall::initialise_cpu(cpu)?;
    let wake = operations::perform(BindIpi { cpu, port: 0 })?.port;
    let timer = operations::perform(BindVirq { virq: VIRQ_TIMER, cpu, port: 0 })?.port;
    if let Some(slot) = events.wake.get(cpu as usize) {
        slot.store(wake, Ordering::SeqCst);
    }
    for (port, vector) in [(wake, WAKE_VECTOR), (timer, TIMER_VECTOR)] {
        if let Abi::TwoLevel(bits) = &events.abi {
            bits.bound(port, cpu);
        }
        if !establish(port, Box::new(move || bmk::trap::interrupt(vector))) {
            return Err(-1);
        }
    }
    Ok(())
}

/// Interrupts a CPU (`WAKE_VECTOR`, the only one that is sent).
pub fn wake(cpu: u32) {
    if let Some(port) = events().and_then(|events| events.wake.get(cpu as usize)) {
        notify(port.load(Ordering::Relaxed));
    }
}

/// Sets the handler of a channel, and lets its events through. Handlers run with interrupts disabled on the CPU to which
/// the channel is bound, the first unless told otherwise. Returns whether it worked.
pub fn establish(port: Port, handler: InterruptHandler) -> bool {
    let Some(events) = events() else { return false };
    let Some(slot) = events.handlers.get(port as usize).filter(|_| port != 0) else { return false };
    let before = slot.lock().replace(handler);
    drop(before);
    let _homes = events.homes.lock();
    operations::perform(Unmask { port }).is_ok()
}

/// Makes a channel that another domain can connect to.
pub fn allocate(remote: u16) -> Option<Port> {
    let made = operations::perform(AllocateUnbound { domain: hypercall::SELF, remote, port: 0 }).ok()?;
    if (made.port as usize) < PORTS {
        return Some(made.port);
    }
    close(made.port);
    None
}

/// Has a channel's events delivered to a CPU, while that runs.
pub fn bind(port: Port, cpu: u32) {
    let Some(events) = events() else { return };
    let mut homes = events.homes.lock();
    if let Some(home) = homes.get_mut(port as usize) {
        *home = u8::try_from(cpu).unwrap_or(0);
    }
    let runs = bmk::cpu::online() & 1 << cpu != 0;
    events.abi.bind(port, if runs { cpu } else { 0 });
}

/// Has the events that a CPU gets delivered to the first one.
pub fn cpu_goes(cpu: u32) {
    move_events(cpu, 0);
}

/// Has a CPU that runs again get its events.
pub fn cpu_came(cpu: u32) {
    move_events(cpu, cpu);
}

fn move_events(home: u32, cpu: u32) {
    let Some(events) = events() else { return };
    let homes = events.homes.lock();
    for (port, _) in homes.iter().enumerate().filter(|(_, its)| u32::from(**its) == home) {
        events.abi.bind(port as Port, cpu);
    }
}

/// Tells the other side.
#[inline]
pub fn notify(port: Port) {
    if port != 0 {
        let _ = operations::perform(Send { port });
    }
}

/// Closes a channel; its handler doesn't run any more.
pub fn close(port: Port) {
    if let Some(home) =
        events().map(|events| events.homes.lock()).as_mut().and_then(|homes| homes.get_mut(port as usize))
    {
        *home = 0;
    }
    let _ = operations::perform(Close { port });
    let handler = events().and_then(|events| events.handlers.get(port as usize)?.lock().take());
    drop(handler);
}

/// Calls the handler of an event.
fn deliver(events: &Events, port: Port) {
    let Some(slot) = events.handlers.get(port as usize) else { return };
    if let Some(handler) = &*slot.lock() {
        handler();
    }
}

/// The vector's handler: delivers what waits for the calling CPU.
fn interrupted() {
    // Before the look, so that what comes after it makes an upcall of its own.
    upcall::taken();
    deliver_here();
}

/// Delivers what waits for the calling CPU though no upcall has come for it; returns whether something did. One that was lost would
/// be the last: the hypervisor makes no other before it is taken. Interrupts are disabled.
pub fn take_lost() -> bool {
    let waits = memory::cpu(crate::current_vcpu())
        .is_some_and(|information| information.upcall_pending.load(Ordering::SeqCst) != 0);
    if waits {
        interrupted();
    }
    waits
}

/// Delivers what waits for the calling CPU. Interrupts are disabled.
pub fn deliver_here() {
    let cpu = crate::current_vcpu();
    if let (Some(events), Some(information)) = (events(), memory::cpu(cpu)) {
        deliver_all(events, cpu, information);
    }
}

fn deliver_all(events: &Events, cpu: u32, information: &VcpuInformation) {
    // The hypervisor makes no other upcall as long as this is set.
    while information.upcall_pending.swap(0, Ordering::SeqCst) != 0 {
        match &events.abi {
            Abi::Fifo(fifo) => fifo.deliver(cpu, &|port| deliver(events, port)),
            Abi::TwoLevel(bits) => bits.deliver(cpu, information, &|port| deliver(events, port)),
        }
    }
}
