//! Classic BPF (McCanne and Jacobson, 1993; Linux's networking/filter.rst): filters of packets that programs attach.
//!
//! A filter is checked when it is attached: then it only jumps forward, to places inside, and ends.

use alloc::{sync::Arc, vec::Vec};

use rumpkern::{Errno, Result};

/// The most instructions (BPF_MAXINSNS).
const LIMIT: usize = 4096;
/// Words of memory (BPF_MEMWORDS).
const MEMORY: usize = 16;
/// Bytes of an instruction (`struct sock_filter`).
const INSTRUCTION: usize = 8;
/// Offsets from here on are about the packet, not in it (SKF_AD_OFF).
const ANCILLARY: u32 = 0xffff_f000;
/// Offsets from here on count from the network header (SKF_NET_OFF).
const NETWORK: u32 = 0xfff0_0000;
/// Offsets from here on count from the link header (SKF_LL_OFF).
const LINK: u32 = 0xffe0_0000;

#[derive(Debug, Clone, Copy)]
struct Instruction {
    code: u16,
    when_true: u8,
    when_false: u8,
    value: u32,
}

/// A packet, as a filter sees it.
pub trait Subject {
    /// Its length.
    fn length(&self) -> usize;
    /// Copies bytes from `offset` on; false if they are not all there.
    fn read(&self, offset: usize, bytes: &mut [u8]) -> bool;
    /// Where the network header is.
    fn network(&self) -> usize;
    /// What an offset of SKF_AD_OFF gives, if it is known: 0 the protocol, 4 the direction, 8 the interface.
    fn ancillary(&self, offset: u32) -> Option<u32>;
}

/// A checked filter.
#[derive(Debug)]
pub struct Filter(Vec<Instruction>);

impl Filter {
    /// Checks a program. EINVAL if it could loop, leave itself or its memory, or has unknown instructions.
    pub fn new(bytes: &[u8]) -> Result<Arc<Self>> {
        let count = bytes.len() / INSTRUCTION;
        if count == 0 || count > LIMIT || !bytes.len().is_multiple_of(INSTRUCTION) {
            return Err(Errno::EINVAL);
        }
        let program: Vec<Instruction> = bytes
            .chunks_exact(INSTRUCTION)
            .map(|bytes| Instruction {
                code: u16::from_ne_bytes([bytes[0], bytes[1]]),
                when_true: bytes[2],
                when_false: bytes[3],
                value: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
            })
            .collect();
        let fits = program.iter().enumerate().all(|(index, one)| is_valid(one, count - index - 1));
        let ends = program.last().is_some_and(|last| last.code & 7 == 6);
        if fits && ends { Ok(Arc::new(Filter(program))) } else { Err(Errno::EINVAL) }
    }

    /// How many bytes of a packet are wanted; 0: none, it is dropped.
    pub fn run(&self, packet: &impl Subject) -> usize {
        self.evaluate(packet).unwrap_or(0) as usize
    }

    /// `None` where the program reads outside the packet, or divides by zero.
    fn evaluate(&self, packet: &impl Subject) -> Option<u32> {
        let (mut a, mut x) = (0u32, 0u32);
        let mut memory = [0u32; MEMORY];
        let mut next = 0usize;
        loop {
            let one = self.0.get(next)?;
            next += 1;
            let (code, value) = (one.code, one.value);
            let operand = if code & 8 != 0 { x } else { value };
            match code & 7 {
                0 => {
                    a = match code & 0xe0 {
                        0x00 => value,
                        0x20 => load(packet, value, code)?,
                        0x40 => load(packet, x.wrapping_add(value), code)?,
                        0x60 => *memory.get(value as usize)?,
                        _ => packet.length() as u32,
                    }
                }
                1 => {
                    x = match code & 0xe0 {
                        0x00 => value,
                        0x60 => *memory.get(value as usize)?,
                        0x80 => packet.length() as u32,
                        // Four times the header length in the low half of a byte, as IPv4 has it.
                        _ => (load(packet, value, 0x10)? & 15) * 4,
                    }
                }
                2 => *memory.get_mut(value as usize)? = a,
                3 => *memory.get_mut(value as usize)? = x,
                4 => a = calculate(code, a, operand)?,
                5 => {
                    let holds = match code & 0xf0 {
                        0x00 => {
                            next += value as usize;
                            continue;
                        }
                        0x10 => a == operand,
                        0x20 => a > operand,
                        0x30 => a >= operand,
                        _ => a & operand != 0,
                    };
                    next += usize::from(if holds { one.when_true } else { one.when_false });
                }
                6 => return Some(if code & 0x18 == 0x10 { a } else { operand }),
                _ if code & 0x80 != 0 => a = x,
                _ => x = a,
            }
        }
    }
}

