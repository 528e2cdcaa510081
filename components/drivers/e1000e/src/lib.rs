//! The Intel 82574 (QEMU: `e1000e`): two pairs of queues, MSI-X, checksums and TCP segmentation.
//!
//! What the device writes is checked before it is used.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod receive;
mod registers;
mod transmit;

use alloc::{boxed::Box, format, string::String, sync::Arc, vec::Vec};
use core::{
    hint::spin_loop,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use once_cell::race::OnceBox;
use receive::Receive;
use registers as register;
use rumpnet::{
    device::{
        DeviceStatistics, HardwareAddress, NetworkDevice, Offloads, Properties, TransmitError, Upcalls,
    },
    interface,
    packet::{Packet, Received},
};
use rumpuser::{
    OutOfMemory,
    device::{Driver, InterruptHandler, PciDevice, Registers},
    rumpuser_clock_monotonic, rumpuser_console_write, rumpuser_cpu_count, rumpuser_getrandom,
    sync::{InterruptLock, SpinLock},
};
use transmit::{MOST_FRAGMENTS, Transmit};

const VENDOR: u16 = 0x8086;
/// 82574L and 82574LA.
const DEVICES: [u16; 2] = [0x10d3, 0x10f6];
const MSI_X: u8 = 0x11;
const MSI_X_ENABLE: u32 = 1 << 15;

/// Pairs of queues that the device has.
const QUEUES: usize = 2;
/// Its largest frame is 9234 bytes, with link header and CRC.
const LARGEST_MTU: usize = 9216;
/// How long a reset may take, in nanoseconds.
const PATIENCE: u64 = 100_000_000;

/// The driver to register with the platform.
pub struct E1000e;

impl Driver for E1000e {
    fn name(&self) -> &'static str {
        "e1000e"
    }

    fn attach_pci(&self, device: &Arc<dyn PciDevice>) -> bool {
        let (vendor, identifier, ..) = device.identifiers();
        if vendor != VENDOR || !DEVICES.contains(&identifier) {
            return false;
        }
        let adapter = Adapter::open(device);
        if let Some(adapter) = &adapter
            && interface::attach(adapter.clone()).is_some()
        {
            let adapter = adapter.clone();
            device.set_removal_handler(Box::new(move || {
                adapter.upcall(|upcalls| upcalls.gone());
                adapter.stop();
            }));
        } else {
            rumpuser_console_write(b"e1000e: a network device does not work\n");
        }
        true
    }
}

/// A pair of queues.
struct Pair {
    receive: SpinLock<Receive>,
    transmit: SpinLock<Transmit>,
    /// The transmit ring was full, and an interrupt is to tell when it no longer is.
    full: AtomicBool,
}

/// A device.
struct Adapter {
    registers: Registers,
    properties: Properties,
    pairs: Vec<Pair>,
    /// Vectors tell the queues apart.
    messages: AtomicBool,
    upcalls: OnceBox<Box<dyn Upcalls>>,
    stopped: AtomicBool,
    /// The registers that are read and written in several steps.
    settings: InterruptLock<()>,
    transmit_errors: AtomicU64,
    /// What the device's counters had, which reading clears.
    receive_errors: AtomicU64,
    missed: AtomicU64,
}

impl Adapter {
    fn open(device: &Arc<dyn PciDevice>) -> Option<Arc<Adapter>> {
        device.enable();
        let registers = device.map_bar(0).filter(|registers| registers.len() >= register::LENGTH)?;
        reset(registers)?;
        let queues = rumpuser_cpu_count().clamp(1, QUEUES);
        let adapter = Arc::new(Adapter {
            registers,
            properties: properties(&**device, registers, queues),
            pairs: (0..queues).map(|_| Pair::new()).collect::<Result<_, _>>().ok()?,
            messages: AtomicBool::new(false),
            upcalls: OnceBox::new(),
            stopped: AtomicBool::new(false),
            settings: InterruptLock::new(()),
            transmit_errors: AtomicU64::new(0),
            receive_errors: AtomicU64::new(0),
            missed: AtomicU64::new(0),
        });
        adapter.set_up();
        if !adapter.establish_interrupts(&**device) {
            reset(registers);
            return None;
        }
        adapter.enable_interrupts();
        Some(adapter)
    }

