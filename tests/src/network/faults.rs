//! A link that loses, repeats, damages, delays and reorders frames: between a tap and QEMU's socket network. It needs
//! nothing of the host's kernel, and the same seed decides the same for the same sequence of frames.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What goes wrong on a link, in each direction. Shares are from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Faults {
    /// Share of frames that are lost.
    pub loss: f64,
    /// Share of frames that arrive twice.
    pub duplicate: f64,
    /// Share of frames with one bit changed.
    pub corrupt: f64,
    /// Share of frames that later ones overtake.
    pub reorder: f64,
    /// How long every frame takes.
    pub delay: Duration,
    /// At most so much more, different for each frame (which reorders too).
    pub jitter: Duration,
    /// Decides which frames.
    pub seed: u64,
}

impl Default for Faults {
    fn default() -> Self {
        Faults {
            loss: 0.0,
            duplicate: 0.0,
            corrupt: 0.0,
            reorder: 0.0,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            seed: 1,
        }
    }
}

/// How long an overtaken frame waits: long enough for many others, shorter than any retransmission.
const OVERTAKEN: Duration = Duration::from_millis(3);
/// The longest frame: 64 KiB of segmentation offload and its headers.
const LONGEST: usize = (64 << 10) + 64;
/// How often the threads look whether they are to stop.
const TICK: Duration = Duration::from_millis(50);
/// Frames on the way; those beyond are lost.
const CAPACITY: usize = 10_000;

/// A frame, when it arrives, and a number that keeps the order of those that arrive together.
type Due = Reverse<(Instant, u64, Vec<u8>)>;