/// Whether an instruction is known and stays inside; `behind` instructions follow it.
fn is_valid(one: &Instruction, behind: usize) -> bool {
    let in_memory = (one.value as usize) < MEMORY;
    match one.code {
        // ld and ldx: packet, constant, length, memory.
        0x20 | 0x28 | 0x30 | 0x40 | 0x48 | 0x50 | 0x00 | 0x80 | 0x01 | 0x81 | 0xb1 => true,
        0x60 | 0x61 | 0x02 | 0x03 => in_memory,
        // Division and remainder by a constant, shifts.
        0x34 | 0x94 => one.value != 0,
        0x64 | 0x74 => one.value < 32,
        0x04 | 0x0c | 0x14 | 0x1c | 0x24 | 0x2c | 0x3c | 0x44 | 0x4c | 0x54 | 0x5c | 0x6c | 0x7c | 0x84
        | 0x9c | 0xa4 | 0xac => true,
        0x05 => (one.value as usize) < behind,
        0x15 | 0x1d | 0x25 | 0x2d | 0x35 | 0x3d | 0x45 | 0x4d => {
            usize::from(one.when_true) < behind && usize::from(one.when_false) < behind
        }
        0x06 | 0x0e | 0x16 | 0x07 | 0x87 => true,
        _ => false,
    }
}

fn load(packet: &impl Subject, offset: u32, code: u16) -> Option<u32> {
    if offset >= ANCILLARY {
        return packet.ancillary(offset - ANCILLARY);
    }
    let offset = match offset {
        NETWORK.. => packet.network() + (offset - NETWORK) as usize,
        LINK.. => (offset - LINK) as usize,
        offset => offset as usize,
    };
    let mut bytes = [0; 4];
    let size = match code & 0x18 {
        0x00 => 4,
        0x08 => 2,
        _ => 1,
    };
    packet.read(offset, &mut bytes[4 - size..]).then(|| u32::from_be_bytes(bytes))
}

fn calculate(code: u16, a: u32, operand: u32) -> Option<u32> {
    Some(match code & 0xf0 {
        0x00 => a.wrapping_add(operand),
        0x10 => a.wrapping_sub(operand),
        0x20 => a.wrapping_mul(operand),
        0x30 => a.checked_div(operand)?,
        0x40 => a | operand,
        0x50 => a & operand,
        0x60 => a.checked_shl(operand).unwrap_or(0),
        0x70 => a.checked_shr(operand).unwrap_or(0),
        0x80 => a.wrapping_neg(),
        0x90 => a.checked_rem(operand)?,
        _ => a ^ operand,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bytes(&'static [u8]);

    impl Subject for Bytes {
        fn length(&self) -> usize {
            self.0.len()
        }

        fn read(&self, offset: usize, bytes: &mut [u8]) -> bool {
            let part = self.0.get(offset..).and_then(|rest| rest.get(..bytes.len()));
            part.map(|part| bytes.copy_from_slice(part)).is_some()
        }

        fn network(&self) -> usize {
            14
        }

        fn ancillary(&self, offset: u32) -> Option<u32> {
            (offset == 0).then_some(0x800)
        }
    }

    fn program(instructions: &[(u16, u8, u8, u32)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for &(code, when_true, when_false, value) in instructions {
            bytes.extend_from_slice(&code.to_ne_bytes());
            bytes.extend_from_slice(&[when_true, when_false]);
            bytes.extend_from_slice(&value.to_ne_bytes());
        }
        bytes
    }

    fn run(instructions: &[(u16, u8, u8, u32)], packet: &'static [u8]) -> usize {
        Filter::new(&program(instructions)).unwrap().run(&Bytes(packet))
    }

    #[test]
    fn a_filter_for_ip_lets_ip_through() {
        // tcpdump -dd ip
        let ip = [(0x28, 0, 0, 12), (0x15, 0, 1, 0x800), (0x06, 0, 0, 262_144), (0x06, 0, 0, 0)];
        assert_eq!(run(&ip, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0]), 262_144);
        assert_eq!(run(&ip, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 6]), 0);
        // Too short: dropped.
        assert_eq!(run(&ip, &[0; 13]), 0);
    }

    #[test]
    fn arithmetic_memory_and_what_is_known_besides() {
        let sum = [(0x00, 0, 0, 7), (0x02, 0, 0, 3), (0x61, 0, 0, 3), (0x2c, 0, 0, 0), (0x16, 0, 0, 0)];
        assert_eq!(run(&sum, &[]), 49);
        assert_eq!(run(&[(0x20, 0, 0, ANCILLARY), (0x16, 0, 0, 0)], &[]), 0x800);
        assert_eq!(run(&[(0x00, 0, 0, 5), (0x3c, 0, 0, 0), (0x06, 0, 0, 1)], &[]), 0, "x is 0");
        assert_eq!(run(&[(0xb1, 0, 0, 0), (0x87, 0, 0, 0), (0x16, 0, 0, 0)], &[0x45]), 20);
        assert_eq!(run(&[(0x80, 0, 0, 0), (0x16, 0, 0, 0)], &[1, 2, 3]), 3);
    }

    #[test]
    fn what_could_go_wrong_is_refused() {
        for wrong in [
            &[][..],
            &[(0x00, 0, 0, 1)],
            &[(0x05, 0, 0, 1), (0x06, 0, 0, 0)],
            &[(0x15, 0, 9, 0), (0x06, 0, 0, 0)],
            &[(0x05, 0, 0, u32::MAX), (0x06, 0, 0, 0)],
            &[(0x02, 0, 0, 16), (0x06, 0, 0, 0)],
            &[(0x34, 0, 0, 0), (0x06, 0, 0, 0)],
            &[(0xffff, 0, 0, 0), (0x06, 0, 0, 0)],
        ] {
            assert_eq!(Filter::new(&program(wrong)).err(), Some(Errno::EINVAL), "{wrong:?}");
        }
        assert!(Filter::new(&[0; 7]).is_err());
    }
}