    /// Gives the device its rings and turns it on.
    fn set_up(&self) {
        let write = |register, value| self.registers.write32(register, value);
        for word in 0..register::MULTICAST_WORDS {
            write(register::MULTICAST + 4 * word, 0);
        }
        write(register::FILTER, register::FILTER_EXTENDED);
        write(register::CHECKSUM, register::CHECKSUM_ON);
        if self.pairs.len() > 1 {
            let mut key = [0; 40];
            rumpuser_getrandom(&mut key);
            for (index, word) in key.as_chunks::<4>().0.iter().enumerate() {
                write(register::HASH_KEY + 4 * index, u32::from_le_bytes(*word));
            }
            for word in 0..32 {
                // Every other hash leads to queue 1.
                write(register::REDIRECTION + 4 * word, 0x8000_8000);
            }
            write(register::QUEUES, register::QUEUES_HASH);
        }
        for (index, pair) in self.pairs.iter().enumerate() {
            let step = index * register::QUEUE_STEP;
            let receive = pair.receive.lock();
            let base = receive.physical();
            write(register::RECEIVE_BASE + step, base as u32);
            write(register::RECEIVE_BASE + step + 4, (base >> 32) as u32);
            write(register::RECEIVE_LENGTH + step, (receive::SIZE * 16) as u32);
            write(register::RECEIVE_HEAD + step, 0);
            write(register::RECEIVE_TAIL + step, 0);
            let base = pair.transmit.lock().physical();
            write(register::TRANSMIT_BASE + step, base as u32);
            write(register::TRANSMIT_BASE + step + 4, (base >> 32) as u32);
            write(register::TRANSMIT_LENGTH + step, (transmit::SIZE * 16) as u32);
            write(register::TRANSMIT_HEAD + step, 0);
            write(register::TRANSMIT_TAIL + step, 0);
            write(register::TRANSMIT_DESCRIPTORS + step, register::TRANSMIT_DESCRIPTORS_VALUE);
        }
        write(register::TRANSMIT, register::TRANSMIT_ON);
        self.set_receive_control(0);
        for (index, pair) in self.pairs.iter().enumerate() {
            let tail = register::RECEIVE_TAIL + index * register::QUEUE_STEP;
            write(tail, pair.receive.lock().tail());
        }
        let control = self.registers.read32(register::CONTROL);
        write(register::CONTROL, control | register::CONTROL_LINK | register::CONTROL_DETECT);
    }

    fn set_receive_control(&self, which: u32) {
        let control = register::RECEIVE_ON
            | register::RECEIVE_LONG
            | register::RECEIVE_BROADCAST
            | register::RECEIVE_PAGES
            | register::RECEIVE_STRIP;
        self.registers.write32(register::RECEIVE, control | which);
    }

    fn establish_interrupts(self: &Arc<Self>, device: &dyn PciDevice) -> bool {
        let mut handlers: Vec<InterruptHandler> = Vec::new();
        for index in 0..self.pairs.len() {
            let adapter = self.clone();
            handlers.push(Box::new(move || adapter.interrupt(index)));
        }
        let adapter = self.clone();
        handlers.push(Box::new(move || adapter.other_interrupt()));
        if device.establish_interrupts(handlers) {
            let capability = device.capabilities(MSI_X).first().copied();
            let on = capability
                .is_some_and(|capability| device.config_read(capability + 2, 2) & MSI_X_ENABLE != 0);
            self.messages.store(on, Ordering::SeqCst);
            return on;
        }
        let adapter = self.clone();
        device.establish_interrupts(Vec::from([
            Box::new(move || adapter.shared_interrupt()) as InterruptHandler
        ]))
    }

    /// Lets the causes have their vectors. Receive queues stay masked until they are armed.
    fn enable_interrupts(&self) {
        let write = |register, value| self.registers.write32(register, value);
        let mut causes = register::CAUSE_LINK;
        if self.messages.load(Ordering::SeqCst) {
            const VALID: u32 = 8;
            let mut vectors = 0;
            let mut clear = 0;
            for index in 0..self.pairs.len() as u32 {
                let vector = VALID | index;
                vectors |= vector << (4 * index) | vector << (8 + 4 * index);
                clear |= (register::CAUSE_RECEIVE_QUEUE | register::CAUSE_TRANSMIT_QUEUE) << index;
            }
            vectors |= (VALID | self.pairs.len() as u32) << 16;
            write(register::VECTORS, vectors);
            write(register::AUTO_CLEAR, clear);
            causes |= register::CAUSE_OTHER;
        }
        write(register::MASK_SET, causes);
    }

    /// The causes of a queue's packets, and of its room.
    fn causes(&self, index: usize) -> (u32, u32) {
        if self.messages.load(Ordering::Relaxed) {
            (register::CAUSE_RECEIVE_QUEUE << index, register::CAUSE_TRANSMIT_QUEUE << index)
        } else {
            (register::CAUSE_RECEIVE, register::CAUSE_SENT)
        }
    }

    fn upcall(&self, call: impl FnOnce(&dyn Upcalls)) {
        if let Some(upcalls) = self.upcalls.get()
            && !self.stopped.load(Ordering::SeqCst)
        {
            call(&**upcalls);
        }
    }

