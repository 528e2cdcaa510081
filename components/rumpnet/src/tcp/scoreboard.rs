//! What was sent and not acknowledged: when, what SACK said of it, and what is lost (RFC 6675, RFC 8985).
//!
//! A record is a run that was sent at once, up to 64 KiB; SACK blocks split records. Times are ticks of 1024 ns in
//! 32 bits, which wrap after 73 minutes: only differences count.

use alloc::collections::VecDeque;

use super::sequence::Sequence;

/// A time in ticks.
pub fn ticks(now: u64) -> u32 {
    (now >> 10) as u32
}

bitflags::bitflags! {
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    struct Mark: u8 {
        const SACKED = 1;
        const LOST = 2;
        const RETRANSMITTED = 4;
    }
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    start: Sequence,
    end: Sequence,
    at: u32,
    mark: Mark,
}

impl Sent {
    fn len(&self) -> u32 {
        self.end - self.start
    }
}

/// What an acknowledgement changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Bytes that left the network: acknowledged or SACKed for the first time.
    pub bytes: u32,
    /// The newest transmission among them that was not repeated: its time gives a round-trip measurement, if nothing
    /// that was repeated is among them (then the acknowledgement waited for that).
    pub sent_at: Option<u32>,
    /// A SACK block brought news.
    pub sacked: bool,
    /// Something that was retransmitted was delivered.
    pub retransmitted: bool,
}

/// The records of a connection.
#[derive(Debug, Default)]
pub struct Scoreboard {
    records: VecDeque<Sent>,
    /// Bytes that SACK reported.
    sacked: u32,
    /// Bytes considered lost and not sent again since.
    lost: u32,
    /// The last transmission that was delivered: when it was sent, where it ended, and its round-trip time.
    newest: (u32, Sequence),
    newest_round_trip: u32,
    newest_known: bool,
    /// The highest sequence number that was delivered; less arriving later means reordering.
    highest: Sequence,
    /// Whether the path was seen to reorder: then losses are found a bit later.
    pub reordering: bool,
    /// Duplicate SACKs make the reordering window grow: quarters of a round trip.
    pub window_steps: u8,
}

impl Scoreboard {
    /// Nothing was sent.
    pub const fn new(start: Sequence) -> Self {
        Scoreboard {
            records: VecDeque::new(),
            sacked: 0,
            lost: 0,
            newest: (0, start),
            newest_round_trip: 0,
            newest_known: false,
            highest: start,
            reordering: false,
            window_steps: 1,
        }
    }

    /// Bytes that SACK reported as received beyond a hole.
    pub fn sacked(&self) -> u32 {
        self.sacked
    }

    /// Bytes that are lost and not sent again.
    pub fn lost(&self) -> u32 {
        self.lost
    }

    /// Whether nothing is on its way.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The number of records.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Something new was sent.
    #[inline]
    pub fn sent(&mut self, start: Sequence, end: Sequence, now: u64) {
        self.records.push_back(Sent { start, end, at: ticks(now), mark: Mark::empty() });
    }

    fn delivered(&mut self, record: Sent, now: u32, delivery: &mut Delivery) {
        delivery.bytes += record.len();
        let is_retransmission = record.mark.contains(Mark::RETRANSMITTED);
        let round_trip = now.wrapping_sub(record.at);
        delivery.retransmitted |= is_retransmission;
        if !is_retransmission {
            delivery.sent_at = Some(record.at);
            if record.end.is_before(self.highest) {
                self.reordering = true;
            }
        } else if self.newest_known && round_trip < self.newest_round_trip / 2 {
            // The acknowledgement is for the first transmission.
            return;
        }
        self.highest = self.highest.later(record.end);
        let newer = record.at.wrapping_sub(self.newest.0) as i32;
        if !self.newest_known || newer > 0 || (newer == 0 && record.end.is_after(self.newest.1)) {
            self.newest = (record.at, record.end);
            self.newest_round_trip = round_trip;
            self.newest_known = true;
        }
    }

    /// Everything before `until` is acknowledged.
    #[inline]
    pub fn acknowledge(&mut self, until: Sequence, now: u64, delivery: &mut Delivery) {
        while let Some(&first) = self.records.front() {
            if !first.start.is_before(until) {
                break;
            }
            let mut gone = first;
            if first.end.is_after(until) {
                gone.end = until;
                self.records[0].start = until;
            } else {
                self.records.pop_front();
            }
            if gone.mark.contains(Mark::SACKED) {
                self.sacked -= gone.len();
                continue;
            }
            if gone.mark.contains(Mark::LOST) {
                self.lost -= gone.len();
            }
            self.delivered(gone, ticks(now), delivery);
        }
        if self.records.is_empty() && self.records.capacity() > 64 {
            self.records = VecDeque::new();
        }
    }

