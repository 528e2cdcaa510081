//! What arrived out of order, and the SACK blocks that tell the sender of it (RFC 2018, RFC 2883).

use alloc::vec::Vec;

use super::{
    segment::{Range, Ranges},
    sequence::Sequence,
};
use crate::packet::Chain;

/// The most pieces that are kept apart; a sender that leaves more holes sends the rest again.
const PIECES: usize = 192;
/// So many fragments are kept of any length; more only if they have [`LEAST`] bytes on average.
const FRAGMENTS: usize = 64;
const LEAST: usize = 512;

#[derive(Debug)]
struct Piece {
    start: Sequence,
    data: Chain,
    /// When it last grew, by a counter: newer pieces are reported first.
    stamp: u32,
}

impl Piece {
    fn end(&self) -> Sequence {
        self.start + self.data.len() as u32
    }
}

/// Data beyond a hole.
#[derive(Debug, Default)]
pub struct Reassembly {
    /// In order, none touching the next.
    pieces: Vec<Piece>,
    length: usize,
    fragments: usize,
    stamp: u32,
    duplicate: Option<Range>,
}

impl Reassembly {
    /// Nothing.
    pub const fn new() -> Self {
        Reassembly { pieces: Vec::new(), length: 0, fragments: 0, stamp: 0, duplicate: None }
    }

    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Notes a range that arrived again, to be reported once.
    pub fn note_duplicate(&mut self, start: Sequence, end: Sequence) {
        self.duplicate = Some((start, end));
    }

    /// Keeps `data`, all of which lies beyond a hole. What is there already stays.
    pub fn insert(&mut self, start: Sequence, mut data: Chain) {
        let end = start + data.len() as u32;
        // The pieces that the new one touches or overlaps.
        let first = self.pieces.partition_point(|piece| piece.end().is_before(start));
        let last = self.pieces.partition_point(|piece| !piece.start.is_after(end));
        self.stamp = self.stamp.wrapping_add(1);
        // Each fragment keeps a page: many short ones would keep far more memory than the window allows.
        let fragments = self.fragments + data.fragments().len();
        if fragments > FRAGMENTS && fragments * LEAST > self.length + data.len() {
            return;
        }
        if first == last {
            if self.pieces.len() < PIECES {
                self.length += data.len();
                self.fragments += data.fragments().len();
                self.pieces.insert(first, Piece { start, data, stamp: self.stamp });
            }
            return;
        }
        if let Some(piece) = self.pieces[first..last]
            .iter()
            .find(|piece| piece.start.is_before(end) && piece.end().is_after(start))
        {
            self.duplicate = Some((piece.start.later(start), piece.end().earlier(end)));
        }
        let mut joined = Chain::new();
        let mut joined_start = start;
        let mut at = start;
        for (number, piece) in self.pieces.drain(first..last).enumerate() {
            self.length -= piece.data.len();
            self.fragments -= piece.data.fragments().len();
            if number == 0 && piece.start.is_before(start) {
                joined_start = piece.start;
            } else if at.is_before(piece.start) {
                let gap = (piece.start - at) as usize;
                joined.append(data.slice(0..gap.min(data.len())));
                data.advance(gap);
                at = piece.start;
            }
            let piece_end = piece.end();
            joined.append(piece.data);
            if at.is_before(piece_end) {
                data.advance((piece_end - at) as usize);
                at = piece_end;
            }
        }
        joined.append(data);
        self.length += joined.len();
        self.fragments += joined.fragments().len();
        self.pieces.insert(first, Piece { start: joined_start, data: joined, stamp: self.stamp });
    }

    /// Takes what follows directly, when everything before `next` has arrived.
    pub fn take(&mut self, next: Sequence) -> Option<Chain> {
        while let Some(first) = self.pieces.first() {
            if first.start.is_after(next) {
                return None;
            }
            let mut piece = self.pieces.remove(0);
            self.length -= piece.data.len();
            self.fragments -= piece.data.fragments().len();
            if piece.end().is_after(next) {
                piece.data.advance((next - piece.start) as usize);
                return Some(piece.data);
            }
        }
        self.pieces = Vec::new();
        None
    }

