//! Tests of the kernel core on the machine itself, in place of the components: `--features selftest`. Each prints
//! a line; the machine ends with status 0 if all held.

mod devices;

use alloc::{boxed::Box, format, sync::Arc, vec::Vec};
use core::{
    arch::global_asm,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst},
};

use rumpuser::{
    Frame, NEVER, Pmap, Protection, Thread, ThreadSpec, Trap, UserContext,
    memory::{LARGE_PAGE_SIZE, PAGE_SIZE},
    *,
};

global_asm!(
    ".section .rodata.selftest, \"a\"",
    ".balign 16",
    "selftest_code:",
    // 0: r15 system calls in a row, then one with rax = 1
    "0: mov eax, 39",
    "syscall",
    "dec r15",
    "jnz 0b",
    "mov eax, 1",
    "syscall",
    ".balign 64, 0xcc", // 64: spin
    "1: inc qword ptr [rdi]",
    "jmp 1b",
    ".balign 64, 0xcc", // 128: store to rdi, load it back, system call
    "mov [rdi], rsi",
    "mov rax, [rdi]",
    "syscall",
    "ud2",
    ".balign 64, 0xcc", // 192: XMM and x87 survive
    "2: movq xmm3, rsi",
    "movq xmm12, rdi",
    "fild qword ptr [rdx]",
    "mov ecx, 1000000",
    "3: dec ecx",
    "jnz 3b",
    "movq rax, xmm3",
    "movq rbx, xmm12",
    "fistp qword ptr [rdx]",
    "syscall",
    ".balign 64, 0xcc", // 256: touch pages from rdi to rsi, stride 4096
    "4: mov byte ptr [rdi], 1",
    "add rdi, 4096",
    "cmp rdi, rsi",
    "jb 4b",
    "syscall",
    ".balign 64, 0xcc",
    "selftest_code_end:",
);

unsafe extern "C" {
    static selftest_code: u8;
    static selftest_code_end: u8;
}

const CODE: usize = 0x40_0000;
const DATA: usize = 0x80_0000;

fn all(protection: &str) -> Protection {
    let mut result = Protection::READ;
    result.set(Protection::WRITE, protection.contains('w'));
    result.set(Protection::EXECUTE, protection.contains('x'));
    result
}

fn space() -> Arc<dyn Pmap> {
    let pmap = rumpuser_pmap_create().expect("pmap");
    let frame = rumpuser_frame_alloc().expect("frame");
    // SAFETY: the symbols enclose the code.
    let code = unsafe {
        let start = &raw const selftest_code;
        core::slice::from_raw_parts(start, &raw const selftest_code_end as usize - start as usize)
    };
    frame.write(0, code);
    pmap.enter(CODE, frame, all("x")).expect("enter");
    for page in 0..4 {
        pmap.enter(DATA + page * PAGE_SIZE, rumpuser_frame_alloc().expect("frame"), all("w")).expect("enter");
    }
    pmap
}

fn at(entry: usize) -> UserContext {
    let mut context = UserContext::default();
    context.registers.rip = (CODE + entry) as u64;
    context.registers.rdi = DATA as u64;
    context.registers.rdx = DATA as u64 + 512;
    context.registers.rsp = DATA as u64 + 4096;
    context
}

fn spawn(name: &str, affinity: u64, main: impl FnOnce() + Send + 'static) -> Thread {
    rumpuser_thread_create(ThreadSpec { name: name.into(), affinity, main: Box::new(main) }).expect("thread")
}

/// Runs `main` in a thread and waits for its end.
fn run(name: &'static str, main: impl FnOnce() + Send + 'static) {
    let start = rumpuser_clock_monotonic();
    let done = Arc::new(AtomicBool::new(false));
    let (flag, waiter) = (done.clone(), rumpuser_thread_current());
    spawn(name, CpuSet::MAX, move || {
        main();
        flag.store(true, SeqCst);
        waiter.unpark();
    });
    while !done.load(SeqCst) {
        rumpuser_park(NEVER);
    }
    let time = rumpuser_clock_monotonic() - start;
    bmk::message!("ok {name} ({} us)", time / 1000);
}

