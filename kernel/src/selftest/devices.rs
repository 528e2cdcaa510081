//! Tests of the platform and its drivers on the machine. The command line asks for more: `scratch-disk` overwrites
//! the disks, `wait` listens to the console and the power button for ten seconds, `reboot` ends with a restart.

use alloc::{boxed::Box, sync::Arc, vec, vec::Vec};
use core::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bmk::platform::BootInformation;
use rumpdev::block::BlockDevice;
use rumpuser::*;

const MILLISECOND: u64 = 1_000_000;

fn sleep(nanoseconds: u64) {
    let end = rumpuser_clock_monotonic() + nanoseconds;
    while rumpuser_clock_monotonic() < end {
        rumpuser_park(end);
    }
}

/// Runs all of them.
pub fn main(information: &BootInformation) {
    let asked = |word| information.command_line.split_ascii_whitespace().any(|other| other == word);
    clocks();
    random();
    for rumpdev::block::Registered { name, device: disk, .. } in rumpdev::block::all() {
        bmk::message!("disk {name}: {} sectors of {}", disk.sectors(), disk.block_size());
        if asked("scratch-disk") {
            blocks(&disk);
            many_requests(&disk);
        }
    }
    if asked("wait") {
        rumpuser_console_set_input(|bytes| bmk::message!("input {}", bytes.escape_ascii()));
        rumpuser_set_stop_handler(|| {
            bmk::message!("stop");
            rumpuser_halt(Halt::PowerOff(77))
        });
        bmk::message!("waiting");
        sleep(10_000 * MILLISECOND);
    }
    if asked("reboot") {
        rumpuser_halt(Halt::Reboot);
    }
}

fn clocks() {
    let mut shown = Vec::new();
    for milliseconds in [1, 10, 100] {
        let start = rumpuser_clock_monotonic();
        sleep(milliseconds * MILLISECOND);
        shown.push((rumpuser_clock_monotonic() - start) / 1000);
    }
    bmk::message!(
        "ok clocks (tsc {} Hz, realtime {} ns, slept {shown:?} us)",
        bmk::clock::frequency(),
        rumpuser_clock_realtime()
    );
}

fn random() {
    let mut bytes = vec![0; 2 << 20];
    // More than is given before the entropy devices are asked again.
    rumpuser_getrandom(&mut bytes[..]);
    rumpuser_getrandom(&mut bytes[..64]);
    let mut seen = [0_u32; 256];
    for byte in &bytes {
        seen[usize::from(*byte)] += 1;
    }
    // 8192 of each, give or take six standard deviations.
    assert!(seen.iter().all(|count| (7650..8750).contains(count)), "{seen:?}");
    bmk::message!("ok random");
}

fn blocks(disk: &Arc<dyn BlockDevice>) {
    let start = rumpuser_clock_monotonic();
    let pattern: Vec<u8> = (0..300 << 10).map(|index: usize| (index * 13 + index / 4096) as u8).collect();
    disk.write(16, &pattern).expect("written");
    disk.flush().expect("flushed");
    disk.discard(2048, 128).expect("discarded");
    let mut back = vec![0; pattern.len()];
    disk.read(16, &mut back).expect("read");
    assert!(back == pattern);
    assert!(disk.read(disk.sectors(), &mut back).is_err());
    bmk::message!("ok disk ({} us)", (rumpuser_clock_monotonic() - start) / 1000);
    let start = rumpuser_clock_monotonic();
    for index in 0..100 {
        disk.read(index * 8, &mut back[..4096]).expect("read");
    }
    bmk::message!("ok disk reads of 4 KiB ({} ns each)", (rumpuser_clock_monotonic() - start) / 100);
}

fn many_requests(disk: &Arc<dyn BlockDevice>) {
    const THREADS: u64 = 8;
    let start = rumpuser_clock_monotonic();
    let done = Arc::new(AtomicUsize::new(0));
    for thread in 0..THREADS {
        let (disk, done, waiter) = (disk.clone(), done.clone(), rumpuser_thread_current());
        let main = move || {
            for round in 0..50 {
                let sector = 4096 + (thread * 50 + round) * 8;
                let value = [(thread * 50 + round) as u8; 4096];
                disk.write(sector, &value).expect("written");
                let mut back = [0; 4096];
                disk.read(sector, &mut back).expect("read");
                assert!(back == value);
                if round % 10 == 0 {
                    disk.flush().expect("flushed");
                }
            }
            done.fetch_add(1, SeqCst);
            waiter.unpark();
        };
        let spec = ThreadSpec { name: "disk".into(), affinity: CpuSet::MAX, main: Box::new(main) };
        rumpuser_thread_create(spec).expect("a thread");
    }
    while done.load(SeqCst) < THREADS as usize {
        rumpuser_park(NEVER);
    }
    bmk::message!("ok disk with threads ({} us)", (rumpuser_clock_monotonic() - start) / 1000);
}
