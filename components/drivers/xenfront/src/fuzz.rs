//! Runs the frontends with backends that write whatever bytes say: answers near what is expected and far from it, indices,
//! words of the shared pages, and going away. Nothing may panic, and what must always hold does. For fuzzing, and for a
//! bounded test with random bytes.

use std::{sync::Arc, vec::Vec};

use rumpnet::{
    device::NetworkDevice,
    packet::{Chain, Checksum, Packet, Segmentation},
};
use rumpuser::{
    device::{GrantReference, XenbusDevice},
    memory::PAGE_SIZE,
};

use crate::{
    block::queue::{Queue, REQUEST},
    model::Model,
    net,
    ring::backend::Backend,
};

/// Bytes of the network's requests and answers.
const TRANSMIT: usize = 12;
const RECEIVE: usize = 8;
/// The longest packet that a backend can bring, in pages.
const PACKET_PAGES: usize = 20;

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let (&byte, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        byte
    }

    fn half(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    fn word(&mut self) -> u32 {
        u32::from(self.half()) | u32::from(self.half()) << 16
    }
}

/// Writes where only the frontend should, claims indices, or answers with any words.
fn misbehave(bytes: &mut Bytes<'_>, ring: &mut Backend, words: usize) {
    match bytes.byte() % 4 {
        0 => {
            let answer: Vec<u32> = (0..words).map(|_| bytes.word()).collect();
            ring.answer(&answer);
        }
        1 => {
            ring.answered = ring.answered.wrapping_add_signed(i32::from(bytes.byte() as i8));
            ring.claim(ring.answered);
        }
        2 => ring.claim(bytes.word()),
        _ => ring.registers.write32((usize::from(bytes.half()) % PAGE_SIZE) & !3, bytes.word()),
    }
}

/// A ring of the interface's, as long as it is granted.
struct Shared {
    name: &'static str,
    entry: usize,
    now: Option<(GrantReference, Backend)>,
}

impl Shared {
    fn new(name: &'static str, entry: usize) -> Shared {
        Shared { name, entry, now: None }
    }

    fn look(&mut self, model: &Model) -> Option<&mut Backend> {
        let reference = model.published(self.name)?.parse().ok()?;
        let frame = model.frame(reference)?;
        if self.now.as_ref().is_none_or(|(known, _)| *known != reference) {
            self.now = Some((reference, Backend::of(frame, self.entry)));
        }
        self.now.as_mut().map(|(_, ring)| ring)
    }
}

/// An interface.
pub fn network(input: &[u8]) {
    let bytes = &mut Bytes(input);
    let features = bytes.byte();
    let offers = |bit: u8| if features & bit != 0 { "1" } else { "0" };
    let model = Model::new(
        "vif",
        &[
            ("feature-rx-copy", "1"),
            ("feature-sg", "1"),
            ("feature-gso-tcpv4", offers(1)),
            ("feature-gso-tcpv6", offers(2)),
            ("feature-ipv6-csum-offload", offers(4)),
        ],
    );
    let device: Arc<dyn XenbusDevice> = model.clone();
    let Ok(net) = net::connect::open(&device, features & 8 != 0) else { return };
    let mut rings = [Shared::new("tx-ring-ref", TRANSMIT), Shared::new("rx-ring-ref", RECEIVE)];
    // What the backend has taken and not answered.
    let mut sent: Vec<u32> = Vec::new();
    let mut restarted = false;
    while !bytes.0.is_empty() {
        let operation = bytes.byte() % 12;
        let [transmit, receive] = rings.each_mut().map(|ring| ring.look(&model));
        // Without rings, there is nothing to write to.
        let (Some(transmit), Some(receive)) = (transmit, receive) else {
            match operation {
                0 | 1 => send(bytes, &*net),
                2 => net.backend_changed(bytes.byte().into()),
                3 => {
                    model.restart();
                    restarted = true;
                    net.reconnect();
                }
                4 => model.raise(),
                _ => {
                    net.arm(0);
                    net.receive(0, 9, &mut |_| {});
                }
            }
            continue;
        };
        match operation {
            0 | 1 => send(bytes, &*net),
            2 => {
                sent.extend(
                    core::iter::from_fn(|| transmit.request()).map(|words| words[2] & 0xffff).take(300),
                );
                if !sent.is_empty() {
                    let identifier = sent.remove(usize::from(bytes.byte()) % sent.len());
                    let status = [0, 1, 0xffff, 0xfffe][usize::from(bytes.byte()) % 4];
                    transmit.answer(&[identifier | status << 16]);
                }
            }
            3 => misbehave(bytes, transmit, 1),
            4..=6 => {
                let (flags, offset) = (bytes.byte(), bytes.half());
                let size = if flags & 0x80 != 0 { bytes.half() } else { bytes.half() % 4097 };
                let offset = if flags & 0x40 != 0 { offset } else { offset % 64 };
                let identifier = receive.answered & (receive.size - 1);
                receive.answer(&[
                    identifier | u32::from(offset) << 16,
                    u32::from(flags & 0xf) | u32::from(size) << 16,
                ]);
                if flags & 8 != 0 {
                    receive.answer(&[1 | u32::from(bytes.half()) << 16, u32::from(bytes.byte())]);
                }
            }
            7 => misbehave(bytes, receive, 2),
            8 => {
                net.receive(0, usize::from(bytes.byte()), &mut |packet| {
                    assert!((14..=PACKET_PAGES * PAGE_SIZE).contains(&packet.data.len()));
                    assert!(packet.data.fragments().iter().all(|fragment| !fragment.bytes().is_empty()));
                });
            }
            9 => {
                net.arm(0);
                net.flush(0);
                net.statistics();
            }
            10 => model.raise(),
            _ => match bytes.byte() {
                0..=40 => net.backend_changed(bytes.byte().into()),
                41..=80 => {
                    model.restart();
                    restarted = true;
                    net.reconnect();
                    sent.clear();
                }
                _ => {}
            },
        }
    }
    drop(net);
    assert!(restarted || model.granted() == 0, "pages stay granted");
}

