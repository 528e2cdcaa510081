//! The Internet checksum (RFC 1071): of headers, pseudo-headers and chains.

use core::net::IpAddr;

use crate::packet::Chain;

/// A ones' complement sum in progress. Pieces may have odd lengths.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum {
    /// Sum of words in memory order.
    words: u64,
    /// Whether an odd number of bytes was added.
    odd: bool,
}

impl Sum {
    /// Nothing added.
    pub const fn new() -> Self {
        Sum { words: 0, odd: false }
    }

    /// Starts from a folded sum (as [`pseudo_header`] gives it).
    pub const fn from_folded(sum: u16) -> Self {
        Sum { words: sum.to_be() as u64, odd: false }
    }

    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        let mut sum = 0u64;
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            let word =
                u64::from_ne_bytes([word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7]]);
            sum += (word & 0xffff_ffff) + (word >> 32);
        }
        let rest = words.remainder();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        let last = u64::from_ne_bytes(last);
        sum += (last & 0xffff_ffff) + (last >> 32);
        if self.odd {
            sum = u64::from(fold(sum).swap_bytes());
        }
        self.words = u64::from(fold(self.words)) + u64::from(fold(sum));
        self.odd ^= bytes.len() % 2 == 1;
    }

    /// Adds a chain's bytes from `start` on.
    pub fn add_chain(&mut self, chain: &Chain, mut start: usize) {
        for fragment in chain.fragments() {
            match fragment.bytes().get(start..) {
                Some(bytes) => {
                    self.add(bytes);
                    start = 0;
                }
                None => start -= fragment.len(),
            }
        }
    }

    /// The sum, folded to 16 bits.
    pub fn folded(self) -> u16 {
        u16::from_be(fold(self.words))
    }

    /// The checksum: the complement. What was summed with a right checksum in it gives 0.
    pub fn finish(self) -> u16 {
        !self.folded()
    }
}

/// Folds a sum of words to 16 bits, keeping the byte order.
fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The checksum of `bytes`.
pub fn of(bytes: &[u8]) -> u16 {
    let mut sum = Sum::new();
    sum.add(bytes);
    sum.finish()
}

/// The folded sum of a pseudo-header (RFC 9293 3.1, RFC 8200 8.1); `length` is that of the transport header and
/// its payload. Addresses of different versions give a sum that fits no packet.
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u16 {
    let mut sum = Sum::new();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            sum.words = u64::from(u32::from_ne_bytes(source.octets()))
                + u64::from(u32::from_ne_bytes(destination.octets()));
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            sum.add(&source.octets());
            sum.add(&destination.octets());
        }
        _ => {}
    }
    sum.words += u64::from((length as u32).to_be()) + u64::from(u16::from_ne_bytes([0, protocol]));
    sum.folded()
}

/// Whether a received transport packet (header and payload) has the right checksum.
pub fn is_right(source: IpAddr, destination: IpAddr, protocol: u8, data: &Chain) -> bool {
    let mut sum = Sum::from_folded(pseudo_header(source, destination, protocol, data.len()));
    sum.add_chain(data, 0);
    sum.finish() == 0
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    /// As RFC 1071 describes it.
    fn plainly(bytes: &[u8]) -> u16 {
        let mut sum: u64 =
            bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0))).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn sums_are_those_of_the_bytes_however_they_are_cut() {
        let bytes: Vec<u8> = (0..1500u32).map(|n| ((n * 7919) >> 3) as u8).collect();
        for length in [0, 1, 2, 3, 7, 8, 9, 20, 21, 40, 63, 64, 1499, 1500] {
            let expected = plainly(&bytes[..length]);
            assert_eq!(of(&bytes[..length]), !expected, "{length}");
            for cut in [0, 1, 2, 5, 8, 13] {
                let cut = cut.min(length);
                let mut sum = Sum::new();
                sum.add(&bytes[..cut]);
                sum.add(&bytes[cut..length]);
                assert_eq!(sum.folded(), expected, "{length} {cut}");
            }
        }
        assert_eq!(of(&[0xff; 65536]), 0);
    }

    #[test]
    fn pseudo_headers_are_summed() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let bytes = [10, 0, 2, 15, 192, 168, 255, 254, 0, 6, 0x04, 0xd2];
        let sum = pseudo_header(address("10.0.2.15"), address("192.168.255.254"), 6, 1234);
        assert_eq!(sum, plainly(&bytes));
        let sum = pseudo_header(address("fe80::1"), address("::1"), 17, 65000);
        assert_eq!(sum, plainly(&[0xfe, 0x80, 0, 1, 0, 1, 0, 17, 0xfd, 0xe8]));
        let mut more = Sum::from_folded(sum);
        more.add(&[1]);
        assert_eq!(more.folded(), plainly(&[(sum >> 8) as u8, sum as u8, 1, 0]));
    }
}
