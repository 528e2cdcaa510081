//! A queue of bytes in fragments of pages: what waits to be sent and acknowledged, and what waits to be read.

use alloc::collections::VecDeque;

use rumpuser::memory::PAGE_SIZE;

use crate::packet::{Chain, Fragment};

/// Bytes in order.
#[derive(Debug, Default)]
pub struct ByteQueue {
    fragments: VecDeque<Fragment>,
    length: usize,
    /// A fragment's number and the bytes before it: where the last [`ByteQueue::slice`] ended.
    cursor: (usize, usize),
}

/// So many pieces at most get room in advance.
const FRAGMENTS: usize = 32;
/// Fragments this short are copied together where they meet, so that they don't keep a page each.
const SMALL: usize = 512;

impl ByteQueue {
    /// Empty.
    pub const fn new() -> Self {
        ByteQueue { fragments: VecDeque::new(), length: 0, cursor: (0, 0) }
    }

    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Adds a fragment at the end.
    pub fn push(&mut self, fragment: Fragment) {
        if fragment.is_empty() {
            return;
        }
        self.length += fragment.len();
        let fragment = match self.fragments.back_mut() {
            Some(last) => match last.join(fragment) {
                Ok(()) => return,
                Err(fragment) => fragment,
            },
            None => fragment,
        };
        self.fragments.push_back(fragment);
    }

    /// Adds bytes at the end.
    pub fn append(&mut self, chain: Chain) {
        for fragment in chain.into_fragments() {
            self.push(fragment);
        }
    }

    /// Adds bytes at the end; short ones are copied behind others that wait, and let go of their page.
    pub fn append_compact(&mut self, chain: Chain) {
        for fragment in chain.into_fragments() {
            if fragment.len() <= SMALL
                && let Some(last) = self.fragments.back_mut()
                && last.len() <= PAGE_SIZE - SMALL
            {
                if last.room() >= fragment.len() && last.is_unique() {
                    self.length += last.append(fragment.bytes());
                    continue;
                }
                // A page of our own, which the next short ones go into as well.
                if last.len() <= SMALL
                    && let Ok(mut page) = Fragment::new(0)
                {
                    page.append(last.bytes());
                    page.append(fragment.bytes());
                    self.length += fragment.len();
                    *last = page;
                    continue;
                }
            }
            self.push(fragment);
        }
    }

    /// Puts bytes back in front.
    pub fn put_back(&mut self, chain: Chain) {
        self.length += chain.len();
        self.cursor = (0, 0);
        let mut fragments = chain.into_fragments();
        while let Some(fragment) = fragments.pop() {
            self.fragments.push_front(fragment);
        }
    }

    /// Takes up to `count` bytes from the front.
    pub fn take(&mut self, count: usize) -> Chain {
        let mut chain = Chain::new();
        let mut rest = count.min(self.length);
        self.length -= rest;
        self.cursor = (0, 0);
        while rest > 0 {
            let Some(first) = self.fragments.front_mut() else { break };
            if first.len() > rest {
                chain.push(first.slice(0..rest));
                first.advance(rest);
                break;
            }
            rest -= first.len();
            if let Some(first) = self.fragments.pop_front() {
                chain.push(first);
            }
        }
        self.shrink();
        chain
    }

    /// Drops up to `count` bytes at the front.
    pub fn advance(&mut self, count: usize) {
        let mut rest = count.min(self.length);
        self.length -= rest;
        let mut gone = 0;
        let dropped = rest;
        while rest > 0 {
            let Some(first) = self.fragments.front_mut() else { break };
            if first.len() > rest {
                first.advance(rest);
                break;
            }
            rest -= first.len();
            self.fragments.pop_front();
            gone += 1;
        }
        let (index, before) = self.cursor;
        self.cursor = if index > gone { (index - gone, before - dropped) } else { (0, 0) };
        self.shrink();
    }

    /// References to up to `count` bytes from `offset` on, in at most `fragments` pieces.
    pub fn slice(&mut self, offset: usize, count: usize, fragments: usize) -> Chain {
        // Long runs are of whole pages, as a rule.
        let mut chain = Chain::with_capacity((count / PAGE_SIZE + 2).min(fragments).min(FRAGMENTS));
        let mut rest = count.min(self.length.saturating_sub(offset));
        let (mut index, mut before) = self.cursor;
        if before > offset {
            (index, before) = (0, 0);
        }
        while rest > 0 && chain.fragments().len() < fragments {
            let Some(fragment) = self.fragments.get(index) else { break };
            let skip = offset + chain.len() - before;
            if skip < fragment.len() {
                let piece = rest.min(fragment.len() - skip);
                chain.push(fragment.slice(skip..skip + piece));
                rest -= piece;
                if skip + piece < fragment.len() {
                    break;
                }
            }
            // The last fragment may grow, so the cursor never goes past it.
            if index + 1 == self.fragments.len() {
                break;
            }
            before += fragment.len();
            index += 1;
        }
        self.cursor = (index, before);
        chain
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        *self = ByteQueue::new();
    }

    /// Gives memory back that a long queue needed.
    fn shrink(&mut self) {
        if self.fragments.is_empty() && self.fragments.capacity() > 32 {
            self.fragments = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{vec, vec::Vec};

    use super::*;

    fn bytes(chain: &Chain) -> Vec<u8> {
        let mut all = vec![0; chain.len()];
        chain.copy_to(0, &mut all);
        all
    }

    fn pattern(start: usize, count: usize) -> Vec<u8> {
        (start..start + count).map(|index| (index % 251) as u8).collect()
    }

    #[test]
    fn slices_follow_the_front() {
        let mut queue = ByteQueue::new();
        let (mut written, mut dropped) = (0, 0);
        let mut random = 12345_usize;
        for _ in 0..2000 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let number = random >> 33;
            match number % 4 {
                0 => {
                    let count = number / 4 % 5000;
                    let chain = Chain::copy_of(&pattern(written, count)).unwrap();
                    if number.is_multiple_of(8) {
                        queue.append(chain)
                    } else {
                        queue.append_compact(chain)
                    }
                    written += count;
                }
                1 => {
                    let count = (number / 4 % 3000).min(queue.len());
                    queue.advance(count);
                    dropped += count;
                }
                2 => {
                    let taken = queue.take(number / 4 % 700);
                    assert_eq!(bytes(&taken), pattern(dropped, taken.len()));
                    if number % 8 == 2 { queue.put_back(taken) } else { dropped += taken.len() }
                }
                _ => {
                    let offset = number / 4 % (queue.len() + 1);
                    let part = queue.slice(offset, 3000, 4);
                    assert_eq!(bytes(&part), pattern(dropped + offset, part.len()));
                    let next = queue.slice(offset + part.len(), 100, 1);
                    assert_eq!(bytes(&next), pattern(dropped + offset + part.len(), next.len()));
                    assert!(part.len() == 3000.min(queue.len() - offset) || part.fragments().len() == 4);
                }
            }
            assert_eq!(queue.len(), written - dropped);
        }
    }

    #[test]
    fn short_pieces_share_pages() {
        let mut queue = ByteQueue::new();
        (0..200).for_each(|_| queue.append_compact(Chain::copy_of(&[7; 100]).unwrap()));
        assert_eq!(queue.len(), 20_000);
        assert!(queue.fragments.len() <= 6, "{} pages", queue.fragments.len());
    }
}
