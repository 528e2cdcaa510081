//! Fixed-offset access to on-disk structures: ext4 is little-endian, its journal big-endian.
//!
//! The offsets are those of the specification; callers pass buffers whose length they have checked.

macro_rules! accessors {
    ($($get:ident, $put:ident, $kind:ty, $from:ident, $to:ident;)*) => { $(
        pub fn $get(data: &[u8], offset: usize) -> $kind {
            let mut bytes = [0; size_of::<$kind>()];
            bytes.copy_from_slice(&data[offset..offset + size_of::<$kind>()]);
            <$kind>::$from(bytes)
        }

        pub fn $put(data: &mut [u8], offset: usize, value: $kind) {
            data[offset..offset + size_of::<$kind>()].copy_from_slice(&value.$to());
        }
    )* };
}

accessors! {
    le16, put_le16, u16, from_le_bytes, to_le_bytes;
    le32, put_le32, u32, from_le_bytes, to_le_bytes;
    be16, put_be16, u16, from_be_bytes, to_be_bytes;
    be32, put_be32, u32, from_be_bytes, to_be_bytes;
    be64, put_be64, u64, from_be_bytes, to_be_bytes;
}

/// A 64-bit number stored as two halves.
pub fn join(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// The low half of a 64-bit number.
pub fn low(value: u64) -> u32 {
    value as u32
}

/// The high half of a 64-bit number.
pub fn high(value: u64) -> u32 {
    (value >> 32) as u32
}
