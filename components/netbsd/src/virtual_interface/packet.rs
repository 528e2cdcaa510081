//! Frames of the kernel as packets of a device.

use rumpnet::packet::{Fragment, Packet};

/// Bytes of a packet that are kept apart from the rest, as other senders do it with headers.
const HEADERS: usize = 128;

/// A copy of a frame's pieces; `None` without memory.
pub fn packet_of(pieces: &[&[u8]]) -> Option<Packet> {
    let mut packet = Packet::default();
    let mut pieces = pieces.iter().copied();
    let mut rest: &[u8] = &[];
    let total: usize = pieces.clone().map(<[u8]>::len).sum();
    let headers = packet.header.prepend(total.min(HEADERS));
    let mut filled = 0;
    while filled < headers.len() {
        if rest.is_empty() {
            rest = pieces.next()?;
        }
        let count = rest.len().min(headers.len() - filled);
        headers[filled..filled + count].copy_from_slice(&rest[..count]);
        (filled, rest) = (filled + count, &rest[count..]);
    }
    let mut page: Option<Fragment> = None;
    loop {
        while rest.is_empty() {
            let Some(next) = pieces.next() else {
                page.into_iter().for_each(|page| packet.payload.push(page));
                return Some(packet);
            };
            rest = next;
        }
        if let Some(full) = page.take_if(|page| page.room() == 0) {
            packet.payload.push(full);
        }
        let page = match &mut page {
            Some(page) => page,
            None => page.insert(Fragment::new(0).ok()?),
        };
        rest = &rest[page.append(rest)..];
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn frames_are_copied_into_headers_and_pages() {
        let bytes: Vec<u8> = (0..10_000_u32).map(|number| (number % 251) as u8).collect();
        for length in [0, 14, 60, 127, 128, 129, 1514, 4224, 4225, 9014] {
            for size in [1, 100, 128, 700, 10_000] {
                let pieces: Vec<&[u8]> = bytes[..length].chunks(size).collect();
                let packet = packet_of(&pieces).expect("memory");
                let mut copy = packet.header.bytes().to_vec();
                for fragment in packet.payload.fragments() {
                    copy.extend_from_slice(fragment.bytes());
                }
                assert_eq!(copy, bytes[..length], "{length} bytes in pieces of {size}");
                assert_eq!(packet.payload.fragments().len(), length.saturating_sub(128).div_ceil(4096));
            }
        }
    }
}
