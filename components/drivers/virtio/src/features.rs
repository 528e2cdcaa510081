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
        /// Network: sums what is sent.
        const NET_CHECKSUM = 1 << 0;
        /// Network: received packets may have partial checksums.
        const NET_GUEST_CHECKSUM = 1 << 1;
        /// Network: advises an MTU.
        const NET_MTU = 1 << 3;
        /// Network: has a hardware address.
        const NET_ADDRESS = 1 << 5;
        /// Network: received packets may be joined TCP over IPv4, over IPv6, with CWR.
        const NET_GUEST_TSO4 = 1 << 7;
        /// As above.
        const NET_GUEST_TSO6 = 1 << 8;
        /// As above.
        const NET_GUEST_ECN = 1 << 9;
        /// Network: cuts TCP over IPv4, over IPv6, with CWR.
        const NET_HOST_TSO4 = 1 << 11;
        /// As above.
        const NET_HOST_TSO6 = 1 << 12;
        /// As above.
        const NET_HOST_ECN = 1 << 13;
        /// Network: a received packet may be in several buffers.
        const NET_MERGED_BUFFERS = 1 << 15;
        /// Network: says whether there is a link.
        const NET_STATUS = 1 << 16;
        /// Network: has a control queue.
        const NET_CONTROL = 1 << 17;
        /// Network: filters by hardware address.
        const NET_CONTROL_RECEIVE = 1 << 18;
        /// Network: asks for an announcement after a migration.
        const NET_ANNOUNCE = 1 << 21;
        /// Network: more than one pair of queues.
        const NET_QUEUES = 1 << 22;
        /// Network: says how fast the link is.
        const NET_SPEED = 1 << 63;
        /// Legacy: headers may share a descriptor with data.
        const ANY_LAYOUT = 1 << 27;
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
    .union(Features::ANY_LAYOUT)
    .union(Features::VERSION_1)
    .union(Features::ACCESS_PLATFORM)
    .union(Features::ORDER_PLATFORM);

/// The device refused, or isn't what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused;

/// Resets the device and agrees on features: of `wanted` and those that every driver takes, what is offered.
pub fn negotiate(transport: &dyn Transport, wanted: Features) -> Result<Features, Refused> {
    negotiate_with(transport, wanted, |features| features)
}

/// As [`negotiate`]; `choose` leaves features out that are of no use to the driver.
pub fn negotiate_with(
    transport: &dyn Transport,
    wanted: Features,
    choose: fn(Features) -> Features,
) -> Result<Features, Refused> {
    if !transport.reset() {
        return Err(Refused);
    }
    transport.set_status(Status::ACKNOWLEDGE);
    transport.set_status(Status::ACKNOWLEDGE | Status::DRIVER);
    let offered = Features::from_bits_truncate(transport.device_features());
    let agreed = choose(offered & (wanted | COMMON));
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