    fn split(&mut self, index: usize, at: Sequence) {
        let mut tail = self.records[index];
        tail.start = at;
        self.records[index].end = at;
        self.records.insert(index + 1, tail);
    }

    /// The receiver reported a range.
    pub fn sack(&mut self, start: Sequence, end: Sequence, now: u64, delivery: &mut Delivery) {
        let mut index = self.records.partition_point(|record| !record.end.is_after(start));
        while let Some(&record) = self.records.get(index) {
            if !record.start.is_before(end) {
                break;
            }
            if record.mark.contains(Mark::SACKED) {
                index += 1;
                continue;
            }
            if record.start.is_before(start) {
                self.split(index, start);
                index += 1;
                continue;
            }
            if record.end.is_after(end) {
                self.split(index, end);
            }
            let piece = self.records[index];
            if piece.mark.contains(Mark::LOST) {
                self.lost -= piece.len();
            }
            self.records[index].mark = Mark::SACKED;
            self.sacked += piece.len();
            delivery.sacked = true;
            self.delivered(piece, ticks(now), delivery);
            // Neighbours that were reported both are one record, so that long transfers keep few.
            if index > 0 && self.records[index - 1].mark == Mark::SACKED {
                self.records[index - 1].end = piece.end;
                self.records.remove(index);
            } else {
                index += 1;
            }
        }
    }

    /// The reordering window, in ticks (RFC 8985, section 6.2, step 4).
    fn reordering_window(&self, minimum_round_trip: u32, smoothed: u32, eager: bool) -> u32 {
        if !self.reordering && eager {
            return 0;
        }
        (minimum_round_trip / 4 * u32::from(self.window_steps)).min(smoothed)
    }

    /// Finds what must be lost because something sent later was delivered. Returns the bytes that were found, and in
    /// how many ticks others may turn out to be lost. Times in microseconds.
    pub fn detect_losses(
        &mut self,
        now: u64,
        minimum_round_trip: u32,
        smoothed: u32,
        eager: bool,
    ) -> (u32, Option<u32>) {
        if !self.newest_known {
            return (0, None);
        }
        let window = self.reordering_window(minimum_round_trip, smoothed, eager);
        let now = ticks(now);
        let (mut found, mut wait) = (0, None::<u32>);
        for record in &mut self.records {
            if record.mark.intersects(Mark::SACKED | Mark::LOST) {
                continue;
            }
            let later = self.newest.0.wrapping_sub(record.at) as i32;
            if later < 0 || (later == 0 && !self.newest.1.is_after(record.end)) {
                if !record.mark.contains(Mark::RETRANSMITTED) && later < 0 {
                    // Everything behind it was sent even later.
                    break;
                }
                continue;
            }
            let age = now.wrapping_sub(record.at);
            let limit = self.newest_round_trip + window;
            if age >= limit {
                record.mark |= Mark::LOST;
                self.lost += record.end - record.start;
                found += record.end - record.start;
            } else {
                let rest = limit - age;
                wait = Some(wait.map_or(rest, |wait| wait.max(rest)));
            }
        }
        (found, wait)
    }

    /// The first `length` bytes that are on their way are lost (without SACK, by duplicate acknowledgements).
    pub fn lose_first(&mut self, length: u32) {
        let Some(&first) = self.records.front() else { return };
        if first.mark.intersects(Mark::SACKED | Mark::LOST) {
            return;
        }
        if first.len() > length {
            self.split(0, first.start + length);
        }
        self.records[0].mark |= Mark::LOST;
        self.lost += self.records[0].len();
    }

    /// A timeout: everything that SACK did not report is lost. With `forget`, also what it did: the receiver may
    /// have dropped it.
    pub fn lose_all(&mut self, forget: bool) {
        if forget {
            self.sacked = 0;
        }
        self.lost = 0;
        for record in &mut self.records {
            if forget || !record.mark.contains(Mark::SACKED) {
                record.mark = record.mark & Mark::RETRANSMITTED | Mark::LOST;
                self.lost += record.end - record.start;
            }
        }
    }

    /// The first range that is lost and not sent again.
    pub fn next_lost(&self) -> Option<(Sequence, Sequence)> {
        if self.lost == 0 {
            return None;
        }
        self.records
            .iter()
            .find(|record| record.mark.contains(Mark::LOST))
            .map(|record| (record.start, record.end))
    }

