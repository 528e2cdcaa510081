//! The hypercalls on the host, for unit tests: threads are the host's, frames are heap pages, an address
//! space is a map, and user memory is the test's own memory. User code cannot be run.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    cell::Cell,
    collections::{BTreeMap, HashMap},
    format,
    ops::Range,
    string::String,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    CpuSet, Frame, Halt, Hypercalls, MachineTrap, MemoryStatistics, NEVER, OutOfMemory, Pmap, Presence,
    Protection, Thread, ThreadOperations, ThreadSpec, Trap, UserContext, memory::PAGE_SIZE, user::Fault,
};

/// The host as a platform.
pub struct Host;

crate::provide!(Host);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);
static NEXT_THREAD: AtomicU64 = AtomicU64::new(1);
static REALTIME_SHIFT: AtomicI64 = AtomicI64::new(0);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

struct HostThread {
    id: u64,
    thread: thread::Thread,
    interrupted: AtomicBool,
    affinity: AtomicU64,
}

impl ThreadOperations for HostThread {
    fn id(&self) -> u64 {
        self.id
    }

    fn unpark(&self) {
        self.thread.unpark();
    }

    fn interrupt(&self) {
        self.interrupted.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }

    fn set_affinity(&self, set: CpuSet) {
        self.affinity.store(set, Ordering::Relaxed);
    }

    fn affinity(&self) -> CpuSet {
        self.affinity.load(Ordering::Relaxed)
    }

    fn set_nice(&self, _nice: i8) {}

    fn cpu_time(&self) -> (u64, u64) {
        (0, 0)
    }

    fn cpu(&self) -> usize {
        0
    }
}

thread_local! {
    static CURRENT: Arc<HostThread> = Arc::new(HostThread {
        id: NEXT_THREAD.fetch_add(1, Ordering::Relaxed),
        thread: thread::current(),
        interrupted: AtomicBool::new(false),
        affinity: AtomicU64::new(1),
    });
    static LWP: Cell<*mut ()> = const { Cell::new(std::ptr::null_mut()) };
    /// The host's own FS base stays as it is.
    static POINTER: Cell<usize> = const { Cell::new(0) };
}

fn page_layout(pages: usize) -> Layout {
    Layout::from_size_align(pages * PAGE_SIZE, pages * PAGE_SIZE).expect("a power of two of pages")
}

/// A run of frames allocated together, freed together when all its frames are.
struct Run {
    first: u64,
    pages: usize,
    live: usize,
}

#[derive(Default)]
struct Frames {
    references: HashMap<u64, (u32, u64)>,
    runs: HashMap<u64, Run>,
}

static FRAMES: LazyLock<Mutex<Frames>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct HostPmap {
    pages: Mutex<BTreeMap<usize, (Frame, Protection)>>,
}

impl Drop for HostPmap {
    fn drop(&mut self) {
        self.remove(0..crate::memory::USER_END);
    }
}

impl Pmap for HostPmap {
    fn enter(&self, address: usize, frame: Frame, protection: Protection) -> Result<(), OutOfMemory> {
        let old = lock(&self.pages).insert(address, (frame, protection));
        if let Some((old, _)) = old {
            Host::rumpuser_frame_release(old);
        }
        Ok(())
    }

    fn enter_large(&self, address: usize, frame: Frame, protection: Protection) -> Result<(), OutOfMemory> {
        (0..512).try_for_each(|page| {
            self.enter(address + page * PAGE_SIZE, Frame(frame.0 + page as u64), protection)
        })
    }

    fn query(&self, address: usize) -> Option<(Frame, Protection)> {
        lock(&self.pages).get(&(address & !(PAGE_SIZE - 1))).copied()
    }

    fn remove(&self, range: Range<usize>) {
        let mut pages = lock(&self.pages);
        let gone: Vec<usize> = pages.range(range).map(|(&address, _)| address).collect();
        for address in gone {
            if let Some((frame, _)) = pages.remove(&address) {
                Host::rumpuser_frame_release(frame);
            }
        }
    }

    fn protect(&self, range: Range<usize>, protection: Protection) {
        for (_, (_, current)) in lock(&self.pages).range_mut(range) {
            *current = protection;
        }
    }

    fn share_copy_on_write(&self, destination: &dyn Pmap, range: Range<usize>) -> Result<(), OutOfMemory> {
        for (&address, (frame, protection)) in lock(&self.pages).range_mut(range) {
            protection.remove(Protection::WRITE);
            Host::rumpuser_frame_retain(*frame);
            destination.enter(address, *frame, *protection)?;
        }
        Ok(())
    }

    fn relocate(&self, range: Range<usize>, destination: usize) -> Result<(), OutOfMemory> {
        let mut pages = lock(&self.pages);
        let moved: Vec<usize> = pages.range(range.clone()).map(|(&address, _)| address).collect();
        for address in moved {
            if let Some(page) = pages.remove(&address) {
                pages.insert(destination + (address - range.start), page);
            }
        }
        Ok(())
    }

