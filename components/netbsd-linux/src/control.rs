//! Ancillary data of datagrams: NetBSD's elements (`struct cmsghdr`, CMSG_DATA(3)) and Linux's.

use alloc::vec::Vec;

use rumpkern::{Errno, Result};
use rumpnet::{
    option::level,
    socket::{Control, Domain},
};

/// Bytes of an element's header, and what headers and data are aligned to.
const HEADER: usize = 12;
const ALIGNED: usize = 16;

/// `SOL_SOCKET` of NetBSD.
const SOCKET: i32 = 0xffff;

/// What is the same but for its name: level and type of Linux, of NetBSD.
const SAME: &[(i32, i32, i32, i32)] = &[
    // IPV6_PKTINFO, IPV6_HOPLIMIT, IPV6_TCLASS.
    (level::IPV6, 50, level::IPV6, 46),
    (level::IPV6, 52, level::IPV6, 47),
    (level::IPV6, 67, level::IPV6, 61),
];

/// `IP_PKTINFO` of Linux and of NetBSD.
const PACKET_INFO: i32 = 8;
const PACKET_INFO_NETBSD: i32 = 25;
/// `IP_TTL` of Linux, `IP_RECVTTL` of NetBSD.
const TTL: i32 = 2;
const RECEIVE_TTL_NETBSD: i32 = 23;
/// `SO_TIMESTAMP` of Linux (and SO_TIMESTAMPNS), `SCM_TIMESTAMP` of NetBSD.
const TIMESTAMP: i32 = 29;
const TIMESTAMP_NANOSECONDS: i32 = 35;
const TIMESTAMP_NETBSD: i32 = 8;

/// A socket wants the time in nanoseconds.
pub const WISH_NANOSECONDS: u32 = 1;

fn word(bytes: &[u8], at: usize) -> Option<[u8; 4]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// An element, in Linux's terms.
fn element(wishes: u32, level: i32, kind: i32, data: &[u8]) -> Option<Control> {
    if let Some(&(level, kind, ..)) = SAME.iter().find(|row| (row.2, row.3) == (level, kind)) {
        return Some(Control { level, kind, data: data.into() });
    }
    match (level, kind) {
        (level::IP, PACKET_INFO_NETBSD) => {
            // The address and the interface; Linux has the interface, the address to reply from, and the address.
            let (address, interface) = (word(data, 0)?, word(data, 4)?);
            let bytes = [interface, address, address].concat();
            Some(Control { level, kind: PACKET_INFO, data: bytes.as_slice().into() })
        }
        (level::IP, RECEIVE_TTL_NETBSD) => {
            let value = i32::from(*data.first()?).to_ne_bytes();
            Some(Control { level, kind: TTL, data: value.as_slice().into() })
        }
        (SOCKET, TIMESTAMP_NETBSD) => {
            // Seconds in 64 bits, microseconds in 32.
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(data.get(..8)?);
            let micro = i64::from(i32::from_ne_bytes(word(data, 8)?));
            let fine = wishes & WISH_NANOSECONDS != 0;
            bytes[8..].copy_from_slice(&if fine { micro * 1000 } else { micro }.to_ne_bytes());
            let kind = if fine { TIMESTAMP_NANOSECONDS } else { TIMESTAMP };
            Some(Control { level: level::SOCKET, kind, data: bytes.as_slice().into() })
        }
        _ => None,
    }
}

/// The elements that a message came with; those that Linux has not are left out.
pub fn decode(_domain: Domain, wishes: u32, bytes: &[u8]) -> Vec<Control> {
    let mut rest = bytes;
    let mut controls = Vec::new();
    while let (Some(length), Some(level), Some(kind)) = (word(rest, 0), word(rest, 4), word(rest, 8)) {
        let length = u32::from_ne_bytes(length) as usize;
        if length < ALIGNED || length > rest.len() {
            break;
        }
        let (level, kind) = (i32::from_ne_bytes(level), i32::from_ne_bytes(kind));
        controls.extend(element(wishes, level, kind, &rest[ALIGNED..length]));
        rest = rest.get(length.next_multiple_of(ALIGNED)..).unwrap_or_default();
    }
    controls
}

/// Writes the elements of a message to send; returns how many bytes. EINVAL for what NetBSD has not, or if they are
/// too many.
pub fn encode(_domain: Domain, controls: &[Control], room: &mut [u8]) -> Result<usize> {
    let mut used = 0;
    for control in controls {
        let mut short = [0; 8];
        let (level, kind, data): (i32, i32, &[u8]) = match (control.level, control.kind) {
            (level::IP, PACKET_INFO) => {
                let (interface, address) = (word(&control.data, 0), word(&control.data, 4));
                short[..4].copy_from_slice(&address.ok_or(Errno::EINVAL)?);
                short[4..].copy_from_slice(&interface.ok_or(Errno::EINVAL)?);
                (level::IP, PACKET_INFO_NETBSD, &short)
            }
            (level, kind) => {
                let row = SAME.iter().find(|row| (row.0, row.1) == (level, kind)).ok_or(Errno::EINVAL)?;
                (row.2, row.3, &control.data)
            }
        };
        let length = ALIGNED + data.len();
        let end = used + length.next_multiple_of(ALIGNED);
        let place = room.get_mut(used..end).ok_or(Errno::EINVAL)?;
        for (part, value) in place[..HEADER].chunks_exact_mut(4).zip([length as i32, level, kind]) {
            part.copy_from_slice(&value.to_ne_bytes());
        }
        place[ALIGNED..length].copy_from_slice(data);
        used = end;
    }
    Ok(used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_come_back() {
        let controls = [
            Control {
                level: level::IP,
                kind: PACKET_INFO,
                data: [2, 0, 0, 0, 10, 0, 0, 1, 9, 9, 9, 9].as_slice().into(),
            },
            Control { level: level::IPV6, kind: 50, data: [7; 20].as_slice().into() },
        ];
        let mut room = [0; 128];
        let used = encode(Domain::Inet, &controls, &mut room).unwrap();
        let found = decode(Domain::Inet, 0, &room[..used]);
        assert_eq!(found[0].data.as_slice(), [2, 0, 0, 0, 10, 0, 0, 1, 10, 0, 0, 1]);
        assert_eq!(found[1], controls[1]);
        assert_eq!(encode(Domain::Inet, &controls, &mut room[..40]), Err(Errno::EINVAL));
        let other = [Control { level: 1, kind: 99, data: [].as_slice().into() }];
        assert_eq!(encode(Domain::Inet, &other, &mut room), Err(Errno::EINVAL));
    }

    #[test]
    fn damaged_elements_end_the_list() {
        assert!(decode(Domain::Inet, 0, &[0xff; 40]).is_empty());
        assert!(decode(Domain::Inet, 0, &[0; 40]).is_empty());
        let mut time = [0; 32];
        time[..4].copy_from_slice(&28u32.to_ne_bytes());
        time[4..8].copy_from_slice(&SOCKET.to_ne_bytes());
        time[8..12].copy_from_slice(&TIMESTAMP_NETBSD.to_ne_bytes());
        (time[16], time[24]) = (5, 7);
        let found = decode(Domain::Inet, WISH_NANOSECONDS, &time);
        assert_eq!((found[0].kind, found[0].data[0]), (TIMESTAMP_NANOSECONDS, 5));
        assert_eq!(&found[0].data[8..10], &7000u16.to_ne_bytes());
    }
}