fn system_calls() {
    rumpuser_pmap_activate(Some(space()));
    let mut context = at(0);
    let rounds = 100_000;
    context.registers.r15 = rounds;
    let start = rumpuser_clock_monotonic();
    let mut count = 0;
    loop {
        match rumpuser_user_execute(&mut context) {
            Trap::SystemCall if context.registers.rax == 39 => count += 1,
            Trap::SystemCall => break,
            other => panic!("{other:?}"),
        }
        context.registers.rax = 7;
    }
    let time = rumpuser_clock_monotonic() - start;
    assert_eq!(count, rounds);
    bmk::message!("   {} ns a system call", time / rounds);
    rumpuser_set_constant_call(39, Some(0x1234_5678));
    context = at(0);
    context.registers.r15 = rounds;
    let (vectors, registers) = (context.vectors.0, context.registers);
    let start = rumpuser_clock_monotonic();
    assert_eq!(rumpuser_user_execute(&mut context), Trap::SystemCall);
    let time = rumpuser_clock_monotonic() - start;
    assert_eq!((context.registers.rax, context.registers.r15), (1, 0));
    assert_eq!((vectors, registers.rsp), (context.vectors.0, context.registers.rsp));
    bmk::message!("   {} ns a constant call", time / rounds);
    rumpuser_set_constant_call(39, None);
    context = at(0);
    context.registers.r15 = 1;
    assert_eq!(rumpuser_user_execute(&mut context), Trap::SystemCall);
    assert_eq!(context.registers.rax, 39);
}

fn faults() {
    rumpuser_pmap_activate(Some(space()));
    let mut context = at(128);
    context.registers.rdi = 0x1234_5000;
    let trap = rumpuser_user_execute(&mut context);
    assert_eq!(trap, Trap::PageFault { address: 0x1234_5000, write: true, execute: false, present: false });
    context.registers.rdi = CODE as u64;
    let trap = rumpuser_user_execute(&mut context);
    assert_eq!(trap, Trap::PageFault { address: CODE, write: true, execute: false, present: true });
    context.registers.rdi = DATA as u64 + 8;
    context.registers.rsi = 99;
    assert_eq!(rumpuser_user_execute(&mut context), Trap::SystemCall);
    assert_eq!(context.registers.rax, 99);
    assert_eq!(rumpuser_user_execute(&mut context), Trap::Exception { vector: 6, error: 0 });
    for rip in [DATA as u64, 0, 0x8000_0000_0000, 0xffff_8000_0000_0000, u64::MAX] {
        context.registers.rip = rip;
        let trap = rumpuser_user_execute(&mut context);
        assert!(
            matches!(trap, Trap::PageFault { execute: true, address, .. } if address == rip as usize),
            "{trap:?}"
        );
    }
    // A kernel address, wild segment bases, wild flags.
    context = at(128);
    context.registers.rdi = 0xffff_ffff_8010_0000;
    context.registers.fs_base = 0x8000_0000_0000_0000;
    context.registers.gs_base = u64::MAX >> 1;
    context.registers.rflags = u64::MAX & !0x100;
    let trap = rumpuser_user_execute(&mut context);
    assert!(matches!(trap, Trap::PageFault { present: true, .. }), "{trap:?}");
}

