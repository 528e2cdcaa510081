//! Data of a file in compressed clusters, each of which can be had alone.
//!
//! A table with the end of each cluster, then the clusters: each an LZ4 block, or stored as it is where that is not
//! longer. All but the last give [`CLUSTER`] bytes.

use zerocopy::{FromBytes, little_endian::U32};

use crate::rootfs::Damaged;

/// Bytes of a file in a cluster.
pub const CLUSTER: usize = 32 << 10;

/// A file's compressed data.
#[derive(Debug, Clone, Copy)]
pub struct Compressed<'a> {
    size: u64,
    /// Where each cluster ends, from the end of this table.
    ends: &'a [U32],
    bytes: &'a [u8],
}

impl<'a> Compressed<'a> {
    /// Data that begins `bytes` and gives `size` bytes. Checks the table's bounds; the rest is checked at each use.
    pub(crate) fn parse(bytes: &'a [u8], size: u64) -> Option<Self> {
        let clusters = usize::try_from(size.div_ceil(CLUSTER as u64)).ok()?;
        let (ends, bytes) = <[U32]>::ref_from_prefix_with_elems(bytes, clusters).ok()?;
        Some(Compressed { size, ends, bytes })
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that the image has for them, by what the table says.
    pub fn stored(&self) -> u64 {
        size_of_val(self.ends) as u64 + self.ends.last().map_or(0, |end| u64::from(end.get()))
    }

    /// Decompresses a cluster to the start of `output`; returns how many bytes it gave. `output` must have room for
    /// [`CLUSTER`].
    pub fn cluster(&self, index: usize, output: &mut [u8]) -> Result<usize, Damaged> {
        let damaged = Damaged("a compressed file is not what it was");
        let end = self.ends.get(index).ok_or(damaged)?.get() as usize;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before].get() as usize);
        let stored = self.bytes.get(start..end).ok_or(damaged)?;
        let left = self.size - (index * CLUSTER) as u64;
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(CLUSTER);
        let output = output.get_mut(..length).ok_or(damaged)?;
        if stored.len() == length {
            output.copy_from_slice(stored);
            return Ok(length);
        }
        match lz4_flex::block::decompress_into(stored, output) {
            Ok(given) if given == length => Ok(length),
            _ => Err(damaged),
        }
    }

    /// All of it.
    #[cfg(feature = "std")]
    pub fn to_vec(&self) -> Result<Vec<u8>, Damaged> {
        let mut all = Vec::new();
        let mut buffer = vec![0; CLUSTER];
        for index in 0..self.ends.len() {
            let length = self.cluster(index, &mut buffer)?;
            all.extend_from_slice(&buffer[..length]);
        }
        Ok(all)
    }
}

/// Compresses a file's data; `None` if it is too long for the table.
#[cfg(feature = "std")]
pub(crate) fn compress(mut data: impl std::io::Read) -> std::io::Result<Option<Vec<u8>>> {
    use std::io::Read;

    use zerocopy::IntoBytes;

    /// Above this nothing is gained any more (LZ4's own scale).
    const LEVEL: i32 = 10;
    let (mut ends, mut bytes) = (Vec::new(), Vec::new());
    let mut raw = Vec::with_capacity(CLUSTER);
    loop {
        raw.clear();
        data.by_ref().take(CLUSTER as u64).read_to_end(&mut raw)?;
        if raw.is_empty() {
            break;
        }
        let mode = lz4::block::CompressionMode::HIGHCOMPRESSION(LEVEL);
        let packed = lz4::block::compress(&raw, Some(mode), false)?;
        bytes.extend_from_slice(if packed.len() < raw.len() { &packed } else { &raw });
        let Ok(end) = u32::try_from(bytes.len()) else { return Ok(None) };
        ends.push(U32::new(end));
    }
    let mut all = ends.as_bytes().to_vec();
    all.append(&mut bytes);
    Ok(Some(all))
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let text = (0..9000u32).flat_map(|number| format!("line {number}\n").into_bytes());
        let mut seed = 1u32;
        let noise = std::iter::repeat_with(move || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        });
        text.chain(noise.take(CLUSTER + 5)).collect()
    }

    #[test]
    fn reads_back() {
        for length in [0, 1, 100, CLUSTER - 1, CLUSTER, CLUSTER + 1, sample().len()] {
            let data = &sample()[..length];
            let packed = compress(data).expect("read").expect("short");
            let compressed = Compressed::parse(&packed, length as u64).expect("parse");
            assert_eq!(compressed.to_vec().expect("whole"), data);
            assert_eq!(compressed.stored(), packed.len() as u64);
        }
        let packed = compress(&sample()[..]).expect("read").expect("short");
        assert!(packed.len() < sample().len() * 3 / 4, "{}", packed.len());
    }

    #[test]
    fn damage_is_told() {
        let data = sample();
        let packed = compress(&data[..]).expect("read").expect("short");
        let mut buffer = vec![0; CLUSTER];
        let size = data.len() as u64;
        assert!(Compressed::parse(&packed[..8], size).is_none());
        assert!(Compressed::parse(&packed, u64::MAX).is_none());
        assert!(Compressed::parse(&packed, size).expect("parse").cluster(1000, &mut buffer).is_err());
        assert!(Compressed::parse(&packed, size).expect("parse").cluster(0, &mut [0; 9]).is_err());
        // A wrong size gives clusters of other lengths.
        let wrong = Compressed::parse(&packed, size - 1).expect("parse");
        assert!(wrong.to_vec().is_err());
        let cut = Compressed::parse(&packed[..packed.len() - 1], size).expect("parse");
        assert!(cut.to_vec().is_err());
        let mut told = 0;
        for at in (0..packed.len()).step_by(packed.len() / 40) {
            let mut bad = packed.clone();
            bad[at] ^= 0x55;
            let compressed = Compressed::parse(&bad, size).expect("parse");
            told += u32::from(compressed.to_vec().is_err());
        }
        assert!(told > 10, "{told}");
    }
}