    fn for_each(&self, range: Range<usize>, visit: &mut dyn FnMut(usize, Frame, Protection)) {
        let pages: Vec<_> = lock(&self.pages)
            .range(range)
            .map(|(&address, &(frame, protection))| (address, frame, protection))
            .collect();
        for (address, frame, protection) in pages {
            visit(address, frame, protection);
        }
    }

    fn resident(&self) -> usize {
        lock(&self.pages).len()
    }

    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}

impl Hypercalls for Host {
    fn rumpuser_thread_create(spec: ThreadSpec) -> Result<Thread, OutOfMemory> {
        let (sender, receiver) = std::sync::mpsc::channel();
        thread::Builder::new()
            .name(spec.name)
            .spawn(move || {
                let _ = sender.send(Self::rumpuser_thread_current());
                (spec.main)();
            })
            .map_err(|_| OutOfMemory)?;
        receiver.recv().map_err(|_| OutOfMemory)
    }

    fn rumpuser_thread_current() -> Thread {
        CURRENT.with(Arc::clone)
    }

    fn rumpuser_thread_exit() -> ! {
        loop {
            thread::park();
        }
    }

    fn rumpuser_park(deadline: u64) {
        if deadline == NEVER {
            thread::park();
        } else {
            let left = deadline.saturating_sub(Self::rumpuser_clock_monotonic());
            thread::park_timeout(Duration::from_nanos(left));
        }
    }

    fn rumpuser_yield() {
        thread::yield_now();
    }

    fn rumpuser_curlwp() -> *mut () {
        LWP.get()
    }

    fn rumpuser_set_curlwp(lwp: *mut ()) {
        LWP.set(lwp);
    }

    /// The host doesn't say where threads run: nowhere.
    fn rumpuser_set_presence(presence: Option<Arc<Presence>>) {
        if let Some(presence) = presence {
            presence.cpu.store(-1, Ordering::SeqCst);
        }
    }

    fn rumpuser_set_thread_pointer(address: usize) {
        POINTER.set(address);
    }

    fn rumpuser_interrupted() -> bool {
        CURRENT.with(|thread| thread.interrupted.load(Ordering::SeqCst))
    }

    fn rumpuser_clear_interrupt() {
        CURRENT.with(|thread| thread.interrupted.store(false, Ordering::SeqCst));
    }

    fn rumpuser_preempt_disable() {}

    fn rumpuser_preempt_enable() {}

    fn rumpuser_interrupts_disable() -> usize {
        0
    }

    fn rumpuser_interrupts_restore(_state: usize) {}

    fn rumpuser_cpu() -> usize {
        0
    }

    fn rumpuser_cpu_count() -> usize {
        1
    }

    fn rumpuser_cpu_online() -> crate::CpuSet {
        1
    }

    fn rumpuser_cpu_times(_cpu: usize) -> (u64, u64, u64) {
        (0, 0, 0)
    }

    fn rumpuser_cpu_statistics(_cpu: usize) -> crate::CpuStatistics {
        crate::CpuStatistics { switches: 3, runnable: 1, timer_interrupts: 2, ..Default::default() }
    }

    fn rumpuser_cpu_info() -> (String, u64) {
        (String::from("host"), 1_000_000)
    }

    fn rumpuser_clock_monotonic() -> u64 {
        START.elapsed().as_nanos() as u64
    }

