//! Runs the rings of bytes and xenstore's connection with another side that writes whatever bytes say. Nothing may panic, and
//! what must always hold does. For fuzzing, and for a bounded test with random bytes.

use alloc::{boxed::Box, vec};
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use crate::{
    ring::ByteRing,
    store::{
        connection::{Connection, EVENTS, Interface},
        wire::{self, Kind},
    },
};

/// The console's and xenstore's rings.
const SIZES: [usize; 2] = [1024, 2048];

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn word(&mut self) -> u32 {
        self.take(4).iter().fold(0, |word, byte| word << 8 | u32::from(*byte))
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// An index: moved a little, or anywhere.
    fn index(&mut self, index: &AtomicU32) {
        let value = match self.byte() {
            0..=200 => index.load(Ordering::Relaxed).wrapping_add(self.byte().into()),
            _ => self.word(),
        };
        index.store(value, Ordering::Relaxed);
    }
}

/// A ring of bytes, as the console has.
pub fn console(input: &[u8]) {
    let bytes = &mut Bytes(input);
    let memory: Box<[AtomicU8]> =
        (0..SIZES[usize::from(bytes.byte() & 1)]).map(|_| AtomicU8::new(0)).collect();
    let start = bytes.word();
    let (consumer, producer) = (AtomicU32::new(start), AtomicU32::new(start));
    let ring = ByteRing::new(&memory, &consumer, &producer);
    let mut data = [0; 4096];
    while !bytes.0.is_empty() {
        let used = ring.used();
        match bytes.byte() % 4 {
            0 => {
                let count = usize::from(bytes.byte()) * 16;
                match ring.send(&data[..count]) {
                    Ok(sent) => assert!(sent <= count && used.is_ok_and(|used| used + sent <= memory.len())),
                    Err(_) => assert!(used.is_err()),
                }
            }
            1 => {
                let count = usize::from(bytes.byte()) * 16;
                let received = ring.receive(&mut data[..count]);
                assert_eq!(received.ok(), used.ok().map(|used| used.min(count)));
            }
            2 => bytes.index(&producer),
            _ => bytes.index(&consumer),
        }
    }
}

/// Xenstore's messages, and the rings that they come by.
pub fn store(input: &[u8]) {
    let bytes = &mut Bytes(input);
    let interface = Interface::new();
    // SAFETY: it lives until the connection is gone.
    let shared: &'static Interface = unsafe { &*core::ptr::from_ref(&*interface) };
    let mut connection = Connection::new(shared);
    let mut request = 0;
    while !bytes.0.is_empty() {
        match bytes.byte() % 8 {
            0 => {
                let length = usize::from(bytes.byte()) * 20;
                connection.request(Kind::Write, bytes.byte().into(), &vec![b'x'; length]);
                request += 1;
            }
            1 | 2 => {
                // A message that may be one.
                let kind = bytes.byte();
                let payload = usize::from(bytes.byte());
                let mut message = wire::encode(Kind::Read, request, 0, bytes.take(payload));
                message[..4].copy_from_slice(&u32::from(kind % 24).to_le_bytes());
                if kind > 250 {
                    message[12..16].copy_from_slice(&bytes.word().to_le_bytes());
                }
                let _ = shared.answers().send(&message);
            }
            3 => {
                let count = bytes.byte().into();
                let _ = shared.answers().send(bytes.take(count));
            }
            4 => {
                let _ = shared.requests().receive(&mut [0; 700]);
            }
            5 => match bytes.byte() {
                0..=3 => bytes.index(&shared.answer_producer),
                4..=6 => bytes.index(&shared.request_consumer),
                7 => bytes.index(&shared.answer_consumer),
                8 => bytes.index(&shared.request_producer),
                9 => connection.resume(),
                _ => {}
            },
            6 => {
                connection.pump();
                if let Ok(Some(answer)) = connection.answer() {
                    assert!(answer.payload.len() <= wire::PAYLOAD);
                    wire::strings(&answer.payload);
                }
            }
            _ => {
                if let Some(event) = connection.event() {
                    assert!(event.kind == wire::WATCH_EVENT && event.payload.len() <= wire::PAYLOAD);
                    wire::strings(&event.payload);
                }
            }
        }
        assert!(connection.waiting_events() <= EVENTS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_and_messages_survive_any_other_side() {
        let mut seed = 1_u32;
        for round in 0..400 {
            let input: Vec<u8> = (0..8 * round)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (seed >> 16) as u8
                })
                .collect();
            console(&input);
            store(&input);
        }
    }
}