fn user_copies() {
    let pmap = space();
    rumpuser_pmap_activate(Some(pmap.clone()));
    let text: Vec<u8> = (0..3 * PAGE_SIZE).map(|byte| byte as u8).collect();
    assert_eq!(rumpuser_copyout(&text, DATA + 100), 0);
    let mut back = alloc::vec![0; text.len()];
    assert_eq!(rumpuser_copyin(DATA + 100, &mut back), 0);
    assert_eq!(back, text);
    let end = DATA + 4 * PAGE_SIZE;
    for length in [1, 5, 63, 64, 100, 200, 5000] {
        for inside in [0, 1, 7, 8, 60, 64, 100] {
            let expected = if length > inside { length - inside } else { 0 };
            assert_eq!(rumpuser_copyin(end - inside, &mut back[..length]), expected, "{length} {inside}");
            assert_eq!(rumpuser_copyout(&back[..length], end - inside), expected);
        }
    }
    assert_eq!(rumpuser_copyout(&text, CODE), text.len());
    assert_eq!(rumpuser_copyin(usize::MAX - 5, &mut back[..10]), 10);
    assert_eq!(rumpuser_copyin(0xffff_8000_0000_0000, &mut back[..10]), 10);
    assert!(rumpuser_user_load(0x1000).is_err());
    assert!(rumpuser_user_load(DATA + 1).is_err());
    rumpuser_copyout(&7u32.to_le_bytes(), DATA);
    assert_eq!(rumpuser_user_load(DATA), Ok(7));
    assert_eq!(rumpuser_user_compare_exchange(DATA, 7, 9), Ok(7));
    assert_eq!(rumpuser_user_compare_exchange(DATA, 7, 10), Ok(9));
    assert!(rumpuser_user_compare_exchange(CODE, 0, 0).is_err());
    static RESOLVED: AtomicUsize = AtomicUsize::new(0);
    static PMAP: AtomicUsize = AtomicUsize::new(0);
    let boxed = Box::leak(Box::new(pmap));
    PMAP.store(core::ptr::from_ref(boxed) as usize, SeqCst);
    rumpuser_set_fault_handler(|address, _| {
        rumpuser_park(rumpuser_clock_monotonic() + 100_000);
        RESOLVED.fetch_add(1, SeqCst);
        if address >= DATA + 16 * PAGE_SIZE {
            return false;
        }
        // SAFETY: set just before.
        let pmap = unsafe { &*(PMAP.load(SeqCst) as *const Arc<dyn Pmap>) };
        pmap.enter(address & !4095, rumpuser_frame_alloc().expect("frame"), all("w")).is_ok()
    });
    let end = DATA + 16 * PAGE_SIZE;
    assert_eq!(rumpuser_copyout(&text, end - 2 * PAGE_SIZE - 10), PAGE_SIZE - 10);
    assert!(RESOLVED.load(SeqCst) >= 4);
    rumpuser_set_fault_handler(|_, _| false);
}

fn extended_state() {
    let mut threads = Vec::new();
    let left = Arc::new(AtomicU32::new(8));
    for number in 1..=8u64 {
        let (left, waiter) = (left.clone(), rumpuser_thread_current());
        threads.push(spawn("vectors", CpuSet::MAX, move || {
            rumpuser_pmap_activate(Some(space()));
            for round in 0..20 {
                let mut context = at(192);
                context.registers.rsi = number << 32 | round;
                context.registers.rdi = number;
                rumpuser_copyout(&(number * 1000 + round).to_le_bytes(), DATA + 512);
                assert_eq!(rumpuser_user_execute(&mut context), Trap::SystemCall);
                assert_eq!(context.registers.rax, number << 32 | round);
                assert_eq!(context.registers.rbx, number);
                let mut value = [0; 8];
                rumpuser_copyin(DATA + 512, &mut value);
                assert_eq!(u64::from_le_bytes(value), number * 1000 + round);
                let mut area = alloc::vec![0; rumpuser_extended_state_save(&mut context, &mut [])];
                rumpuser_extended_state_save(&mut context, &mut area);
                let saved = context.vectors.0;
                rumpuser_extended_state_load(&mut context, &[]);
                assert_eq!(context.vectors.0, [0; 16]);
                area[24..28].fill(0xff);
                area[520..576].fill(0xff);
                rumpuser_extended_state_load(&mut context, &area);
                assert_eq!(context.vectors.0, saved);
                // Registers left from the trap: run on, into a fault.
                assert!(rumpuser_user_execute(&mut context) != Trap::Interrupted);
            }
            left.fetch_sub(1, SeqCst);
            waiter.unpark();
        }));
    }
    while left.load(SeqCst) > 0 {
        rumpuser_park(NEVER);
    }
}