    fn rumpuser_clock_realtime() -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        now.wrapping_add_signed(REALTIME_SHIFT.load(Ordering::Relaxed))
    }

    fn rumpuser_clock_set_realtime(now: u64) {
        let shift = now.wrapping_sub(Self::rumpuser_clock_realtime()) as i64;
        REALTIME_SHIFT.fetch_add(shift, Ordering::Relaxed);
    }

    fn rumpuser_clock_page() -> Frame {
        static PAGE: LazyLock<Frame> = LazyLock::new(|| Host::rumpuser_frame_alloc().expect("a page"));
        *PAGE
    }

    fn rumpuser_frame_alloc() -> Result<Frame, OutOfMemory> {
        Self::rumpuser_frames_alloc(0)
    }

    fn rumpuser_frame_alloc_uninitialised() -> Result<Frame, OutOfMemory> {
        Self::rumpuser_frames_alloc(0)
    }

    fn rumpuser_frames_alloc(order: u32) -> Result<Frame, OutOfMemory> {
        let pages = 1usize << order;
        // SAFETY: the layout is not empty.
        let address = unsafe { alloc_zeroed(page_layout(pages)) };
        if address.is_null() {
            return Err(OutOfMemory);
        }
        let first = (address as usize / PAGE_SIZE) as u64;
        let mut frames = lock(&FRAMES);
        frames.runs.insert(first, Run { first, pages, live: pages });
        for page in 0..pages as u64 {
            frames.references.insert(first + page, (1, first));
        }
        Ok(Frame(first))
    }

    fn rumpuser_frame_retain(frame: Frame) {
        if let Some((references, _)) = lock(&FRAMES).references.get_mut(&frame.0) {
            *references += 1;
        }
    }

    fn rumpuser_frame_release(frame: Frame) {
        let mut frames = lock(&FRAMES);
        let Some((references, first)) = frames.references.get_mut(&frame.0) else { return };
        *references -= 1;
        if *references > 0 {
            return;
        }
        let first = *first;
        frames.references.remove(&frame.0);
        let run = frames.runs.get_mut(&first).expect("a frame belongs to a run");
        run.live -= 1;
        if run.live == 0 {
            let run = frames.runs.remove(&first).expect("just seen");
            // SAFETY: allocated with this layout, and no frame of it is referenced any more.
            unsafe { dealloc((run.first as usize * PAGE_SIZE) as *mut u8, page_layout(run.pages)) };
        }
    }

    fn rumpuser_frame_references(frame: Frame) -> u32 {
        lock(&FRAMES).references.get(&frame.0).map_or(u32::MAX, |&(references, _)| references)
    }

    fn rumpuser_frame_address(frame: Frame) -> *mut u8 {
        (frame.0 as usize * PAGE_SIZE) as *mut u8
    }

    fn rumpuser_frame_of(address: *const u8) -> Frame {
        Frame((address as usize / PAGE_SIZE) as u64)
    }

    fn rumpuser_memory_statistics() -> MemoryStatistics {
        MemoryStatistics { total: 1 << 30, free: 1 << 29 }
    }

    fn rumpuser_pmap_create() -> Result<Arc<dyn Pmap>, OutOfMemory> {
        Ok(Arc::new(HostPmap::default()))
    }

    fn rumpuser_pmap_activate(_pmap: Option<Arc<dyn Pmap>>) {}

    fn rumpuser_user_execute(_context: &mut UserContext) -> Trap {
        panic!("the host platform runs no user code");
    }

    fn rumpuser_copyin(source: usize, destination: &mut [u8]) -> usize {
        if source < PAGE_SIZE {
            return destination.len();
        }
        // SAFETY: tests pass addresses of their own buffers as user addresses.
        unsafe { std::ptr::copy(source as *const u8, destination.as_mut_ptr(), destination.len()) };
        0
    }

    fn rumpuser_copyout(source: &[u8], destination: usize) -> usize {
        if destination < PAGE_SIZE {
            return source.len();
        }
        // SAFETY: as in `rumpuser_copyin`.
        unsafe { std::ptr::copy(source.as_ptr(), destination as *mut u8, source.len()) };
        0
    }

    fn rumpuser_user_load(address: usize) -> Result<u32, Fault> {
        if address < PAGE_SIZE {
            return Err(Fault);
        }
        // SAFETY: as in `rumpuser_copyin`; futex words are aligned.
        Ok(unsafe { &*(address as *const AtomicU32) }.load(Ordering::SeqCst))
    }

    fn rumpuser_user_compare_exchange(address: usize, old: u32, new: u32) -> Result<u32, Fault> {
        if address < PAGE_SIZE {
            return Err(Fault);
        }
        // SAFETY: as in `rumpuser_user_load`.
        let word = unsafe { &*(address as *const AtomicU32) };
        Ok(word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).unwrap_or_else(|found| found))
    }

    fn rumpuser_set_constant_call(_number: usize, _value: Option<u32>) {}

    fn rumpuser_set_fault_handler(_handler: fn(usize, bool) -> bool) {}

    fn rumpuser_extended_state_save(_context: &mut UserContext, _area: &mut [u8]) -> usize {
        0
    }

    fn rumpuser_extended_state_load(_context: &mut UserContext, _area: &[u8]) {}

    fn rumpuser_set_trap_handler(_handler: fn(&mut MachineTrap) -> bool) {}

    fn rumpuser_set_trap_stack(_top: usize) {}

    fn rumpuser_trap_state_save(_context: &UserContext, _area: &mut [u8]) -> usize {
        0
    }

    fn rumpuser_resume(_context: &UserContext, _area: &[u8]) -> ! {
        panic!("the host platform interrupts no code")
    }

    fn rumpuser_copy_guarded(source: usize, destination: usize, length: usize) -> usize {
        // SAFETY: tests name memory of theirs.
        unsafe { std::ptr::copy(source as *const u8, destination as *mut u8, length) };
        0
    }

    fn rumpuser_console_write(bytes: &[u8]) {
        std::print!("{}", String::from_utf8_lossy(bytes));
    }

    fn rumpuser_trace_write(lines: &str) {
        std::eprint!("{lines}");
    }

    fn rumpuser_console_set_input(_handler: fn(&[u8])) {}

    fn rumpuser_getrandom(bytes: &mut [u8]) {
        use std::io::Read;
        let mut source = std::fs::File::open("/dev/urandom").expect("/dev/urandom");
        source.read_exact(bytes).expect("/dev/urandom");
    }

    fn rumpuser_set_stop_handler(_handler: fn()) {}

    fn rumpuser_halt(how: Halt) -> ! {
        panic!("{}", format!("halt: {how:?}"));
    }
}
