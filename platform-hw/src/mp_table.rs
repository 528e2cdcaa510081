//! The MP table (Intel MultiProcessor Specification 1.4), which tells of CPUs and I/O APICs where there is no ACPI.

use crate::{io_apic::Signal, machine::Machine, tables};

const POINTER_SIGNATURE: &[u8] = b"_MP_";
const POINTER_LENGTH: usize = 16;
const TABLE_SIGNATURE: &[u8] = b"PCMP";
const HEADER_LENGTH: usize = 44;
/// Inputs of an I/O APIC, as the interrupts of several are counted.
const INPUTS: u32 = 24;
/// Where the BIOS keeps the extended data area's segment.
const EXTENDED_AREA: u64 = 0x40e;

fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(offset..offset + 2)?.try_into().ok()?))
}

/// The table, header included.
fn find() -> Option<&'static [u8]> {
    let extended = u64::from(half(tables::bytes(EXTENDED_AREA, 2), 0)?) << 4;
    let extended = if (0x8_0000..0xa_0000).contains(&extended) { extended } else { 0x9_fc00 };
    let areas = [(extended, 1024), (0x9_fc00, 1024), (0xf_0000, 0x1_0000)];
    let pointer = areas.into_iter().find_map(|(start, length)| {
        tables::bytes(start, length)
            .chunks_exact(POINTER_LENGTH)
            .find(|candidate| candidate.starts_with(POINTER_SIGNATURE) && checksum(candidate) == 0)
    })?;
    let address = u64::from(word(pointer, 4)?);
    if address == 0 {
        return None;
    }
    let header = tables::bytes(address, HEADER_LENGTH);
    let length = usize::from(half(header, 4)?);
    let table = tables::bytes(address, length.max(HEADER_LENGTH));
    (table.starts_with(TABLE_SIGNATURE) && checksum(&table[..length]) == 0).then_some(table)
}

/// Reads the table into `machine`. Returns whether there was one that names an I/O APIC.
pub fn read(machine: &mut Machine) -> bool {
    find().is_some_and(|table| parse(table, machine).is_some()) && !machine.io_apics.is_empty()
}

fn parse(table: &[u8], machine: &mut Machine) -> Option<()> {
    const ENABLED: u8 = 1;
    machine.local_apic = word(table, 36)?.into();
    let mut isa_bus = None;
    let mut first = 0;
    // Identifiers of the I/O APICs, with the first interrupt of each.
    let mut io_apics = alloc::vec::Vec::new();
    let mut entries = &table[HEADER_LENGTH..];
    // To the table's end: some firmware gets the count of entries wrong.
    while let Some(kind) = entries.first() {
        let length = if *kind == 0 { 20 } else { 8 };
        let Some((entry, rest)) = entries.split_at_checked(length) else { break };
        entries = rest;
        match *entry {
            [0, identifier, _, flags, ..] if flags & ENABLED != 0 => machine.cpus.push(identifier.into()),
            [1, bus, b'I', b'S', b'A', ..] => isa_bus = Some(bus),
            [2, identifier, _, flags, ..] if flags & ENABLED != 0 => {
                machine.io_apics.push((word(entry, 4)?.into(), first));
                io_apics.push((identifier, first));
                first += INPUTS;
            }
            // A vectored interrupt of the ISA bus.
            [3, 0, flags, _, bus, irq, identifier, input] if Some(bus) == isa_bus => {
                let Some((_, base)) = io_apics.iter().find(|io_apic| io_apic.0 == identifier) else {
                    continue;
                };
                let signal = Signal { level: flags >> 2 & 3 == 3, low: flags & 3 == 3 };
                machine.overrides.push((irq, base + u32::from(input), signal));
            }
            _ => {}
        }
    }
    Some(())
}
