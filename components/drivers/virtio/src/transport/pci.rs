//! Virtio over PCI, the interface of version 1 (virtio 1.2, section 4.1).

use alloc::{boxed::Box, format, string::String, sync::Arc, vec::Vec};

use once_cell::race::OnceBox;
use rumpuser::{
    device::{InterruptHandler, PciDevice, Registers},
    sync::InterruptLock,
};

use super::{HandlerFactory, QueueAddresses, Status, Transport};

const VENDOR: u16 = 0x1af4;
const FIRST_TRANSITIONAL: u16 = 0x1000;
const FIRST_MODERN: u16 = 0x1040;
const LAST_MODERN: u16 = 0x107f;

const VENDOR_CAPABILITY: u8 = 0x09;
const MSI_X_CAPABILITY: u8 = 0x11;
const MSI_X_ENABLE: u32 = 1 << 15;
/// Fields of a capability, as offsets.
const STRUCTURE: u16 = 3;
const BAR: u16 = 4;
const OFFSET: u16 = 8;
const LENGTH: u16 = 12;
const NOTIFY_MULTIPLIER: u16 = 16;
/// Structures that a capability can stand for.
const COMMON: u32 = 1;
const NOTIFY: u32 = 2;
const INTERRUPT_STATUS: u32 = 3;
const DEVICE: u32 = 4;

/// Registers of the common structure.
mod common {
    pub const DEVICE_FEATURE_SELECT: usize = 0x00;
    pub const DEVICE_FEATURE: usize = 0x04;
    pub const DRIVER_FEATURE_SELECT: usize = 0x08;
    pub const DRIVER_FEATURE: usize = 0x0c;
    pub const CONFIG_VECTOR: usize = 0x10;
    pub const QUEUES: usize = 0x12;
    pub const STATUS: usize = 0x14;
    pub const CONFIG_GENERATION: usize = 0x15;
    pub const QUEUE_SELECT: usize = 0x16;
    pub const QUEUE_SIZE: usize = 0x18;
    pub const QUEUE_VECTOR: usize = 0x1a;
    pub const QUEUE_ENABLE: usize = 0x1c;
    pub const QUEUE_NOTIFY_OFFSET: usize = 0x1e;
    pub const QUEUE_DESCRIPTORS: usize = 0x20;
    pub const QUEUE_AVAILABLE: usize = 0x28;
    pub const QUEUE_USED: usize = 0x30;
    pub const LENGTH: usize = 0x38;
}

const NO_VECTOR: u16 = 0xffff;

/// The type of network devices.
const NETWORK: u32 = 1;
/// The most queues of a device that QEMU makes (VIRTIO_QUEUE_MAX).
const MOST_QUEUES: u16 = 1024;

/// A virtio device on PCI.
pub struct Pci {
    device: Arc<dyn PciDevice>,
    kind: u32,
    common: Registers,
    notify: Registers,
    notify_multiplier: usize,
    interrupt_status: Registers,
    config: Option<Registers>,
    /// The places to write to, by queue.
    doorbells: Vec<OnceBox<Registers>>,
    /// How queues map to vectors: one each, or all the first.
    vectors: InterruptLock<Vectors>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Vectors {
    OneEach,
    Shared,
}

impl Pci {
    /// The transport of a PCI function, if it is a virtio device with the interface of version 1.
    pub fn new(device: &Arc<dyn PciDevice>) -> Option<Pci> {
        let (vendor, identifier, _, subsystem) = device.identifiers();
        let kind = match identifier {
            _ if vendor != VENDOR => return None,
            FIRST_TRANSITIONAL..FIRST_MODERN => u32::from(subsystem),
            FIRST_MODERN..=LAST_MODERN => u32::from(identifier - FIRST_MODERN),
            _ => return None,
        };
        device.enable();
        let mut multiplier = 0;
        let mut find = |structure: u32, least: usize| {
            device.capabilities(VENDOR_CAPABILITY).into_iter().find_map(|capability| {
                if device.config_read(capability + STRUCTURE, 1) != structure {
                    return None;
                }
                let bar = u8::try_from(device.config_read(capability + BAR, 1)).ok()?;
                let offset = device.config_read(capability + OFFSET, 4) as usize;
                let length = device.config_read(capability + LENGTH, 4) as usize;
                if structure == NOTIFY {
                    multiplier = device.config_read(capability + NOTIFY_MULTIPLIER, 4) as usize;
                }
                let registers = device.map_bar(bar)?.part(offset, length)?;
                // The registers are accessed by their width, so the structure must be aligned for the widest.
                (length >= least && offset.is_multiple_of(4)).then_some(registers)
            })
        };
        let common = find(COMMON, common::LENGTH)?;
        let interrupt_status = find(INTERRUPT_STATUS, 1)?;
        let config = find(DEVICE, 1);
        let notify = find(NOTIFY, 2)?;
        // Before features are negotiated, QEMU counts the queues of a network device without further pairs.
        let queues = match kind {
            NETWORK => MOST_QUEUES,
            _ => common.read16(common::QUEUES),
        };
        Some(Pci {
            device: device.clone(),
            kind,
            common,
            notify,
            notify_multiplier: multiplier,
            interrupt_status,
            config,
            doorbells: (0..queues).map(|_| OnceBox::new()).collect(),
            vectors: InterruptLock::new(Vectors::Shared),
        })
    }

    fn write_address(&self, register: usize, address: u64) {
        self.common.write32(register, address as u32);
        self.common.write32(register + 4, (address >> 32) as u32);
    }