    /// The interrupt of a pair of queues.
    fn interrupt(&self, index: usize) {
        if let Some(pair) = self.pairs.get(index)
            && pair.full.swap(false, Ordering::SeqCst)
        {
            self.registers.write32(register::MASK_CLEAR, self.causes(index).1);
            self.upcall(|upcalls| upcalls.room(index));
        }
        self.upcall(|upcalls| upcalls.interrupt(index));
    }

    /// The interrupt of everything else.
    fn other_interrupt(&self) {
        self.registers.write32(register::CAUSE, register::CAUSE_LINK | register::CAUSE_OTHER);
        self.registers.write32(register::MASK_SET, register::CAUSE_LINK | register::CAUSE_OTHER);
        self.upcall(|upcalls| upcalls.link_changed());
    }

    /// The one interrupt of a device without vectors.
    fn shared_interrupt(&self) {
        // Reading clears.
        let causes = self.registers.read32(register::CAUSE);
        if causes == 0 {
            return;
        }
        if causes & register::CAUSE_LINK != 0 {
            self.upcall(|upcalls| upcalls.link_changed());
        }
        for index in 0..self.pairs.len() {
            self.interrupt(index);
        }
    }

    /// Whether the device is still there: a register that never has all bits set.
    fn present(&self) -> bool {
        self.registers.read32(register::STATUS) != u32::MAX
    }
}

impl Pair {
    fn new() -> Result<Pair, OutOfMemory> {
        Ok(Pair {
            receive: SpinLock::new(Receive::new()?),
            transmit: SpinLock::new(Transmit::new()?),
            full: AtomicBool::new(false),
        })
    }
}

/// Resets the device, interrupts masked. `None` if it doesn't answer.
fn reset(registers: Registers) -> Option<()> {
    registers.write32(register::MASK_CLEAR, u32::MAX);
    registers.write32(register::RECEIVE, 0);
    registers.write32(register::TRANSMIT, 0);
    let control = registers.read32(register::CONTROL);
    registers.write32(register::CONTROL, control | register::CONTROL_RESET);
    let start = rumpuser_clock_monotonic();
    // It must not be touched at once.
    while rumpuser_clock_monotonic() - start < 2_000 {
        spin_loop();
    }
    while registers.read32(register::CONTROL) & register::CONTROL_RESET != 0 {
        if rumpuser_clock_monotonic() - start > PATIENCE {
            return None;
        }
        spin_loop();
    }
    registers.write32(register::MASK_CLEAR, u32::MAX);
    registers.read32(register::CAUSE);
    Some(())
}

fn properties(device: &dyn PciDevice, registers: Registers, queues: usize) -> Properties {
    let (segment, bus, slot, function) = device.location();
    let low = registers.read32(register::ADDRESS_LOW).to_le_bytes();
    let high = registers.read32(register::ADDRESS_HIGH).to_le_bytes();
    Properties {
        driver: "e1000e",
        location: location(segment, bus, slot, function),
        address: [low[0], low[1], low[2], low[3], high[0], high[1]],
        mtu_limit: LARGEST_MTU,
        mtu: 1500,
        queues,
        offloads: Offloads::CHECKSUM | Offloads::SEGMENTATION_4 | Offloads::SEGMENTATION_6,
        fragment_limit: MOST_FRAGMENTS,
    }
}

fn location(segment: u16, bus: u8, device: u8, function: u8) -> String {
    format!("{segment:04x}:{bus:02x}:{device:02x}.{function:x}")
}

/// The bit of the multicast table for an address: 12 bits of it (datasheet, section 10.2.5.14).
fn multicast_bit(address: &HardwareAddress) -> usize {
    (usize::from(address[4]) >> 4 | usize::from(address[5]) << 4) & 0xfff
}

impl NetworkDevice for Adapter {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn start(&self, upcalls: Box<dyn Upcalls>) {
        let _ = self.upcalls.set(Box::new(upcalls));
    }

    fn stop(&self) {
        if !self.stopped.swap(true, Ordering::SeqCst) {
            reset(self.registers);
        }
    }

