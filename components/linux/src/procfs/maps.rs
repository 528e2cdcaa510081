//! /proc/PID/maps, smaps and smaps_rollup.

use alloc::{format, vec::Vec};

use rumpkern::Result;

use super::process::Subject;

/// `maps`.
pub(super) fn maps(subject: &Subject) -> Result<Vec<u8>> {
    Ok(subject.space()?.map_or_else(Vec::new, |space| space.maps_text()))
}

/// `smaps`.
pub(super) fn smaps(subject: &Subject) -> Result<Vec<u8>> {
    Ok(subject.space()?.map_or_else(Vec::new, |space| space.smaps_text()))
}

/// `smaps_rollup`: the sums of `smaps`.
pub(super) fn rollup(subject: &Subject) -> Result<Vec<u8>> {
    let Some(space) = subject.space()? else { return Ok(Vec::new()) };
    let reports = space.report(true);
    let (mut start, mut end) = (usize::MAX, 0);
    let (mut resident, mut private, mut anonymous) = (0, 0, 0);
    for report in &reports {
        start = start.min(report.range.start);
        end = end.max(report.range.end);
        resident += report.resident;
        private += report.exclusive;
        anonymous += if report.object { 0 } else { report.resident };
    }
    if reports.is_empty() {
        start = 0;
    }
    let shared = resident - private;
    let mut text = format!("{start:08x}-{end:08x} ---p 00000000 00:00 0");
    while text.len() < 73 {
        text.push(' ');
    }
    text.push_str("[rollup]\n");
    for (name, bytes) in [
        ("Rss", resident),
        ("Pss", resident),
        ("Pss_Dirty", private),
        ("Pss_Anon", anonymous),
        ("Pss_File", resident - anonymous),
        ("Pss_Shmem", 0),
        ("Shared_Clean", shared),
        ("Shared_Dirty", 0),
        ("Private_Clean", 0),
        ("Private_Dirty", private),
        ("Referenced", resident),
        ("Anonymous", anonymous),
        ("LazyFree", 0),
        ("AnonHugePages", 0),
        ("ShmemPmdMapped", 0),
        ("FilePmdMapped", 0),
        ("Shared_Hugetlb", 0),
        ("Private_Hugetlb", 0),
        ("Swap", 0),
        ("SwapPss", 0),
        ("Locked", 0),
    ] {
        let label = format!("{name}:");
        text.push_str(&format!("{label:<16}{:>8} kB\n", bytes / 1024));
    }
    Ok(text.into_bytes())
}