fn page_tables() {
    let pmap = space();
    rumpuser_pmap_activate(Some(pmap.clone()));
    let free = || {
        bmk::memory::heap::KernelHeap;
        rumpuser_memory_statistics().free
    };
    let before = free();
    let large = rumpuser_frames_alloc(9).expect("2 MiB");
    let base = 0x4000_0000;
    pmap.enter_large(base, large, all("w")).expect("large");
    assert_eq!(pmap.resident(), 5 + 512);
    rumpuser_copyout(b"hello", base + 5 * PAGE_SIZE);
    assert_eq!(pmap.query(base + 5 * PAGE_SIZE), Some((Frame(large.0 + 5), all("w"))));
    pmap.protect(base + 4 * PAGE_SIZE..base + 6 * PAGE_SIZE, all(""));
    assert_eq!(rumpuser_copyout(b"x", base + 5 * PAGE_SIZE), 1);
    assert_eq!(rumpuser_copyout(b"x", base + 6 * PAGE_SIZE), 0);
    pmap.remove(base + 6 * PAGE_SIZE..base + 8 * PAGE_SIZE);
    assert_eq!(pmap.resident(), 5 + 510);
    assert_eq!(rumpuser_copyout(b"x", base + 6 * PAGE_SIZE), 1);
    let other = rumpuser_pmap_create().expect("pmap");
    pmap.share_copy_on_write(&*other, 0..0x7000_0000_0000).expect("share");
    assert_eq!(other.resident(), pmap.resident());
    assert_eq!(rumpuser_frame_references(large), 2);
    assert_eq!(rumpuser_copyout(b"x", base), 1);
    drop(other);
    assert_eq!(rumpuser_frame_references(large), 1);
    pmap.relocate(base..base + LARGE_PAGE_SIZE, 0x1_0000_1000).expect("relocate");
    let mut hello = [0; 5];
    assert_eq!(rumpuser_copyin(0x1_0000_1000 + 5 * PAGE_SIZE, &mut hello), 0);
    assert_eq!(&hello, b"hello");
    let mut visited = 0;
    pmap.for_each(0..0x7000_0000_0000, &mut |_, _, _| visited += 1);
    assert_eq!(visited, 515);
    pmap.protect(0x1_0000_1000..0x1_0000_2000, Protection::empty());
    assert_eq!(rumpuser_copyin(0x1_0000_1000, &mut hello), 5);
    assert_eq!(pmap.query(0x1_0000_1000).map(|found| found.1), Some(Protection::empty()));
    pmap.remove(0x1000_0000..0x7fff_ffff_f000);
    assert_eq!(pmap.resident(), 5);
    let after = free();
    assert!(before.abs_diff(after) < 64 << 12, "{before} {after}");
}

fn shootdown() {
    let cpus = rumpuser_cpu_count();
    let pmap = space();
    let stop = Arc::new(AtomicBool::new(false));
    let seen = Arc::new(AtomicU64::new(0));
    let left = Arc::new(AtomicUsize::new(cpus));
    for cpu in 0..cpus {
        let (pmap, stop, seen, left) = (pmap.clone(), stop.clone(), seen.clone(), left.clone());
        spawn("toucher", 1 << cpu, move || {
            rumpuser_pmap_activate(Some(pmap.clone()));
            while !stop.load(SeqCst) {
                let mut context = at(256);
                context.registers.rdi = 0x1000_0000;
                context.registers.rsi = 0x1000_0000 + 8 * PAGE_SIZE as u64;
                loop {
                    match rumpuser_user_execute(&mut context) {
                        Trap::SystemCall => break,
                        Trap::PageFault { address, .. } => {
                            let frame = rumpuser_frame_alloc().expect("frame");
                            pmap.enter(address & !4095, frame, all("w")).expect("enter");
                            seen.fetch_add(1, SeqCst);
                        }
                        other => panic!("{other:?}"),
                    }
                }
                if cpu % 2 == 1 {
                    pmap.remove(0x1000_0000..0x1000_0000 + 4 * PAGE_SIZE);
                }
            }
            left.fetch_sub(1, SeqCst);
        });
    }
    let end = rumpuser_clock_monotonic() + 200_000_000;
    while rumpuser_clock_monotonic() < end {
        pmap.remove(0x1000_0000..0x1000_0000 + 8 * PAGE_SIZE);
        rumpuser_park(rumpuser_clock_monotonic() + 50_000);
    }
    stop.store(true, SeqCst);
    while left.load(SeqCst) > 0 {
        rumpuser_park(rumpuser_clock_monotonic() + 1_000_000);
    }
    bmk::message!("   {} faults on {cpus} CPUs", seen.load(SeqCst));
}