    /// The blocks to report, at most `limit` (up to 4): a duplicate, then the newest first.
    pub fn blocks(&mut self, limit: usize) -> Ranges {
        let mut ranges = Ranges::default();
        let mut room = limit;
        if let Some(duplicate) = self.duplicate.take() {
            ranges.push(duplicate);
            room = room.saturating_sub(1);
        }
        let mut newest: [Option<&Piece>; 4] = [None; 4];
        for piece in &self.pieces {
            let mut piece = Some(piece);
            for slot in newest.iter_mut().take(room) {
                let is_newer = match (&*slot, &piece) {
                    (Some(old), Some(new)) => (old.stamp.wrapping_sub(new.stamp) as i32) < 0,
                    (None, Some(_)) => true,
                    _ => false,
                };
                if is_newer {
                    core::mem::swap(slot, &mut piece);
                }
            }
        }
        newest.into_iter().flatten().for_each(|piece| ranges.push((piece.start, piece.end())));
        ranges
    }

    /// Whether a block is to be reported.
    pub fn has_blocks(&self) -> bool {
        self.duplicate.is_some() || !self.pieces.is_empty()
    }

    /// Drops everything: memory is short, and the sender still has it.
    pub fn clear(&mut self) {
        self.pieces = Vec::new();
        self.length = 0;
        self.fragments = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::{vec, vec::Vec};

    use super::*;

    fn chain(start: u32, count: u32) -> Chain {
        let bytes: Vec<u8> = (start..start + count).map(|index| index as u8).collect();
        Chain::copy_of(&bytes).unwrap()
    }

    fn blocks(reassembly: &mut Reassembly) -> Vec<(u32, u32)> {
        reassembly.blocks(4).as_slice().iter().map(|(start, end)| (start.0, end.0)).collect()
    }

    #[test]
    fn blocks_tell_the_newest_first_and_duplicates_once() {
        let mut reassembly = Reassembly::new();
        for start in [100, 300, 500, 700, 900] {
            reassembly.insert(Sequence(start), chain(start, 50));
        }
        assert_eq!(blocks(&mut reassembly), [(900, 950), (700, 750), (500, 550), (300, 350)]);
        reassembly.insert(Sequence(340), chain(340, 30));
        assert_eq!(blocks(&mut reassembly), [(340, 350), (300, 370), (900, 950), (700, 750)]);
        assert_eq!(blocks(&mut reassembly)[0], (300, 370));
        assert_eq!(reassembly.len(), 270);
    }

    #[test]
    fn any_order_gives_the_bytes() {
        let mut random = 99_u64;
        for _ in 0..200 {
            let mut reassembly = Reassembly::new();
            let mut next = 0;
            let mut got = Vec::new();
            while next < 400 {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let start = next + (random >> 33) as u32 % 120;
                let count = 1 + (random >> 50) as u32 % 60;
                if start > next {
                    reassembly.insert(Sequence(start), chain(start, count));
                    continue;
                }
                got.extend((next..next + count).map(|index| index as u8));
                next += count;
                while let Some(data) = reassembly.take(Sequence(next)) {
                    let mut bytes = vec![0; data.len()];
                    data.copy_to(0, &mut bytes);
                    next += bytes.len() as u32;
                    got.extend(bytes);
                }
            }
            assert!(got.iter().enumerate().all(|(index, &byte)| byte == index as u8));
            let total: usize = reassembly.pieces.iter().map(|piece| piece.data.len()).sum();
            assert_eq!(total, reassembly.len());
        }
    }

    #[test]
    fn short_segments_do_not_keep_a_page_each_without_end() {
        let mut reassembly = Reassembly::new();
        (0..10_000).for_each(|index| reassembly.insert(Sequence(10 + index), chain(0, 1)));
        assert_eq!((reassembly.len(), reassembly.fragments), (FRAGMENTS, FRAGMENTS));
        reassembly.insert(Sequence(90_000), chain(0, 100_000));
        assert_eq!(reassembly.len(), FRAGMENTS + 100_000);
        assert!(reassembly.take(Sequence(10)).is_some() && reassembly.take(Sequence(90_000)).is_some());
        assert_eq!((reassembly.len(), reassembly.fragments), (0, 0));
    }

    #[test]
    fn the_number_of_pieces_has_a_bound() {
        let mut reassembly = Reassembly::new();
        (0..1000).for_each(|index| reassembly.insert(Sequence(10 + index * 2000), chain(0, 1000)));
        assert_eq!(reassembly.pieces.len(), PIECES);
    }
}
