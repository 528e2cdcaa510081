//! The control queue (virtio 1.2, section 5.1.6.5): rare commands, each waited for.

use core::hint::spin_loop;

use rumpnet::device::HardwareAddress;
use rumpuser::{OutOfMemory, device::DmaMemory, rumpuser_clock_monotonic};

use crate::{
    features::Features,
    queue::Queue,
    transport::{QueueAddresses, Transport},
};

/// Classes and their commands.
const RECEIVE: u8 = 0;
const PROMISCUOUS: u8 = 0;
const ALL_MULTICAST: u8 = 1;
const ADDRESSES: u8 = 1;
const SET_TABLE: u8 = 0;
const ANNOUNCE: u8 = 3;
const ANNOUNCED: u8 = 0;
const QUEUES: u8 = 4;
const SET_PAIRS: u8 = 0;

/// Where the answer is in the memory that a command is in.
const ANSWER: usize = 4000;
const OK: u8 = 0;
const NO_ANSWER: u8 = 0xff;

/// The most multicast addresses that are given to the device; beyond that, it takes all.
pub const TABLE_LIMIT: usize = 64;
/// How long to wait for an answer, in nanoseconds.
const PATIENCE: u64 = 500_000_000;

/// The queue.
pub struct Control {
    index: u16,
    queue: Queue,
    memory: DmaMemory,
    /// A command was not answered: none is tried again.
    dead: bool,
}

impl Control {
    /// The device's queue with that number.
    pub fn new(index: u16, limit: u16, features: Features) -> Result<Control, OutOfMemory> {
        let queue = Queue::new(limit, features)?;
        Ok(Control { index, queue, memory: DmaMemory::new(4096)?, dead: false })
    }

    /// Where the device finds it.
    pub fn addresses(&self) -> QueueAddresses {
        self.queue.addresses()
    }

    /// Gives a command and waits for the answer. True if the device did it.
    fn command(&mut self, transport: &dyn Transport, class: u8, command: u8, data: &[&[u8]]) -> bool {
        if self.dead {
            return false;
        }
        let memory = self.memory.registers();
        let mut length = 2;
        memory.write8(0, class);
        memory.write8(1, command);
        for byte in data.iter().copied().flatten() {
            memory.write8(length, *byte);
            length += 1;
        }
        memory.write8(ANSWER, NO_ANSWER);
        let base = self.memory.physical();
        if !self.queue.add(&[(base, length as u32)], &[(base + ANSWER as u64, 1)], 0) {
            return false;
        }
        if self.queue.should_notify() {
            transport.notify(self.index);
        }
        let deadline = rumpuser_clock_monotonic().saturating_add(PATIENCE);
        while self.queue.take().is_none() {
            if rumpuser_clock_monotonic() > deadline {
                self.dead = true;
                return false;
            }
            spin_loop();
        }
        memory.read8(ANSWER) == OK
    }

    /// Sets how many pairs of queues are used.
    pub fn set_pairs(&mut self, transport: &dyn Transport, pairs: u16) -> bool {
        self.command(transport, QUEUES, SET_PAIRS, &[&pairs.to_le_bytes()])
    }

    /// Says that the neighbours were told.
    pub fn announced(&mut self, transport: &dyn Transport) -> bool {
        self.command(transport, ANNOUNCE, ANNOUNCED, &[])
    }

    /// Sets which packets are received besides those to the device's own address and to all.
    pub fn set_filter(&mut self, transport: &dyn Transport, multicast: &[HardwareAddress], all: bool) {
        let too_many = multicast.len() > TABLE_LIMIT;
        let table = if too_many { &[] } else { multicast };
        let count = (table.len() as u32).to_le_bytes();
        // No further unicast addresses, then the multicast ones.
        let listed = self.command(
            transport,
            ADDRESSES,
            SET_TABLE,
            &[&0_u32.to_le_bytes(), &count, table.as_flattened()],
        );
        let every = too_many || !listed;
        self.command(transport, RECEIVE, ALL_MULTICAST, &[&[every.into()]]);
        self.command(transport, RECEIVE, PROMISCUOUS, &[&[all.into()]]);
    }
}
