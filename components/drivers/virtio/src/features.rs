//! Feature bits, and their negotiation.

use bitflags::bitflags;

use crate::transport::{Status, Transport};

bitflags! {
    /// The features of all device types that a driver here can use (virtio 1.2, section 6).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Features: u64 {
        /// Block: `seg_max` is valid.
        const BLOCK_SEGMENTS = 1 << 2;
        /// Block: the disk is read-only.
        const BLOCK_READ_ONLY = 1 << 5;
        /// Block: `blk_size` is valid.
        const BLOCK_SIZE = 1 << 6;
        /// Block: there may be a volatile cache, and the flush request.
        const BLOCK_FLUSH = 1 << 9;
        /// Block: more than one queue.
        const BLOCK_QUEUES = 1 << 12;
        /// Block: the discard request.
        const BLOCK_DISCARD = 1 << 13;
        /// Descriptors may point to tables of descriptors.
        const INDIRECT = 1 << 28;
        /// Either side says at which index it wants to be told.
        const EVENT_INDEX = 1 << 29;
        /// Not a legacy device.
        const VERSION_1 = 1 << 32;
        /// Addresses are those of the platform's bus; here they are physical either way.
        const ACCESS_PLATFORM = 1 << 33;
        /// The device orders memory accesses as the platform does.
        const ORDER_PLATFORM = 1 << 36;
    }
}

/// What every driver here takes if offered.
const COMMON: Features = Features::INDIRECT
    .union(Features::EVENT_INDEX)
    .union(Features::VERSION_1)
    .union(Features::ACCESS_PLATFORM)
    .union(Features::ORDER_PLATFORM);

/// The device refused, or isn't what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused;

/// Resets the device and agrees on features: of `wanted` and those that every driver takes, what is offered.
pub fn negotiate(transport: &dyn Transport, wanted: Features) -> Result<Features, Refused> {
    if !transport.reset() {
        return Err(Refused);
    }
    transport.set_status(Status::ACKNOWLEDGE);
    transport.set_status(Status::ACKNOWLEDGE | Status::DRIVER);
    let offered = Features::from_bits_truncate(transport.device_features());
    let agreed = offered & (wanted | COMMON);
    if transport.legacy() {
        let agreed = agreed & Features::from_bits_truncate(u32::MAX.into());
        transport.set_driver_features(agreed.bits());
        return Ok(agreed);
    }
    if !agreed.contains(Features::VERSION_1) {
        return Err(Refused);
    }
    transport.set_driver_features(agreed.bits());
    let status = Status::ACKNOWLEDGE | Status::DRIVER | Status::FEATURES_OK;
    transport.set_status(status);
    if transport.status().contains(Status::FEATURES_OK) { Ok(agreed) } else { Err(Refused) }
}

/// Tells the device that the driver is ready.
pub fn start(transport: &dyn Transport) {
    transport.set_status(transport.status() | Status::DRIVER_OK);
}
