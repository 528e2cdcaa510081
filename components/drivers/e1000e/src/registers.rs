//! The registers of the 82574 that are used (Intel 82574 GbE Controller Family Datasheet, section 10.2).

/// Device control.
pub const CONTROL: usize = 0x0000;
/// Set link up.
pub const CONTROL_LINK: u32 = 1 << 6;
/// Speed and duplex are detected.
pub const CONTROL_DETECT: u32 = 1 << 5;
/// Reset.
pub const CONTROL_RESET: u32 = 1 << 26;

/// Device status.
pub const STATUS: usize = 0x0008;
/// Full duplex.
pub const STATUS_DUPLEX: u32 = 1;
/// The link is up.
pub const STATUS_LINK: u32 = 1 << 1;
/// Two bits from here on are the speed: 10, 100, 1000, 1000 Mbit/s.
pub const STATUS_SPEED_SHIFT: u32 = 6;

/// Interrupt causes; writing ones clears.
pub const CAUSE: usize = 0x00c0;
/// Interrupt mask, set bits.
pub const MASK_SET: usize = 0x00d0;
/// Interrupt mask, clear bits.
pub const MASK_CLEAR: usize = 0x00d8;
/// Causes that sending the message clears.
pub const AUTO_CLEAR: usize = 0x00dc;
/// Which vector each cause has.
pub const VECTORS: usize = 0x00e4;
/// Throttling of each vector, in units of 256 ns.
pub const THROTTLE: usize = 0x00e8;
/// Throttling without MSI-X.
pub const THROTTLE_ALL: usize = 0x00c4;

/// Cause: the link changed.
pub const CAUSE_LINK: u32 = 1 << 2;
/// Cause, without MSI-X: the receive ring runs low, was overrun, or has packets.
pub const CAUSE_RECEIVE: u32 = 1 << 4 | 1 << 6 | 1 << 7;
/// Cause, without MSI-X: something was sent.
pub const CAUSE_SENT: u32 = 1;
/// Cause: receive queue 0; queue 1 is the next bit.
pub const CAUSE_RECEIVE_QUEUE: u32 = 1 << 20;
/// Cause: transmit queue 0; queue 1 is the next bit.
pub const CAUSE_TRANSMIT_QUEUE: u32 = 1 << 22;
/// Cause: any other.
pub const CAUSE_OTHER: u32 = 1 << 24;

/// Receive control.
pub const RECEIVE: usize = 0x0100;
/// On.
pub const RECEIVE_ON: u32 = 1 << 1;
/// All unicast, all multicast.
pub const RECEIVE_ALL: u32 = 1 << 3 | 1 << 4;
/// Packets longer than 1522 bytes.
pub const RECEIVE_LONG: u32 = 1 << 5;
/// Broadcast.
pub const RECEIVE_BROADCAST: u32 = 1 << 15;
/// Buffers of 4096 bytes.
pub const RECEIVE_PAGES: u32 = 3 << 16 | 1 << 25;
/// Without the CRC.
pub const RECEIVE_STRIP: u32 = 1 << 26;

/// Receive descriptors: base (two words), length, head, tail. Queue 1 is [`QUEUE_STEP`] further.
pub const RECEIVE_BASE: usize = 0x2800;
/// See [`RECEIVE_BASE`].
pub const RECEIVE_LENGTH: usize = 0x2808;
/// See [`RECEIVE_BASE`].
pub const RECEIVE_HEAD: usize = 0x2810;
/// See [`RECEIVE_BASE`].
pub const RECEIVE_TAIL: usize = 0x2818;
/// Transmit descriptors, in the same way.
pub const TRANSMIT_BASE: usize = 0x3800;
/// See [`TRANSMIT_BASE`].
pub const TRANSMIT_LENGTH: usize = 0x3808;
/// See [`TRANSMIT_BASE`].
pub const TRANSMIT_HEAD: usize = 0x3810;
/// See [`TRANSMIT_BASE`].
pub const TRANSMIT_TAIL: usize = 0x3818;
/// From a queue's registers to the next one's.
pub const QUEUE_STEP: usize = 0x100;

/// Transmit control.
pub const TRANSMIT: usize = 0x0400;
/// On, short packets padded, 15 collisions at a distance of 64 bytes, several requests at a time.
pub const TRANSMIT_ON: u32 = 1 << 1 | 1 << 3 | 0xf << 4 | 0x3f << 12 | 1 << 28;
/// Transmit descriptor control.
pub const TRANSMIT_DESCRIPTORS: usize = 0x3828;
/// Descriptors are written back one by one; the bit that must be set.
pub const TRANSMIT_DESCRIPTORS_VALUE: u32 = 1 << 22 | 1 << 24 | 1 << 16;

/// Receive checksums.
pub const CHECKSUM: usize = 0x5000;
/// IP and TCP/UDP are checked, and the hash stands where the packet's checksum would.
pub const CHECKSUM_ON: u32 = 1 << 8 | 1 << 9 | 1 << 13;
/// Receive filter control.
pub const FILTER: usize = 0x5008;
/// Extended descriptors.
pub const FILTER_EXTENDED: u32 = 1 << 15;

/// The multicast table: 128 words.
pub const MULTICAST: usize = 0x5200;
/// Words in it.
pub const MULTICAST_WORDS: usize = 128;
/// The first receive address: low word, then high.
pub const ADDRESS_LOW: usize = 0x5400;
/// See [`ADDRESS_LOW`].
pub const ADDRESS_HIGH: usize = 0x5404;

/// Several receive queues.
pub const QUEUES: usize = 0x5818;
/// By hash of TCP over IPv4, IPv4, TCP over IPv6, IPv6.
pub const QUEUES_HASH: u32 = 1 | 1 << 16 | 1 << 17 | 1 << 18 | 1 << 20;
/// Which queue a hash leads to: 128 bytes, the queue in bit 7.
pub const REDIRECTION: usize = 0x5c00;
/// The hash's key: 10 words.
pub const HASH_KEY: usize = 0x5c80;

/// Statistics: packets with a wrong CRC, broken ones, those for which there was no descriptor. Reading clears.
pub const CRC_ERRORS: usize = 0x4000;
/// See [`CRC_ERRORS`].
pub const RECEIVE_ERRORS: usize = 0x400c;
/// See [`CRC_ERRORS`].
pub const MISSED: usize = 0x4010;

/// Bytes of registers that are used.
pub const LENGTH: usize = 0x6000;