    fn transmit(&self, queue: usize, packet: &mut Packet) -> Result<(), TransmitError> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(TransmitError::Refused);
        }
        let pair = &self.pairs[queue];
        let mut transmit = pair.transmit.lock();
        if transmit.is_low() {
            transmit.reclaim();
        }
        let mut result = transmit.add(packet);
        if result == Err(TransmitError::Full) {
            // Whoever filled the ring may not have flushed yet.
            if let Some(tail) = transmit.tail() {
                self.registers.write32(register::TRANSMIT_TAIL + queue * register::QUEUE_STEP, tail);
            }
            pair.full.store(true, Ordering::SeqCst);
            self.registers.write32(register::MASK_SET, self.causes(queue).1);
            if transmit.has_room() {
                transmit.reclaim();
                result = transmit.add(packet);
            }
        }
        if result == Err(TransmitError::Refused) {
            self.transmit_errors.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    fn flush(&self, queue: usize) {
        let mut transmit = self.pairs[queue].transmit.lock();
        if let Some(tail) = transmit.tail()
            && !self.stopped.load(Ordering::Relaxed)
        {
            self.registers.write32(register::TRANSMIT_TAIL + queue * register::QUEUE_STEP, tail);
        }
    }

    fn receive(&self, queue: usize, budget: usize, sink: &mut dyn FnMut(Received)) -> usize {
        let mut receive = self.pairs[queue].receive.lock();
        let before = receive.tail();
        let mut count = 0;
        while count < budget
            && let Some(packet) = receive.next()
        {
            sink(packet);
            count += 1;
        }
        if receive.tail() != before && !self.stopped.load(Ordering::Relaxed) {
            receive.publish();
            self.registers.write32(register::RECEIVE_TAIL + queue * register::QUEUE_STEP, receive.tail());
        }
        count
    }

    fn arm(&self, queue: usize) -> bool {
        let pair = &self.pairs[queue];
        if self.stopped.load(Ordering::Relaxed) {
            return false;
        }
        pair.transmit.lock().reclaim();
        let receive = pair.receive.lock();
        if receive.waits() {
            return true;
        }
        // What was polled is no reason to interrupt; what comes from here on is seen below.
        let cause = self.causes(queue).0;
        self.registers.write32(register::CAUSE, cause);
        self.registers.write32(register::MASK_SET, cause);
        let waits = receive.waits();
        if waits {
            self.registers.write32(register::MASK_CLEAR, cause);
        }
        waits
    }

    fn disarm(&self, queue: usize) {
        self.registers.write32(register::MASK_CLEAR, self.causes(queue).0);
    }

    fn set_moderation(&self, queue: usize, microseconds: u32) -> bool {
        let interval = (microseconds.saturating_mul(1000) / 256).min(0xffff);
        let register = if self.messages.load(Ordering::Relaxed) {
            register::THROTTLE + 4 * queue
        } else {
            register::THROTTLE_ALL
        };
        self.registers.write32(register, interval);
        true
    }

    fn link_up(&self) -> bool {
        if !self.present() {
            self.upcall(|upcalls| upcalls.gone());
            return false;
        }
        self.registers.read32(register::STATUS) & register::STATUS_LINK != 0
    }

    fn link_speed(&self) -> Option<(u32, bool)> {
        let status = self.registers.read32(register::STATUS);
        let speed = match status >> register::STATUS_SPEED_SHIFT & 3 {
            0 => 10,
            1 => 100,
            _ => 1000,
        };
        (status & register::STATUS_LINK != 0).then_some((speed, status & register::STATUS_DUPLEX != 0))
    }

    fn set_filter(&self, multicast: &[HardwareAddress], all: bool) {
        let mut table = [0_u32; register::MULTICAST_WORDS];
        for address in multicast {
            let bit = multicast_bit(address);
            table[bit >> 5] |= 1 << (bit & 31);
        }
        let _settings = self.settings.lock();
        for (index, word) in table.iter().enumerate() {
            self.registers.write32(register::MULTICAST + 4 * index, *word);
        }
        self.set_receive_control(if all { register::RECEIVE_ALL } else { 0 });
    }

    fn statistics(&self) -> DeviceStatistics {
        let add = |counter: &AtomicU64, register| {
            // A device that is gone has all bits set.
            let new = Some(self.registers.read32(register)).filter(|new| *new != u32::MAX).unwrap_or(0);
            counter.fetch_add(new.into(), Ordering::Relaxed);
        };
        add(&self.receive_errors, register::CRC_ERRORS);
        add(&self.receive_errors, register::RECEIVE_ERRORS);
        add(&self.missed, register::MISSED);
        let mut sum = DeviceStatistics {
            receive_missed: self.missed.load(Ordering::Relaxed),
            receive_errors: self.receive_errors.load(Ordering::Relaxed),
            transmit_errors: self.transmit_errors.load(Ordering::Relaxed),
        };
        for pair in &self.pairs {
            let receive = pair.receive.lock();
            sum.receive_errors += receive.errors;
            sum.receive_missed += receive.missed;
        }
        sum
    }
}

impl Drop for Adapter {
    fn drop(&mut self) {
        // Before the rings' memory goes.
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multicast_addresses_have_their_bit() {
        // The datasheet's example: 12:34:56:78:9a:bc selects 0xbc9.
        assert_eq!(multicast_bit(&[0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc]), 0xbc9);
    }
}
