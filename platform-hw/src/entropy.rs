//! Random bytes: a ChaCha20 generator whose key changes with every request (so that what was handed out can't be
//! computed afterwards), fed by the CPU's generator, timing jitter and the drivers of entropy devices.

use core::{
    arch::asm,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use rand_chacha::{
    ChaCha20Rng,
    rand_core::{RngCore, SeedableRng},
};
use rumpuser::sync::InterruptLock;

use crate::{once::Once, port};

type Key = [u8; 32];

static KEY: InterruptLock<Key> = InterruptLock::new([0; 32]);
static SEEDED: AtomicBool = AtomicBool::new(false);

/// Asks the entropy devices for more.
static REFILL: Once<fn()> = Once::new();
/// Bytes handed out since the last time they were asked.
static DRAWN: AtomicUsize = AtomicUsize::new(0);
/// How many bytes may be drawn before they are asked again.
const DRAW: usize = 1 << 20;

/// How often a generator of the CPU is asked before it counts as empty (Intel's advice: 10 for RDRAND).
const TRIES: u32 = 10;

#[derive(Clone, Copy)]
enum Instruction {
    RdSeed,
    RdRand,
}

/// What the CPU has, the better first.
fn instruction() -> Option<Instruction> {
    if port::cpuid(0, 0)[0] >= 7 && port::cpuid(7, 0)[1] & 1 << 18 != 0 {
        Some(Instruction::RdSeed)
    } else if port::cpuid(1, 0)[2] & 1 << 30 != 0 {
        Some(Instruction::RdRand)
    } else {
        None
    }
}

fn random_word(instruction: Instruction) -> Option<u64> {
    for _ in 0..TRIES {
        let (value, success): (u64, u8);
        match instruction {
            // SAFETY: the CPU has the instruction; it changes a register and the flags.
            Instruction::RdSeed => unsafe {
                asm!("rdseed {}", "setc {}", out(reg) value, out(reg_byte) success, options(nomem, nostack));
            },
            // SAFETY: as above.
            Instruction::RdRand => unsafe {
                asm!("rdrand {}", "setc {}", out(reg) value, out(reg_byte) success, options(nomem, nostack));
            },
        }
        // Broken generators say all zeros or all ones, with success.
        if success != 0 && value != 0 && value != u64::MAX {
            return Some(value);
        }
        core::hint::spin_loop();
    }
    None
}

/// Makes the key depend on `input` as well: whoever doesn't know both doesn't know the new key.
fn absorb(key: &mut Key, input: &Key) {
    let mut mixed = *key;
    for (byte, more) in mixed.iter_mut().zip(input) {
        *byte ^= more;
    }
    ChaCha20Rng::from_seed(mixed).fill_bytes(key);
}

/// Adds bytes of a device, or anything else that others can hardly know.
pub fn add(bytes: &[u8]) {
    let mut key = KEY.lock();
    for chunk in bytes.chunks(32) {
        let mut input = [0; 32];
        input[..chunk.len()].copy_from_slice(chunk);
        absorb(&mut key, &input);
    }
}

/// Names what asks the entropy devices for more; it must return at once.
pub fn set_refill(refill: fn()) {
    REFILL.set(refill);
}

/// Adds what the CPU and its clock give. `rounds` of jitter.
fn gather(rounds: usize) {
    let source = instruction();
    let mut input = [0; 32];
    for (index, chunk) in input.chunks_mut(8).enumerate() {
        let word = source.and_then(random_word).unwrap_or(index as u64);
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    add(&input);
    for _ in 0..rounds {
        // The low bits of the time that a few memory and I/O accesses take.
        for byte in &mut input {
            let before = port::tsc();
            port::read8(0x80);
            *byte ^= port::tsc().wrapping_sub(before) as u8;
        }
        add(&input);
        add(&port::tsc().to_le_bytes());
    }
}

/// Fills `bytes`, always completely.
pub fn fill(bytes: &mut [u8]) -> usize {
    if !SEEDED.swap(true, Ordering::AcqRel) {
        // Without a generator in the CPU, jitter has to do.
        gather(if instruction().is_some() { 1 } else { 64 });
    }
    let mut request = Key::default();
    {
        let mut key = KEY.lock();
        let mut generator = ChaCha20Rng::from_seed(*key);
        generator.fill_bytes(&mut *key);
        generator.fill_bytes(&mut request);
    }
    if DRAWN.fetch_add(bytes.len(), Ordering::Relaxed) >= DRAW {
        DRAWN.store(0, Ordering::Relaxed);
        gather(1);
        if let Some(refill) = REFILL.get() {
            refill();
        }
    }
    // Long requests run without the lock.
    ChaCha20Rng::from_seed(request).fill_bytes(bytes);
    bytes.len()
}
