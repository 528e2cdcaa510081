//! What a space says about itself: usage figures, and what /proc/self/maps and smaps are made of.

use alloc::{sync::Arc, vec::Vec};
use core::{fmt::Write, ops::Range, sync::atomic::Ordering};

use rumpuser::{Protection, memory::PAGE_SIZE, rumpuser_frame_references};

use super::{
    Space,
    entry::{Backing, EntryFlags, Name},
};

/// How much a space holds, in bytes (the Vm lines of /proc/self/status).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// VmSize.
    pub total: usize,
    /// VmPeak.
    pub peak_total: usize,
    /// VmRSS.
    pub resident: usize,
    /// VmHWM.
    pub peak_resident: usize,
    /// VmLck.
    pub locked: usize,
    /// VmData.
    pub data: usize,
    /// VmStk.
    pub stack: usize,
    /// VmExe and VmLib: private executable mappings of files.
    pub text: usize,
    /// VmPTE, an estimate.
    pub tables: usize,
}

/// A line of /proc/self/maps.
#[derive(Debug, Clone)]
pub struct EntryReport {
    /// Addresses.
    pub range: Range<usize>,
    /// What the program may do.
    pub protection: Protection,
    /// How it behaves.
    pub flags: EntryFlags,
    /// Where the range starts in the object, in bytes.
    pub offset: u64,
    /// Its name.
    pub name: Option<Arc<Name>>,
    /// Whether an object is behind it.
    pub object: bool,
    /// Bytes in memory; only with `Space::report(true)`.
    pub resident: usize,
    /// Bytes in memory that nobody else refers to; only with `Space::report(true)`.
    pub exclusive: usize,
}

impl Space {
    /// The usage figures.
    pub fn usage(&self) -> Usage {
        let contents = self.map.read();
        let resident = self.pmap.resident();
        let mut usage = Usage {
            total: contents.map.total,
            peak_total: self.peak_total.load(Ordering::Relaxed),
            resident: resident * PAGE_SIZE,
            peak_resident: self.peak_resident.fetch_max(resident, Ordering::Relaxed).max(resident)
                * PAGE_SIZE,
            locked: contents.map.locked,
            data: contents.map.data,
            tables: (resident / 512 + 4) * PAGE_SIZE,
            ..Usage::default()
        };
        for (start, entry) in contents.map.iter() {
            let length = entry.end - start;
            if entry.flags.contains(EntryFlags::GROWS_DOWN) {
                usage.stack += length;
            } else if entry.protection.contains(Protection::EXECUTE) && !entry.shared() {
                usage.text += length;
            }
        }
        usage
    }

    /// What is mapped, in order. `pages` adds what is in memory, which takes longer.
    pub fn report(&self, pages: bool) -> Vec<EntryReport> {
        let contents = self.map.read();
        let mut reports: Vec<EntryReport> = Vec::new();
        // What there is no memory for is left out.
        if reports.try_reserve_exact(contents.map.len()).is_err() {
            return reports;
        }
        for (start, entry) in contents.map.iter() {
            reports.push(EntryReport {
                range: start..entry.end,
                protection: entry.protection,
                flags: entry.flags,
                offset: match &entry.backing {
                    Backing::Pager { first, .. } => first * PAGE_SIZE as u64,
                    Backing::Anonymous => 0,
                },
                name: entry.name.clone(),
                object: matches!(entry.backing, Backing::Pager { .. }),
                resident: 0,
                exclusive: 0,
            });
        }
        if pages {
            for report in &mut reports {
                let (mut resident, mut exclusive) = (0, 0);
                self.pmap.for_each(report.range.clone(), &mut |_, frame, _| {
                    resident += PAGE_SIZE;
                    exclusive += if rumpuser_frame_references(frame) == 1 { PAGE_SIZE } else { 0 };
                });
                (report.resident, report.exclusive) = (resident, exclusive);
            }
        }
        reports
    }

    /// The text of /proc/self/maps.
    pub fn maps_text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        for report in self.report(false) {
            if text.try_reserve(LINE_MAX + report.name_length()).is_err() {
                break;
            }
            report.write_line(&mut text);
        }
        text
    }

    /// The text of /proc/self/smaps.
    pub fn smaps_text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        for report in self.report(true) {
            if text.try_reserve(LINE_MAX + report.name_length()).is_err() {
                break;
            }
            report.write_line(&mut text);
            let kib = |bytes: usize| bytes / 1024;
            let (size, resident, private) =
                (kib(report.range.len()), kib(report.resident), kib(report.exclusive));
            let shared = resident - private;
            let dirty = if report.object { 0 } else { private };
            let locked = if report.flags.contains(EntryFlags::LOCKED) { resident } else { 0 };
            let anonymous = if report.object { 0 } else { resident };
            let mut line = alloc::string::String::new();
            // Writing to a string cannot fail.
            let _ = writeln!(
                line,
                "Size:           {size:>8} kB\nKernelPageSize:        4 kB\nMMUPageSize:           4 kB\n\
                 Rss:            {resident:>8} kB\nPss:            {resident:>8} kB\n\
                 Shared_Clean:   {shared:>8} kB\nShared_Dirty:          0 kB\n\
                 Private_Clean:  {:>8} kB\nPrivate_Dirty:  {dirty:>8} kB\nReferenced:     {resident:>8} kB\n\
                 Anonymous:      {anonymous:>8} kB\nLazyFree:              0 kB\nAnonHugePages:         0 kB\n\
                 Swap:                  0 kB\nSwapPss:               0 kB\nLocked:         {locked:>8} kB",
                private - dirty,
            );
            text.extend_from_slice(line.as_bytes());
        }
        text
    }
}

/// More than an entry's text takes, without its name.
const LINE_MAX: usize = 1024;

impl EntryReport {
    /// How long the name may become in a text.
    fn name_length(&self) -> usize {
        self.name.as_ref().map_or(0, |name| name.path.len() * 4)
    }

    /// Writes the line of /proc/self/maps.
    pub fn write_line(&self, text: &mut Vec<u8>) {
        let flag = |protection, letter| if self.protection.contains(protection) { letter } else { '-' };
        let (device, inode) = self.name.as_ref().map_or((0, 0), |name| (name.device, name.inode));
        let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00));
        let mut line = alloc::string::String::new();
        // Writing to a string cannot fail.
        let _ = write!(
            line,
            "{:08x}-{:08x} {}{}{}{} {:08x} {major:02x}:{minor:02x} {inode} ",
            self.range.start,
            self.range.end,
            flag(Protection::READ, 'r'),
            flag(Protection::WRITE, 'w'),
            flag(Protection::EXECUTE, 'x'),
            if self.flags.contains(EntryFlags::SHARED) { 's' } else { 'p' },
            self.offset,
        );
        if let Some(name) = &self.name {
            while line.len() < 73 {
                line.push(' ');
            }
            text.extend_from_slice(line.as_bytes());
            for &byte in &name.path {
                if byte == b'\n' { text.extend_from_slice(b"\\012") } else { text.push(byte) }
            }
        } else {
            text.extend_from_slice(line.as_bytes());
        }
        text.push(b'\n');
    }
}