fn send(bytes: &mut Bytes<'_>, net: &dyn NetworkDevice) {
    let flags = bytes.byte();
    let length = usize::from(bytes.half()) % if flags & 1 != 0 { 65_536 } else { 600 };
    let Ok(payload) = Chain::copy_of(&std::vec![flags; length]) else { return };
    let mut packet = Packet { payload, ..Packet::default() };
    packet.header.prepend(usize::from(bytes.byte()) % 161);
    if flags & 2 != 0 {
        packet.checksum = Checksum::Partial { start: 34, offset: 16 };
    }
    if flags & 4 != 0 {
        packet.segmentation =
            Some(Segmentation { size: bytes.half(), version6: flags & 8 != 0, ecn: flags & 16 != 0 });
    }
    let _ = net.transmit(0, &mut packet);
}

/// A disk's queue.
pub fn block(input: &[u8]) {
    let bytes = &mut Bytes(input);
    let model = Model::new("vbd", &[]);
    let device: Arc<dyn XenbusDevice> = model.clone();
    let Ok(queue) = Queue::new(&device) else { return };
    let Ok((reference, _)) = queue.open(0) else { return };
    queue.start();
    let Some(frame) = model.frame(reference) else { return };
    let mut ring = Backend::of(frame, REQUEST);
    let mut waiting: Vec<usize> = Vec::new();
    let mut seen: Vec<u32> = Vec::new();
    while !bytes.0.is_empty() {
        match bytes.byte() % 9 {
            0..=2 => {
                let mut words = [u32::from(bytes.byte()); REQUEST / 4];
                if let Some(index) = queue.submit(&mut words, queue.epoch()) {
                    assert!(!waiting.contains(&index) && index < 32, "{index} is used twice");
                    waiting.push(index);
                }
            }
            3 | 4 => {
                seen.extend(core::iter::from_fn(|| ring.request()).map(|words| words[2]).take(32));
                if !seen.is_empty() {
                    let identifier = seen.remove(usize::from(bytes.byte()) % seen.len());
                    ring.answer(&[identifier, 0, u32::from(bytes.byte())]);
                }
            }
            5 => misbehave(bytes, &mut ring, 3),
            6 => model.raise(),
            7 => {
                queue.look();
                waiting.retain(|index| queue.outcome(*index).is_none());
            }
            _ => match bytes.byte() {
                0..=20 => {
                    queue.leave(true);
                    let Ok((reference, _)) = queue.open(0) else { return };
                    queue.start();
                    let Some(frame) = model.frame(reference) else { return };
                    ring = Backend::of(frame, REQUEST);
                    seen.clear();
                }
                21 => queue.fail(),
                _ => {}
            },
        }
    }
    // Whatever the backend did, nobody waits for ever.
    queue.fail();
    assert!(waiting.iter().all(|index| queue.outcome(*index).is_some()), "a request without an outcome");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(mut run: impl FnMut(&[u8])) {
        let mut seed = 1_u32;
        for round in 0..100 {
            let input: Vec<u8> = (0..16 * round)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (seed >> 16) as u8
                })
                .collect();
            run(&input);
        }
    }

    #[test]
    fn interfaces_survive_any_backend() {
        random(network);
    }

    #[test]
    fn disks_survive_any_backend() {
        random(block);
    }
}
