//! The few facts that only the DSDT has, found by the shape of their byte code instead of by an interpreter: the
//! sleep type of S5, virtio-mmio devices, the event device of hardware-reduced machines, PCI configuration space.

use alloc::vec::Vec;

use crate::io_apic::Signal;

/// A virtio-mmio device: where its registers are and which global interrupt it raises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VirtioMmio {
    /// Physical address of the registers.
    pub address: u64,
    /// Bytes of registers.
    pub length: u64,
    /// The global system interrupt.
    pub interrupt: u32,
    /// How it signals.
    pub signal: Signal,
}

/// The generic event device (ACPI 6, section 5.6.9): an interrupt and the register that says what happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventDevice {
    /// Physical address of the event selector, 4 bytes, cleared by reading.
    pub selector: u64,
    /// The global system interrupt.
    pub interrupt: u32,
    /// How it signals.
    pub signal: Signal,
}

const NAME: u8 = 0x08;
const BYTE: u8 = 0x0a;
const WORD: u8 = 0x0b;
const DOUBLE_WORD: u8 = 0x0c;
const PACKAGE: u8 = 0x12;
const EXTENDED: u8 = 0x5b;
const OPERATION_REGION: u8 = 0x80;
const DEVICE: u8 = 0x82;
const ROOT: u8 = b'\\';
/// Resource descriptors, with their lengths.
const MEMORY_32_FIXED: [u8; 3] = [0x86, 9, 0];
const EXTENDED_INTERRUPT: u8 = 0x89;

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    let first = *pattern.first()?;
    let mut start = 0;
    loop {
        start += bytes.get(start..)?.iter().position(|byte| *byte == first)?;
        if bytes[start..].starts_with(pattern) {
            return Some(start);
        }
        start += 1;
    }
}

/// Reads an integer constant; returns it and its length.
fn integer(code: &[u8]) -> Option<(u64, usize)> {
    let number = |length: usize| {
        let bytes = code.get(1..1 + length)?;
        Some((bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)), 1 + length))
    };
    match *code.first()? {
        value @ (0 | 1) => Some((u64::from(value), 1)),
        0xff => Some((u64::MAX, 1)),
        BYTE => number(1),
        WORD => number(2),
        DOUBLE_WORD => number(4),
        0x0e => number(8),
        _ => None,
    }
}

/// The values to write to the two PM1 control registers' sleep type for S5, from `Name (_S5_, Package () {a, b, ..})`.
pub fn soft_off(code: &[u8]) -> Option<(u8, u8)> {
    let mut rest = code;
    while let Some(position) = find(rest, b"_S5_") {
        let before = &rest[..position];
        rest = &rest[position + 4..];
        if !(before.ends_with(&[NAME]) || before.ends_with(&[NAME, ROOT])) || rest.first() != Some(&PACKAGE) {
            continue;
        }
        // The package's length takes 1 to 4 bytes, by the first one's upper two bits; then comes the element count.
        let length_bytes = 1 + usize::from(*rest.get(1)? >> 6);
        let elements = rest.get(1 + length_bytes + 1..)?;
        let (first, used) = integer(elements)?;
        let second = elements.get(used..).and_then(integer).map_or(first, |(value, _)| value);
        return Some((first as u8 & 7, second as u8 & 7));
    }
    None
}

/// Where the configuration space of a PCI Express host bridge is, if the bridge says so itself (`_CBA`, which some
/// machines have instead of an MCFG table): a name with an integer, or a method that returns one.
pub fn configuration_base(code: &[u8]) -> Option<u64> {
    const RETURN: u8 = 0xa4;
    let mut rest = code;
    loop {
        let position = find(rest, b"_CBA")?;
        let named = rest[..position].ends_with(&[NAME]);
        rest = &rest[position + 4..];
        let value = if named { Some(rest) } else { rest.get(2..).filter(|_| rest.get(1) == Some(&RETURN)) };
        if let Some((base, _)) = value.and_then(integer).filter(|(base, _)| *base != 0) {
            return Some(base);
        }
    }
}

/// The byte code after a device's identifier, up to the next device.
fn devices<'a>(code: &'a [u8], identifier: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = code;
    core::iter::from_fn(move || {
        rest = &rest[find(rest, identifier)? + identifier.len()..];
        let end = find(rest, &[EXTENDED, DEVICE]).unwrap_or(rest.len());
        Some(&rest[..end])
    })
}

/// The first interrupt of an extended interrupt descriptor in `resources`.
fn interrupt(resources: &[u8]) -> Option<(u32, Signal)> {
    let mut rest = resources;
    while let Some(position) = rest.iter().position(|byte| *byte == EXTENDED_INTERRUPT) {
        rest = &rest[position + 1..];
        // Length (2 bytes), flags, count, numbers.
        if let [length, 0, flags, count, a, b, c, d, ..] = *rest
            && count > 0
            && usize::from(length) >= 2 + 4 * usize::from(count)
        {
            let signal = Signal { level: flags & 2 == 0, low: flags & 4 != 0 };
            return Some((u32::from_le_bytes([a, b, c, d]), signal));
        }
    }
    None
}

/// The virtio-mmio devices (`LNRO0005`).
pub fn virtio_mmio(code: &[u8]) -> Vec<VirtioMmio> {
    devices(code, b"LNRO0005")
        .filter_map(|device| {
            let memory = device.get(find(device, &MEMORY_32_FIXED)?..)?;
            let word = |offset: usize| {
                let bytes = memory.get(offset..offset + 4)?;
                Some(u32::from_le_bytes(bytes.try_into().ok()?))
            };
            let (interrupt, signal) = interrupt(memory.get(12..)?)?;
            Some(VirtioMmio { address: word(4)?.into(), length: word(8)?.into(), interrupt, signal })
        })
        .collect()
}

/// The generic event device (`ACPI0013`).
pub fn event_device(code: &[u8]) -> Option<EventDevice> {
    let device = devices(code, b"ACPI0013").next()?;
    let (interrupt, signal) = interrupt(device)?;
    let region = &device[find(device, &[EXTENDED, OPERATION_REGION])?..];
    // Operator (2 bytes), name (4), address space (1: 0 is memory), address.
    let (selector, _) = integer(region.get(7..)?)?;
    (region.get(6) == Some(&0)).then_some(EventDevice { selector, interrupt, signal })
}
