//! Keyed hashes: SipHash-2-4 (Aumasson and Bernstein, 2012) over words, for initial sequence numbers, SYN cookies and
//! ports, which an outsider must not guess; and a cheap one for tables.

use core::net::IpAddr;

use once_cell::race::OnceBox;
use rumpuser::rumpuser_getrandom;

struct State([u64; 4]);

impl State {
    fn new(key: [u64; 2]) -> Self {
        State([
            key[0] ^ 0x736f_6d65_7073_6575,
            key[1] ^ 0x646f_7261_6e64_6f6d,
            key[0] ^ 0x6c79_6765_6e65_7261,
            key[1] ^ 0x7465_6462_7974_6573,
        ])
    }

    fn round(&mut self) {
        let v = &mut self.0;
        v[0] = v[0].wrapping_add(v[1]);
        v[2] = v[2].wrapping_add(v[3]);
        v[1] = v[1].rotate_left(13) ^ v[0];
        v[3] = v[3].rotate_left(16) ^ v[2];
        v[0] = v[0].rotate_left(32);
        v[2] = v[2].wrapping_add(v[1]);
        v[0] = v[0].wrapping_add(v[3]);
        v[1] = v[1].rotate_left(17) ^ v[2];
        v[3] = v[3].rotate_left(21) ^ v[0];
        v[2] = v[2].rotate_left(32);
    }

    fn absorb(&mut self, word: u64) {
        self.0[3] ^= word;
        self.round();
        self.round();
        self.0[0] ^= word;
    }

    fn finish(mut self) -> u64 {
        self.0[2] ^= 0xff;
        (0..4).for_each(|_| self.round());
        self.0.iter().fold(0, |sum, word| sum ^ word)
    }
}

/// SipHash-2-4 of the words in little-endian order.
fn sip(key: [u64; 2], words: &[u64]) -> u64 {
    let mut state = State::new(key);
    words.iter().for_each(|&word| state.absorb(word));
    state.absorb((words.len() as u64 * 8) << 56);
    state.finish()
}

fn secret() -> [u64; 2] {
    static SECRET: OnceBox<[u64; 2]> = OnceBox::new();
    *SECRET.get_or_init(|| {
        let mut bytes = [0; 16];
        rumpuser_getrandom(&mut bytes);
        let number = u128::from_le_bytes(bytes);
        alloc::boxed::Box::new([number as u64, (number >> 64) as u64])
    })
}

/// A hash that nobody outside this machine can compute. It changes at every boot.
pub fn keyed(words: &[u64]) -> u64 {
    sip(secret(), words)
}

/// An address as two words; an IPv4 address in its mapped form.
pub fn address_words(address: IpAddr) -> [u64; 2] {
    let number = match address {
        IpAddr::V4(address) => u128::from(u32::from(address)) | 0xffff << 32,
        IpAddr::V6(address) => u128::from(address),
    };
    [number as u64, (number >> 64) as u64]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of the paper's reference implementation: key 00 01 … 0f, message 00 01 … of 0, 8 and 16 bytes.
    #[test]
    fn known_answers() {
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        assert_eq!(sip(key, &[]), 0x726f_db47_dd0e_0e31);
        assert_eq!(sip(key, &[key[0]]), 0x93f5_f579_9a93_2462);
        assert_eq!(sip(key, &key), 0x3f2a_cc7f_57c2_9bdb);
    }

    #[test]
    fn addresses_are_told_apart() {
        let words = |text: &str| address_words(text.parse().unwrap());
        assert_eq!(words("10.0.0.1"), words("::ffff:10.0.0.1"));
        assert_ne!(words("10.0.0.1"), words("::10.0.0.1"));
        assert_eq!(keyed(&[1, 2]), keyed(&[1, 2]));
        assert_ne!(keyed(&[1, 2]), keyed(&[2, 1]));
    }
}