    /// The last range that is on its way.
    pub fn last(&self) -> Option<(Sequence, Sequence)> {
        self.records
            .iter()
            .rev()
            .find(|record| !record.mark.contains(Mark::SACKED))
            .map(|record| (record.start, record.end))
    }

    /// The range, which is the front of a record or its end, was sent again.
    pub fn retransmitted(&mut self, start: Sequence, end: Sequence, now: u64) {
        let mut index = self.records.partition_point(|record| !record.end.is_after(start));
        let Some(&record) = self.records.get(index) else { return };
        if record.start.is_before(start) {
            self.split(index, start);
            index += 1;
        }
        if self.records[index].end.is_after(end) {
            self.split(index, end);
        }
        let record = &mut self.records[index];
        if record.mark.contains(Mark::LOST) {
            self.lost -= record.end - record.start;
        }
        record.mark = Mark::RETRANSMITTED;
        record.at = ticks(now);
    }

    /// When the oldest of what is on its way was sent.
    pub fn oldest(&self) -> Option<u32> {
        self.records.front().map(|record| record.at)
    }

    /// Everything after `end` was never sent after all.
    pub fn truncate(&mut self, end: Sequence) {
        while let Some(&last) = self.records.back() {
            if !last.start.is_before(end) {
                self.records.pop_back();
                continue;
            }
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn board(count: u32) -> Scoreboard {
        let mut board = Scoreboard::new(Sequence(0));
        (0..count).for_each(|index| {
            board.sent(Sequence(index * 100), Sequence(index * 100 + 100), u64::from(index) * MS + MS)
        });
        board
    }

    fn check(board: &Scoreboard) {
        let sum = |mark| {
            board.records.iter().filter(|record| record.mark.contains(mark)).map(Sent::len).sum::<u32>()
        };
        assert_eq!((board.sacked, board.lost), (sum(Mark::SACKED), sum(Mark::LOST)));
    }

    #[test]
    fn acknowledgements_measure_the_newest() {
        let mut board = board(4);
        let mut delivery = Delivery::default();
        board.acknowledge(Sequence(250), 20 * MS, &mut delivery);
        assert_eq!((delivery.bytes, delivery.sent_at), (250, Some(ticks(3 * MS))));
        assert_eq!(board.len(), 2);
        board.acknowledge(Sequence(400), 21 * MS, &mut delivery);
        assert!(board.is_empty());
        assert_eq!(delivery.bytes, 400);
    }

    #[test]
    fn holes_are_lost_when_something_later_arrived() {
        let mut board = board(10);
        let mut delivery = Delivery::default();
        board.sack(Sequence(250), Sequence(600), 30 * MS, &mut delivery);
        assert_eq!((delivery.bytes, board.sacked(), delivery.sacked), (350, 350, true));
        check(&board);
        // The last that arrived was sent at 6 ms: 24 ms on its way.
        assert_eq!(board.detect_losses(30 * MS, 24_000, 24_000, true).0, 250);
        assert_eq!(board.next_lost(), Some((Sequence(0), Sequence(100))));
        board.retransmitted(Sequence(0), Sequence(50), 31 * MS);
        assert_eq!(board.next_lost(), Some((Sequence(50), Sequence(100))));
        check(&board);
        let mut again = Delivery::default();
        board.sack(Sequence(250), Sequence(600), 32 * MS, &mut again);
        assert_eq!(again, Delivery::default());
        board.acknowledge(Sequence(600), 60 * MS, &mut again);
        assert_eq!((again.bytes, again.retransmitted), (250, true));
        check(&board);
        assert_eq!((board.sacked(), board.lost()), (0, 0));
    }

    #[test]
    fn a_reordering_path_gets_more_time() {
        let mut board = board(10);
        let mut delivery = Delivery::default();
        board.sack(Sequence(500), Sequence(600), 30 * MS, &mut delivery);
        board.sack(Sequence(100), Sequence(200), 30 * MS, &mut delivery);
        assert!(board.reordering);
        let (found, wait) = board.detect_losses(30 * MS, 24_000, 24_000, true);
        assert_eq!(found, 0);
        assert!((3000..7000).contains(&wait.unwrap()));
        assert_eq!(board.detect_losses(40 * MS, 24_000, 24_000, true).0, 400);
        check(&board);
    }

    #[test]
    fn a_timeout_loses_everything_but_what_arrived() {
        let mut board = board(5);
        board.sack(Sequence(100), Sequence(200), 9 * MS, &mut Delivery::default());
        board.lose_all(false);
        assert_eq!((board.lost(), board.sacked()), (400, 100));
        board.lose_all(true);
        assert_eq!((board.lost(), board.sacked()), (500, 0));
        check(&board);
    }
}