    fn msi_x_enabled(&self) -> bool {
        let capability = self.device.capabilities(MSI_X_CAPABILITY).first().copied();
        capability.is_some_and(|capability| self.device.config_read(capability + 2, 2) & MSI_X_ENABLE != 0)
    }
}

impl Transport for Pci {
    fn device_type(&self) -> u32 {
        self.kind
    }

    fn legacy(&self) -> bool {
        false
    }

    fn status(&self) -> Status {
        Status::from_bits_retain(self.common.read8(common::STATUS))
    }

    fn set_status(&self, status: Status) {
        self.common.write8(common::STATUS, status.bits());
    }

    fn device_features(&self) -> u64 {
        self.common.write32(common::DEVICE_FEATURE_SELECT, 0);
        let low = self.common.read32(common::DEVICE_FEATURE);
        self.common.write32(common::DEVICE_FEATURE_SELECT, 1);
        u64::from(self.common.read32(common::DEVICE_FEATURE)) << 32 | u64::from(low)
    }

    fn set_driver_features(&self, features: u64) {
        for (half, value) in [features as u32, (features >> 32) as u32].into_iter().enumerate() {
            self.common.write32(common::DRIVER_FEATURE_SELECT, half as u32);
            self.common.write32(common::DRIVER_FEATURE, value);
        }
    }

    fn queue_limit(&self, queue: u16) -> u16 {
        self.common.write16(common::QUEUE_SELECT, queue);
        self.common.read16(common::QUEUE_SIZE)
    }

    fn set_queue(&self, queue: u16, handler: Option<u16>, addresses: QueueAddresses) -> bool {
        self.common.write16(common::QUEUE_SELECT, queue);
        self.common.write16(common::QUEUE_SIZE, addresses.size);
        let offset = usize::from(self.common.read16(common::QUEUE_NOTIFY_OFFSET)) * self.notify_multiplier;
        let Some(doorbell) = self.notify.part(offset, 2).filter(|_| offset.is_multiple_of(2)) else {
            return false;
        };
        if self.msi_x_enabled() {
            let vector = match (handler, *self.vectors.lock()) {
                (None, _) => NO_VECTOR,
                (Some(_), Vectors::Shared) => 0,
                (Some(handler), Vectors::OneEach) => handler,
            };
            self.common.write16(common::QUEUE_VECTOR, vector);
            // A device out of resources says so by refusing the vector.
            if self.common.read16(common::QUEUE_VECTOR) != vector {
                return false;
            }
        }
        self.write_address(common::QUEUE_DESCRIPTORS, addresses.descriptors);
        self.write_address(common::QUEUE_AVAILABLE, addresses.available);
        self.write_address(common::QUEUE_USED, addresses.used);
        self.common.write16(common::QUEUE_ENABLE, 1);
        // Set up again, a queue's place stays the same.
        let Some(place) = self.doorbells.get(usize::from(queue)) else { return false };
        let _ = place.set(Box::new(doorbell));
        true
    }

    fn notify(&self, queue: u16) {
        if let Some(doorbell) = self.doorbells.get(usize::from(queue)).and_then(OnceBox::get) {
            doorbell.write16(0, queue);
        }
    }

    fn establish_interrupts(
        &self,
        count: u16,
        handler: HandlerFactory<'_>,
        config: Option<InterruptHandler>,
    ) -> bool {
        self.common.write16(common::CONFIG_VECTOR, NO_VECTOR);
        let config: Option<Arc<InterruptHandler>> = config.map(Arc::new);
        let mut handlers: Vec<InterruptHandler> = (0..count).map(handler).collect();
        if let Some(config) = config.clone() {
            handlers.push(Box::new(move || config()));
        }
        let mut last = handlers.len() as u16 - 1;
        let several = count > 1 || config.is_some();
        if several && self.device.establish_interrupts(handlers) {
            *self.vectors.lock() = Vectors::OneEach;
        } else {
            last = 0;
            *self.vectors.lock() = Vectors::Shared;
            let handlers: Vec<InterruptHandler> = (0..count).map(handler).collect();
            let interrupt_status = self.interrupt_status;
            let config = config.clone();
            let all: InterruptHandler = Box::new(move || {
                // On an interrupt pin, reading takes the interrupt back. With messages, it says nothing.
                interrupt_status.read8(0);
                if let Some(config) = &config {
                    config();
                }
                for handler in &handlers {
                    handler();
                }
            });
            if !self.device.establish_interrupts(Vec::from([all])) {
                return false;
            }
        }
        if config.is_some() && self.msi_x_enabled() {
            self.common.write16(common::CONFIG_VECTOR, last);
        }
        true
    }

    fn set_removal_handler(&self, handler: Box<dyn Fn() + Send + Sync>) {
        self.device.set_removal_handler(handler);
    }

    fn location(&self) -> String {
        let (segment, bus, device, function) = self.device.location();
        format!("{segment:04x}:{bus:02x}:{device:02x}.{function:x}")
    }

    fn read_config(&self, offset: usize, bytes: &mut [u8]) {
        for (index, byte) in bytes.iter_mut().enumerate() {
            let inside = self.config.filter(|config| offset + index < config.len());
            *byte = inside.map_or(0, |config| config.read8(offset + index));
        }
    }

    fn config_generation(&self) -> u32 {
        self.common.read8(common::CONFIG_GENERATION).into()
    }
}