fn sleeping() {
    for wanted in [0, 100_000, 1_000_000, 20_000_000] {
        let start = rumpuser_clock_monotonic();
        rumpuser_park(start + wanted);
        let slept = rumpuser_clock_monotonic() - start;
        // How late is for a benchmark to say: the machine may be busy with others.
        assert!(slept >= wanted, "slept {slept} for {wanted}");
        bmk::message!("   asked {wanted} ns, slept {slept}");
    }
    rumpuser_thread_current().unpark();
    rumpuser_park(NEVER);
}

fn preemption() {
    // Two spinners in user mode and one in the kernel on one CPU, and a sleeper beside them.
    let stop = Arc::new(AtomicBool::new(false));
    let left = Arc::new(AtomicUsize::new(3));
    let mut threads = Vec::new();
    for number in 0..3 {
        let (stop, left) = (stop.clone(), left.clone());
        threads.push(spawn("spinner", 1, move || {
            if number == 2 {
                while !stop.load(SeqCst) {
                    core::hint::spin_loop();
                }
            } else {
                rumpuser_pmap_activate(Some(space()));
                let mut context = at(64);
                assert_eq!(rumpuser_user_execute(&mut context), Trap::Interrupted);
                assert!(rumpuser_interrupted());
                rumpuser_clear_interrupt();
            }
            left.fetch_sub(1, SeqCst);
        }));
    }
    rumpuser_thread_current().set_affinity(1);
    let mut worst = 0;
    for _ in 0..50 {
        let deadline = rumpuser_clock_monotonic() + 2_000_000;
        rumpuser_park(deadline);
        worst = worst.max(rumpuser_clock_monotonic() - deadline);
    }
    let times: Vec<_> = threads.iter().map(|thread| thread.cpu_time()).collect();
    bmk::message!("   latest wake-up {worst} ns; CPU times {times:?}");
    stop.store(true, SeqCst);
    for thread in &threads[..2] {
        thread.interrupt();
    }
    while left.load(SeqCst) > 0 {
        rumpuser_park(rumpuser_clock_monotonic() + 1_000_000);
    }
}

fn ping_pong() {
    let cpus = rumpuser_cpu_count();
    let rounds = 5000;
    for (name, affinity) in [("same CPU", 1), ("any CPU", CpuSet::MAX)] {
        let turn = Arc::new(AtomicU32::new(0));
        let me = rumpuser_thread_current();
        me.set_affinity(affinity);
        let (theirs, waiter) = (turn.clone(), me.clone());
        let other = spawn("pong", affinity, move || {
            for round in 0..rounds {
                while theirs.load(SeqCst) != 2 * round + 1 {
                    rumpuser_park(NEVER);
                }
                theirs.store(2 * round + 2, SeqCst);
                waiter.unpark();
            }
        });
        let start = rumpuser_clock_monotonic();
        for round in 0..rounds {
            turn.store(2 * round + 1, SeqCst);
            other.unpark();
            while turn.load(SeqCst) != 2 * round + 2 {
                rumpuser_park(NEVER);
            }
        }
        let time = rumpuser_clock_monotonic() - start;
        bmk::message!("   {} ns a round trip, {name} of {cpus}", time / u64::from(rounds));
    }
}