/// Frames on the way in one direction.
#[derive(Default)]
struct Queue {
    frames: Mutex<BinaryHeap<Due>>,
    added: Condvar,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, BinaryHeap<Due>> {
        self.frames.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// What the link did, for tests that want to know that it did something.
#[derive(Debug, Default)]
pub struct Counts {
    /// Frames that came in.
    pub frames: AtomicU64,
    /// Frames lost.
    pub lost: AtomicU64,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    to_guest: Queue,
    to_host: Queue,
    counts: Counts,
}

/// The link; its threads end when it is dropped.
pub struct FaultyLink {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// Decides about frames.
struct Fate {
    faults: Faults,
    random: fastrand::Rng,
    number: u64,
}

impl Fate {
    fn new(faults: Faults, direction: u64) -> Self {
        let random = fastrand::Rng::with_seed(faults.seed.wrapping_mul(2).wrapping_add(direction));
        Fate { faults, random, number: 0 }
    }

    /// Puts a frame on its way, or not.
    fn send(&mut self, mut frame: Vec<u8>, queue: &Queue, counts: &Counts) {
        let Faults { loss, duplicate, corrupt, reorder, delay, jitter, .. } = self.faults;
        // Each frame draws the same number of times, so that one fault's share doesn't change what another hits.
        let [lost, twice, damaged, late, extra] = std::array::from_fn(|_| self.random.f64());
        let place = self.random.usize(..);
        counts.frames.fetch_add(1, Relaxed);
        if lost < loss {
            counts.lost.fetch_add(1, Relaxed);
            return;
        }
        if damaged < corrupt && !frame.is_empty() {
            let bit = place % (frame.len() * 8);
            frame[bit / 8] ^= 1 << (bit % 8);
        }
        let mut due = Instant::now() + delay + jitter.mul_f64(extra);
        if late < reorder {
            due += OVERTAKEN;
        }
        let mut frames = queue.lock();
        if twice < duplicate && frames.len() < CAPACITY {
            frames.push(Reverse((due, self.number, frame.clone())));
        }
        if frames.len() < CAPACITY {
            frames.push(Reverse((due, self.number + 1, frame)));
        }
        self.number += 2;
        drop(frames);
        queue.added.notify_one();
    }
}

impl FaultyLink {
    /// Carries frames between `tap` and whoever connects to `socket`, one machine at a time.
    pub fn start(tap: File, socket: &Path, faults: Faults) -> io::Result<Self> {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket)?;
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared::default());
        let guest = Arc::new(Mutex::new(None::<UnixStream>));
        let mut threads = Vec::new();
        let mut start = |work: Box<dyn FnOnce(&Shared) + Send>| {
            let shared = shared.clone();
            threads.push(thread::spawn(move || work(&shared)));
        };
        let mut writer = tap.try_clone()?;
        // A tap that is down takes no frames; those are lost, as on a cable that is not plugged in.
        start(Box::new(move |shared| deliver(shared, &shared.to_host, |frame| drop(writer.write(frame)))));
        let connected = guest.clone();
        start(Box::new(move |shared| {
            deliver(shared, &shared.to_guest, |frame| {
                let mut stream = connected.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                if let Some(guest) = stream.as_mut() {
                    let length = (frame.len() as u32).to_be_bytes();
                    let _ = guest.write_all(&length).and_then(|()| guest.write_all(frame));
                }
            });
        }));
        start(Box::new(move |shared| from_host(shared, tap, Fate::new(faults, 0))));
        start(Box::new(move |shared| {
            let mut fate = Fate::new(faults, 1);
            while ready(shared, &listener) {
                let Ok((stream, _)) = listener.accept() else { continue };
                let Ok(ours) = stream.try_clone() else { continue };
                *guest.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(ours);
                from_guest(shared, stream, &mut fate);
                *guest.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = None;
            }
        }));
        Ok(FaultyLink { shared, threads })
    }

    /// What it did so far.
    pub fn counts(&self) -> &Counts {
        &self.shared.counts
    }
}

impl Drop for FaultyLink {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Waits until there is something to read; false when the link is to stop.
fn ready(shared: &Shared, file: &impl AsFd) -> bool {
    let tick = Timespec::try_from(TICK).unwrap_or_default();
    while !shared.stop.load(Relaxed) {
        let mut files = [PollFd::new(file, PollFlags::IN)];
        if poll(&mut files, Some(&tick)).is_ok_and(|count| count > 0) {
            return true;
        }
    }
    false
}

/// Hands frames over when they are due.
fn deliver(shared: &Shared, queue: &Queue, mut take: impl FnMut(&[u8])) {
    let mut frames = queue.lock();
    while !shared.stop.load(Relaxed) {
        let now = Instant::now();
        let wait = match frames.peek() {
            Some(Reverse((due, ..))) if *due <= now => {
                if let Some(Reverse((_, _, frame))) = frames.pop() {
                    drop(frames);
                    take(&frame);
                    frames = queue.lock();
                }
                continue;
            }
            Some(Reverse((due, ..))) => TICK.min(*due - now),
            None => TICK,
        };
        frames = match queue.added.wait_timeout(frames, wait) {
            Ok((frames, _)) => frames,
            Err(_) => return,
        };
    }
}

fn from_host(shared: &Shared, mut tap: File, mut fate: Fate) {
    let mut frame = vec![0; LONGEST];
    while ready(shared, &tap) {
        match tap.read(&mut frame) {
            Ok(length) => fate.send(frame[..length].to_vec(), &shared.to_guest, &shared.counts),
            // The tap is down for a while.
            Err(_) => thread::sleep(TICK),
        }
    }
}

/// Reads frames until the machine is gone.
fn from_guest(shared: &Shared, mut stream: UnixStream, fate: &mut Fate) {
    let mut length = [0; 4];
    while ready(shared, &stream) {
        if stream.read_exact(&mut length).is_err() {
            return;
        }
        let size = u32::from_be_bytes(length) as usize;
        let mut frame = vec![0; size];
        if size > LONGEST || stream.read_exact(&mut frame).is_err() {
            return;
        }
        fate.send(frame, &shared.to_host, &shared.counts);
    }
}
