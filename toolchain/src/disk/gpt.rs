//! A GUID partition table (UEFI specification, chapter 5) for a disk of two partitions.

/// Bytes in a sector.
pub const SECTOR: u64 = 512;
/// Where the first partition may begin: boot sector, header, and 32 sectors of entries come before.
pub const FIRST_USABLE: u64 = 34;
/// Sectors at the end that the copy takes.
pub const COPY: u64 = 33;
const ENTRIES: usize = 128;
const ENTRY: usize = 128;

/// Partition type "BIOS boot": GRUB's own.
pub const BIOS_BOOT: [u8; 16] =
    [0x48, 0x61, 0x68, 0x21, 0x49, 0x64, 0x6f, 0x6e, 0x74, 0x4e, 0x65, 0x65, 0x64, 0x45, 0x46, 0x49];
/// Partition type "EFI system", c12a7328-f81f-11d2-ba4b-00a0c93ec93b.
pub const EFI_SYSTEM: [u8; 16] =
    [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];

/// A partition.
#[derive(Debug, Clone, Copy)]
pub struct Partition {
    /// Its type.
    pub kind: [u8; 16],
    /// Its own identifier.
    pub identifier: [u8; 16],
    /// First sector.
    pub first: u64,
    /// Last sector.
    pub last: u64,
    /// Its name.
    pub name: &'static str,
}

/// A table for a disk of `sectors` sectors: what goes to sector 1, and what goes to its last 33 sectors.
pub fn table(disk: [u8; 16], sectors: u64, partitions: &[Partition]) -> (Vec<u8>, Vec<u8>) {
    let mut entries = Vec::with_capacity(ENTRIES * ENTRY);
    for partition in partitions {
        entries.extend(partition.kind);
        entries.extend(partition.identifier);
        for word in [partition.first, partition.last, 0] {
            entries.extend(word.to_le_bytes());
        }
        let name: Vec<u8> = partition.name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        entries.extend(&name);
        entries.resize(entries.len().next_multiple_of(ENTRY), 0);
    }
    entries.resize(ENTRIES * ENTRY, 0);
    let last = sectors - 1;
    let header = |own: u64, other: u64, entries_at: u64| {
        let mut header = b"EFI PART".to_vec();
        for word in [0x1_0000u32, 92, 0, 0] {
            header.extend(word.to_le_bytes());
        }
        for word in [own, other, FIRST_USABLE, last - COPY] {
            header.extend(word.to_le_bytes());
        }
        header.extend(disk);
        header.extend(entries_at.to_le_bytes());
        for word in [ENTRIES as u32, ENTRY as u32, crc32(&entries)] {
            header.extend(word.to_le_bytes());
        }
        let checksum = crc32(&header);
        header[16..20].copy_from_slice(&checksum.to_le_bytes());
        header.resize(SECTOR as usize, 0);
        header
    };
    let mut front = header(1, last, 2);
    front.extend(&entries);
    let mut back = entries.clone();
    back.extend(header(last, 1, last - COPY + 1));
    (front, back)
}

/// The entry of the boot sector that says the whole disk is taken.
pub fn protective_entry(sectors: u64) -> [u8; 16] {
    let mut entry = [0; 16];
    // Type 0xee from sector 1 on, with the addresses that mean "beyond what can be said".
    entry[..8].copy_from_slice(&[0x00, 0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff]);
    entry[8..12].copy_from_slice(&1u32.to_le_bytes());
    let length = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
    entry[12..].copy_from_slice(&length.to_le_bytes());
    entry
}

/// CRC-32 as Ethernet has it.
fn crc32(bytes: &[u8]) -> u32 {
    let update = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    };
    !bytes.iter().fold(u32::MAX, update)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_known_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn both_copies_point_at_each_other() {
        let partition =
            Partition { kind: EFI_SYSTEM, identifier: [1; 16], first: 2048, last: 4095, name: "x" };
        let (front, back) = table([7; 16], 8192, &[partition]);
        assert_eq!((front.len(), back.len()), (33 * 512, 33 * 512));
        let word = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8"));
        let copy = &back[32 * 512..];
        assert_eq!((word(&front, 24), word(&front, 32)), (1, 8191));
        assert_eq!((word(copy, 24), word(copy, 32), word(copy, 72)), (8191, 1, 8192 - 33));
    }
}
