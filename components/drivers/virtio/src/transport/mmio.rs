//! Virtio over memory-mapped registers (virtio 1.2, section 4.2), both the interface of version 1 and the legacy one
//! that QEMU has by default.

use alloc::{boxed::Box, format, string::String, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicUsize, Ordering};

use rumpuser::device::{InterruptHandler, MmioDevice, Registers};

use super::{HandlerFactory, LEGACY_ALIGNMENT, QueueAddresses, Status, Transport};

const MAGIC: u32 = u32::from_le_bytes(*b"virt");

/// The registers.
mod register {
    pub const MAGIC: usize = 0x000;
    pub const VERSION: usize = 0x004;
    pub const DEVICE_TYPE: usize = 0x008;
    pub const DEVICE_FEATURES: usize = 0x010;
    pub const DEVICE_FEATURES_SELECT: usize = 0x014;
    pub const DRIVER_FEATURES: usize = 0x020;
    pub const DRIVER_FEATURES_SELECT: usize = 0x024;
    pub const LEGACY_PAGE_SIZE: usize = 0x028;
    pub const QUEUE_SELECT: usize = 0x030;
    pub const QUEUE_LIMIT: usize = 0x034;
    pub const QUEUE_SIZE: usize = 0x038;
    pub const LEGACY_QUEUE_ALIGNMENT: usize = 0x03c;
    pub const LEGACY_QUEUE_PAGE: usize = 0x040;
    pub const QUEUE_READY: usize = 0x044;
    pub const QUEUE_NOTIFY: usize = 0x050;
    pub const INTERRUPT_STATUS: usize = 0x060;
    pub const INTERRUPT_ACKNOWLEDGE: usize = 0x064;
    pub const STATUS: usize = 0x070;
    pub const QUEUE_DESCRIPTORS: usize = 0x080;
    pub const QUEUE_AVAILABLE: usize = 0x090;
    pub const QUEUE_USED: usize = 0x0a0;
    pub const CONFIG_GENERATION: usize = 0x0fc;
    pub const CONFIG: usize = 0x100;
}

/// Bit of the interrupt status.
const CONFIG_CHANGED: u32 = 2;
/// The page size that legacy queue addresses are given in.
const PAGE_SIZE: u32 = 4096;

/// A virtio device with memory-mapped registers.
pub struct Mmio {
    device: Arc<dyn MmioDevice>,
    registers: Registers,
    legacy: bool,
    number: usize,
}

impl Mmio {
    /// The transport of a register window, if there is a virtio device of a known version.
    pub fn new(device: &Arc<dyn MmioDevice>) -> Option<Mmio> {
        let registers = device.registers();
        if registers.len() < register::CONFIG || registers.read32(register::MAGIC) != MAGIC {
            return None;
        }
        let legacy = match registers.read32(register::VERSION) {
            1 => true,
            2 => false,
            _ => return None,
        };
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Some(Mmio { device: device.clone(), registers, legacy, number })
    }

    fn write_address(&self, register: usize, address: u64) {
        self.registers.write32(register, address as u32);
        self.registers.write32(register + 4, (address >> 32) as u32);
    }
}

impl Transport for Mmio {
    fn device_type(&self) -> u32 {
        self.registers.read32(register::DEVICE_TYPE)
    }

    fn legacy(&self) -> bool {
        self.legacy
    }

    fn status(&self) -> Status {
        Status::from_bits_retain(self.registers.read32(register::STATUS) as u8)
    }

    fn set_status(&self, status: Status) {
        self.registers.write32(register::STATUS, status.bits().into());
    }

    fn device_features(&self) -> u64 {
        self.registers.write32(register::DEVICE_FEATURES_SELECT, 0);
        let low = self.registers.read32(register::DEVICE_FEATURES);
        self.registers.write32(register::DEVICE_FEATURES_SELECT, 1);
        u64::from(self.registers.read32(register::DEVICE_FEATURES)) << 32 | u64::from(low)
    }

    fn set_driver_features(&self, features: u64) {
        for (half, value) in [features as u32, (features >> 32) as u32].into_iter().enumerate() {
            self.registers.write32(register::DRIVER_FEATURES_SELECT, half as u32);
            self.registers.write32(register::DRIVER_FEATURES, value);
        }
    }

    fn queue_limit(&self, queue: u16) -> u16 {
        self.registers.write32(register::QUEUE_SELECT, queue.into());
        u16::try_from(self.registers.read32(register::QUEUE_LIMIT)).unwrap_or(u16::MAX)
    }

    fn set_queue(&self, queue: u16, _handler: Option<u16>, addresses: QueueAddresses) -> bool {
        self.registers.write32(register::QUEUE_SELECT, queue.into());
        self.registers.write32(register::QUEUE_SIZE, addresses.size.into());
        if self.legacy {
            let Ok(page) = u32::try_from(addresses.descriptors / u64::from(PAGE_SIZE)) else { return false };
            self.registers.write32(register::LEGACY_PAGE_SIZE, PAGE_SIZE);
            self.registers.write32(register::LEGACY_QUEUE_ALIGNMENT, LEGACY_ALIGNMENT as u32);
            self.registers.write32(register::LEGACY_QUEUE_PAGE, page);
            return self.registers.read32(register::LEGACY_QUEUE_PAGE) == page;
        }
        self.write_address(register::QUEUE_DESCRIPTORS, addresses.descriptors);
        self.write_address(register::QUEUE_AVAILABLE, addresses.available);
        self.write_address(register::QUEUE_USED, addresses.used);
        self.registers.write32(register::QUEUE_READY, 1);
        self.registers.read32(register::QUEUE_READY) == 1
    }

    fn notify(&self, queue: u16) {
        self.registers.write32(register::QUEUE_NOTIFY, queue.into());
    }

    fn establish_interrupts(
        &self,
        count: u16,
        handler: HandlerFactory<'_>,
        config: Option<InterruptHandler>,
    ) -> bool {
        let handlers: Vec<InterruptHandler> = (0..count).map(handler).collect();
        let registers = self.registers;
        self.device.establish_interrupt(Box::new(move || {
            // Acknowledged first: what the device completes afterwards raises the interrupt anew.
            let pending = registers.read32(register::INTERRUPT_STATUS);
            registers.write32(register::INTERRUPT_ACKNOWLEDGE, pending);
            if pending & CONFIG_CHANGED != 0
                && let Some(config) = &config
            {
                config();
            }
            for handler in &handlers {
                handler();
            }
        }))
    }

    fn location(&self) -> String {
        format!("virtio{}", self.number)
    }

    fn read_config(&self, offset: usize, bytes: &mut [u8]) {
        for (index, byte) in bytes.iter_mut().enumerate() {
            let position = register::CONFIG + offset + index;
            *byte = if position < self.registers.len() { self.registers.read8(position) } else { 0 };
        }
    }

    fn config_generation(&self) -> u32 {
        if self.legacy { 0 } else { self.registers.read32(register::CONFIG_GENERATION) }
    }
}
