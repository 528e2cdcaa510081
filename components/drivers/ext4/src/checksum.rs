//! The two checksums of ext4: CRC32C (`metadata_csum`, the journal) and CRC16 (`uninit_bg`).
//!
//! Both are used without the final inversion, so that they can be continued over several pieces.

/// The starting value of both.
pub const CRC32C_START: u32 = !0;
pub const CRC16_START: u16 = !0;

const fn crc32c_tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { value >> 1 ^ 0x82f6_3b78 } else { value >> 1 };
            bit += 1;
        }
        tables[0][index] = value;
        index += 1;
    }
    let mut slice = 1;
    while slice < 8 {
        let mut index = 0;
        while index < 256 {
            let previous = tables[slice - 1][index];
            tables[slice][index] = previous >> 8 ^ tables[0][previous as usize & 0xff];
            index += 1;
        }
        slice += 1;
    }
    tables
}

static CRC32C: [[u32; 256]; 8] = crc32c_tables();

/// Continues a CRC32C over `data`, eight bytes at a step.
pub fn crc32c(start: u32, data: &[u8]) -> u32 {
    let mut value = start;
    let mut steps = data.chunks_exact(8);
    for step in &mut steps {
        let first = u32::from_le_bytes([step[0], step[1], step[2], step[3]]) ^ value;
        value = CRC32C[7][first as usize & 0xff]
            ^ CRC32C[6][(first >> 8) as usize & 0xff]
            ^ CRC32C[5][(first >> 16) as usize & 0xff]
            ^ CRC32C[4][(first >> 24) as usize]
            ^ CRC32C[3][usize::from(step[4])]
            ^ CRC32C[2][usize::from(step[5])]
            ^ CRC32C[1][usize::from(step[6])]
            ^ CRC32C[0][usize::from(step[7])];
    }
    for &byte in steps.remainder() {
        value = value >> 8 ^ CRC32C[0][(value as u8 ^ byte) as usize];
    }
    value
}

/// CRC32C over `data` as if the bytes at `hole` (where the checksum itself is stored) were zero.
pub fn crc32c_with_zeroes(start: u32, data: &[u8], hole: core::ops::Range<usize>) -> u32 {
    const ZEROES: [u8; 8] = [0; 8];
    let value = crc32c(start, &data[..hole.start]);
    let value = crc32c(value, &ZEROES[..hole.len()]);
    crc32c(value, &data[hole.end..])
}

/// Continues a CRC16 (polynomial 0x8005, reflected) over `data`.
pub fn crc16(start: u16, data: &[u8]) -> u16 {
    let mut value = start;
    for &byte in data {
        value ^= u16::from(byte);
        for _ in 0..8 {
            value = if value & 1 == 1 { value >> 1 ^ 0xa001 } else { value >> 1 };
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_check_values() {
        assert_eq!(!crc32c(CRC32C_START, b"123456789"), 0xe306_9283);
        assert_eq!(crc16(CRC16_START, b"123456789"), 0x4b37);
    }

    #[test]
    fn pieces_equal_the_whole() {
        let data: [u8; 100] = core::array::from_fn(|index| (index as u8).wrapping_mul(7));
        let whole = crc32c(5, &data);
        assert_eq!(crc32c(crc32c(5, &data[..13]), &data[13..]), whole);
        let mut zeroed = data;
        zeroed[20..24].fill(0);
        assert_eq!(crc32c_with_zeroes(5, &data, 20..24), crc32c(5, &zeroed));
    }
}
