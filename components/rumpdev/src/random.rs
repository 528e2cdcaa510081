//! Random numbers: ChaCha20 (RFC 8439) keyed by the platform's entropy, a generator for each CPU, with the
//! key replaced after every request so that earlier output cannot be computed from a later state.

use alloc::string::String;
use core::{any::Any, array};

use rumpkern::{
    Result,
    uio::{Sink, Source},
};
use rumpuser::{
    rumpuser_clock_monotonic, rumpuser_cpu, rumpuser_getrandom, rumpuser_interrupted, sync::SpinLock,
};
use rumpvfs::file::{File, OpenFlags};

use crate::memory::fill_sink;

/// Generators; a CPU uses the one of its number modulo this.
const GENERATORS: usize = 16;
/// After this time the platform is asked for new entropy.
const RESEED_INTERVAL: u64 = 60_000_000_000;

#[derive(Clone, Copy)]
struct Generator {
    key: [u32; 8],
    seeded: u64,
}

static POOL: [SpinLock<Generator>; GENERATORS] =
    [const { SpinLock::new(Generator { key: [0; 8], seeded: 0 }) }; GENERATORS];

fn quarter(state: &mut [u32; 16], a: usize, b: usize, c: usize, d: usize) {
    state[a] = state[a].wrapping_add(state[b]);
    state[d] = (state[d] ^ state[a]).rotate_left(16);
    state[c] = state[c].wrapping_add(state[d]);
    state[b] = (state[b] ^ state[c]).rotate_left(12);
    state[a] = state[a].wrapping_add(state[b]);
    state[d] = (state[d] ^ state[a]).rotate_left(8);
    state[c] = state[c].wrapping_add(state[d]);
    state[b] = (state[b] ^ state[c]).rotate_left(7);
}

/// The block function of RFC 8439, section 2.3.
fn block(key: &[u32; 8], counter: u32, nonce: &[u32; 3]) -> [u8; 64] {
    let mut initial = [0u32; 16];
    initial[..4].copy_from_slice(&[0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574]);
    initial[4..12].copy_from_slice(key);
    initial[12] = counter;
    initial[13..].copy_from_slice(nonce);
    let mut state = initial;
    for _ in 0..10 {
        quarter(&mut state, 0, 4, 8, 12);
        quarter(&mut state, 1, 5, 9, 13);
        quarter(&mut state, 2, 6, 10, 14);
        quarter(&mut state, 3, 7, 11, 15);
        quarter(&mut state, 0, 5, 10, 15);
        quarter(&mut state, 1, 6, 11, 12);
        quarter(&mut state, 2, 7, 8, 13);
        quarter(&mut state, 3, 4, 9, 14);
    }
    let mut bytes = [0; 64];
    for (index, chunk) in bytes.chunks_exact_mut(4).enumerate() {
        chunk.copy_from_slice(&state[index].wrapping_add(initial[index]).to_le_bytes());
    }
    bytes
}

fn words(bytes: &[u8]) -> [u32; 8] {
    array::from_fn(|index| {
        u32::from_le_bytes(array::from_fn(|byte| bytes.get(index * 4 + byte).copied().unwrap_or(0)))
    })
}

/// Fills `bytes` with random numbers fit for keys.
pub fn fill(bytes: &mut [u8]) {
    let slot = &POOL[rumpuser_cpu() % GENERATORS];
    let now = rumpuser_clock_monotonic().max(1);
    let due = |generator: &Generator| {
        generator.seeded == 0 || now.saturating_sub(generator.seeded) > RESEED_INTERVAL
    };
    if due(&slot.lock()) {
        let mut seed = [0; 32];
        rumpuser_getrandom(&mut seed);
        let seed = words(&seed);
        let mut generator = slot.lock();
        for (word, fresh) in generator.key.iter_mut().zip(seed) {
            *word ^= fresh;
        }
        generator.seeded = now;
    }
    // Block 0 gives the next key, and whoever takes a key takes it alone.
    let key = {
        let mut generator = slot.lock();
        let key = generator.key;
        generator.key = words(&block(&key, 0, &[0; 3])[..32]);
        key
    };
    for (index, chunk) in bytes.chunks_mut(64).enumerate() {
        let index = index as u64 + 1;
        chunk.copy_from_slice(&block(&key, index as u32, &[(index >> 32) as u32, 0, 0])[..chunk.len()]);
    }
}

/// Fills a user buffer; stops early for a signal, as getrandom(2) may for long requests.
pub fn read(sink: &mut Sink<'_>) -> Result<usize> {
    fill_sink(sink, 256, |sink, length| {
        let mut bytes = [0; 256];
        fill(&mut bytes[..length]);
        sink.put(&bytes[..length])
    })
}

/// /dev/random and /dev/urandom.
pub struct Random;

impl File for Random {
    fn read(&self, sink: &mut Sink<'_>, _offset: u64, _flags: OpenFlags) -> Result<usize> {
        read(sink)
    }

    /// Mixes what is written into the generator of this CPU.
    fn write(&self, source: &mut Source<'_>, _offset: &mut u64, _flags: OpenFlags) -> Result<usize> {
        let mut bytes = [0; 32];
        let before = source.transferred();
        while source.remaining() > 0 && !rumpuser_interrupted() {
            match source.take(&mut bytes) {
                Ok(size) => {
                    let mixed = words(&bytes[..size]);
                    let mut generator = POOL[rumpuser_cpu() % GENERATORS].lock();
                    if generator.seeded != 0 {
                        for (word, other) in generator.key.iter_mut().zip(mixed) {
                            *word ^= other;
                        }
                        generator.key = words(&block(&generator.key, 0, &[1, 0, 0])[..32]);
                    }
                }
                Err(error) if source.transferred() == before => return Err(error),
                Err(_) => break,
            }
        }
        Ok(source.transferred() - before)
    }

    fn description(&self) -> String {
        String::from("/dev/urandom")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_function_gives_the_vector_of_rfc_8439() {
        let key: [u8; 32] = array::from_fn(|index| index as u8);
        let output = block(&words(&key), 1, &[0x0900_0000, 0x4a00_0000, 0]);
        assert_eq!(output[..8], [0x10, 0xf1, 0xe7, 0xe4, 0xd1, 0x3b, 0x59, 0x15]);
        assert_eq!(output[60..], [0xa2, 0x50, 0x3c, 0x4e]);
    }

    #[test]
    fn two_requests_differ() {
        let (mut first, mut second) = ([0; 100], [0; 100]);
        fill(&mut first);
        fill(&mut second);
        assert_ne!(first, second);
        assert_ne!(first, [0; 100]);
    }
}