fn many_threads() {
    let start = rumpuser_clock_monotonic();
    let count = 200;
    let left = Arc::new(AtomicUsize::new(count));
    let total = Arc::new(AtomicU64::new(0));
    let waiter = rumpuser_thread_current();
    for number in 0..count as u64 {
        let (left, total, waiter) = (left.clone(), total.clone(), waiter.clone());
        spawn("worker", CpuSet::MAX, move || {
            let mut numbers: Vec<_> = (0..1000).map(|step| format!("{}", step * number)).collect();
            rumpuser_yield();
            numbers.sort();
            total.fetch_add(numbers.iter().map(|text| text.len() as u64).sum(), SeqCst);
            if number % 3 == 0 {
                rumpuser_park(rumpuser_clock_monotonic() + 1_000_000);
            }
            left.fetch_sub(1, SeqCst);
            waiter.unpark();
        });
    }
    while left.load(SeqCst) > 0 {
        rumpuser_park(NEVER);
    }
    let time = rumpuser_clock_monotonic() - start;
    bmk::message!("   {} us a thread, {} digits", time / 1000 / count as u64, total.load(SeqCst));
}

fn locks() {
    let counter = Arc::new(sync::Mutex::new(0u64));
    let left = Arc::new(AtomicUsize::new(8));
    let waiter = rumpuser_thread_current();
    for _ in 0..8 {
        let (counter, left, waiter) = (counter.clone(), left.clone(), waiter.clone());
        spawn("locker", CpuSet::MAX, move || {
            for round in 0..2000 {
                let mut guard = counter.lock();
                let value = *guard;
                if round % 100 == 0 {
                    rumpuser_yield();
                }
                *guard = value + 1;
            }
            left.fetch_sub(1, SeqCst);
            waiter.unpark();
        });
    }
    while left.load(SeqCst) > 0 {
        rumpuser_park(NEVER);
    }
    assert_eq!(*counter.lock(), 16000);
}

/// Runs all tests.
pub fn main(payload: &'static [u8], information: &bmk::platform::BootInformation) {
    bmk::message!(
        "selftest: {} CPUs, {} KiB free, command line {:?}, payload {} bytes, at {} us",
        rumpuser_cpu_count(),
        rumpuser_memory_statistics().free >> 10,
        information.command_line,
        payload.len(),
        rumpuser_clock_monotonic() / 1000
    );
    if information.command_line.contains("panic") {
        panic!("as asked");
    }
    if information.command_line.contains("overflow") {
        bmk::message!("{}", recurse(1));
    }
    devices::main(information);
    if information.command_line.contains("calls-only") {
        for _ in 0..100 {
            run("system calls", system_calls);
        }
        return;
    }
    if information.command_line.contains("devices-only") {
        rumpuser_halt(Halt::PowerOff(0));
    }
    let only = information.command_line.split_once("only=").map(|(_, name)| name);
    let tests: [(&'static str, fn()); 11] = [
        ("sleeping", sleeping),
        ("system-calls", system_calls),
        ("faults", faults),
        ("user-copies", user_copies),
        ("page-tables", page_tables),
        ("extended-state", extended_state),
        ("shootdown", shootdown),
        ("preemption", preemption),
        ("ping-pong", ping_pong),
        ("many-threads", many_threads),
        ("locks", locks),
    ];
    for (name, test) in tests.into_iter().filter(|(name, _)| only.is_none_or(|only| only == *name)) {
        run(name, test);
    }
    bmk::message!("boot stack: {} bytes never used", crate::boot_stack_unused());
    let times: Vec<_> = (0..rumpuser_cpu_count()).map(rumpuser_cpu_times).collect();
    bmk::message!("CPU times {times:?}, {} KiB free", rumpuser_memory_statistics().free >> 10);
    rumpuser_halt(Halt::PowerOff(0));
}

#[inline(never)]
fn recurse(depth: u64) -> u64 {
    let page = core::hint::black_box([depth; 100]);
    if depth == 0 { 0 } else { recurse(depth + 1) + page[depth as usize % 100] }
}
