//! The vDSO as libraries look it up, and its functions run on the host beside a clock page of the test's own.
#![allow(unsafe_code, reason = "maps and calls machine code")]

extern crate std;

use core::{
    arch::{asm, x86_64::_rdtsc},
    sync::atomic::Ordering,
};
use std::{string::String, vec::Vec};

use object::{
    LittleEndian,
    elf::{FileHeader64, PT_DYNAMIC, PT_LOAD, SHT_DYNSYM},
    read::elf::{FileHeader, ProgramHeader, SectionHeader, Sym},
};
use rumpuser::{memory::PAGE_SIZE, user::ClockPage};

use super::IMAGE;

const NAMES: [&str; 5] =
    ["__vdso_clock_getres", "__vdso_clock_gettime", "__vdso_getcpu", "__vdso_gettimeofday", "__vdso_time"];

fn symbols() -> Vec<(String, u64)> {
    let header = FileHeader64::<LittleEndian>::parse(IMAGE).unwrap();
    let sections = header.sections(LittleEndian, IMAGE).unwrap();
    let table = sections.symbols(LittleEndian, IMAGE, SHT_DYNSYM).unwrap();
    let versions = sections.versions(LittleEndian, IMAGE).unwrap().expect("versioned symbols");
    let mut found: Vec<(String, u64)> = table
        .enumerate()
        .filter(|(_, symbol)| symbol.st_type() == object::elf::STT_FUNC)
        .map(|(index, symbol)| {
            let version = versions.version(versions.version_index(LittleEndian, index)).unwrap().unwrap();
            assert_eq!(version.name(), b"LINUX_2.6");
            let name = symbol.name(LittleEndian, table.strings()).unwrap();
            (std::str::from_utf8(name).unwrap().into(), symbol.st_value(LittleEndian))
        })
        .collect();
    found.sort();
    found
}

#[test]
fn the_symbols_have_their_names_and_versions() {
    let names: Vec<String> = symbols().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, NAMES);
}

#[test]
fn the_image_is_one_segment_without_relocations() {
    let header = FileHeader64::<LittleEndian>::parse(IMAGE).unwrap();
    let segments = header.program_headers(LittleEndian, IMAGE).unwrap();
    let loaded: Vec<_> = segments.iter().filter(|segment| segment.p_type(LittleEndian) == PT_LOAD).collect();
    assert_eq!(loaded.len(), 1);
    assert_eq!((loaded[0].p_offset(LittleEndian), loaded[0].p_vaddr(LittleEndian)), (0, 0));
    assert!(segments.iter().any(|segment| segment.p_type(LittleEndian) == PT_DYNAMIC));
    let sections = header.sections(LittleEndian, IMAGE).unwrap();
    for section in sections.iter() {
        let kind = section.sh_type(LittleEndian);
        assert!(kind != object::elf::SHT_RELA && kind != object::elf::SHT_REL);
    }
    // musl before 1.2.6 and Go before 1.22 know DT_HASH only.
    assert!(sections.iter().any(|section| section.sh_type(LittleEndian) == object::elf::SHT_HASH));
    assert!(sections.iter().any(|section| section.sh_type(LittleEndian) == object::elf::SHT_GNU_HASH));
}

/// The clock page and the vDSO behind it, in executable memory.
fn mapped() -> (&'static ClockPage, usize) {
    let length = PAGE_SIZE + IMAGE.len().next_multiple_of(PAGE_SIZE);
    let mut address = 9usize; // mmap
    // SAFETY: an anonymous private mapping at an address that the kernel chooses touches nothing else.
    unsafe {
        asm!(
            "syscall",
            inout("rax") address,
            in("rdi") 0, in("rsi") length, in("rdx") 7, in("r10") 0x22, in("r8") -1isize, in("r9") 0,
            out("rcx") _, out("r11") _,
        );
    }
    assert!(address < usize::MAX - PAGE_SIZE, "mmap");
    let code = address + PAGE_SIZE;
    // SAFETY: the mapping is new, writable, long enough, zeroed, and never unmapped.
    unsafe {
        core::ptr::copy_nonoverlapping(IMAGE.as_ptr(), code as *mut u8, IMAGE.len());
        (&*(address as *const ClockPage), code)
    }
}

type GetTime = extern "C" fn(i32, *mut [i64; 2]) -> i32;
type GetTimeOfDay = extern "C" fn(*mut [i64; 2], *mut [i32; 2]) -> i32;
type Time = extern "C" fn(*mut i64) -> i64;
type GetCpu = extern "C" fn(*mut u32, *mut u32, usize) -> i64;

/// # Safety
/// `F` is the function's type.
unsafe fn function<F: Copy>(code: usize, name: &str) -> F {
    let (_, offset) = symbols().into_iter().find(|(other, _)| other == name).unwrap();
    let address = code + offset as usize;
    // SAFETY: a function pointer is as large as an address; the caller names the type.
    unsafe { core::mem::transmute_copy(&address) }
}

#[test]
fn the_clocks_come_from_the_page() {
    let (page, code) = mapped();
    // SAFETY: the types are those in vdso.c.
    let (clock_gettime, clock_getres, gettimeofday, time, getcpu) = unsafe {
        (
            function::<GetTime>(code, "__vdso_clock_gettime"),
            function::<GetTime>(code, "__vdso_clock_getres"),
            function::<GetTimeOfDay>(code, "__vdso_gettimeofday"),
            function::<Time>(code, "__vdso_time"),
            function::<GetCpu>(code, "__vdso_getcpu"),
        )
    };
    let mut value = [0i64; 2];
    // Not usable: the host's clocks, by system calls.
    assert_eq!(clock_gettime(0, &mut value), 0);
    assert!(value[0] > 1_600_000_000);
    assert_eq!(clock_gettime(99, &mut value), -22);
    assert!(time(core::ptr::null_mut()) > 1_600_000_000);

    // SAFETY: reading the counter has no effect.
    let tsc = unsafe { _rdtsc() };
    page.base_tsc.store(tsc, Ordering::Relaxed);
    page.base_ns.store(5_000_000_007, Ordering::Relaxed);
    page.multiplier.store(0, Ordering::Relaxed);
    page.realtime_offset.store(1_000_000_000_000, Ordering::Relaxed);
    page.usable.store(1, Ordering::Release);
    for (clock, seconds) in [(1, 5), (4, 5), (6, 5), (7, 5), (0, 1005), (5, 1005)] {
        assert_eq!((clock_gettime(clock, &mut value), value), (0, [seconds, 7]));
    }
    assert_eq!((clock_getres(1, &mut value), value), (0, [0, 1]));
    let mut zone = [1i32; 2];
    assert_eq!((gettimeofday(&mut value, &mut zone), value, zone), (0, [1005, 0], [0, 0]));
    let mut seconds = 0;
    assert_eq!((time(&mut seconds), seconds), (1005, 1005));

    // A tick is a nanosecond.
    page.multiplier.store(1 << 32, Ordering::Relaxed);
    clock_gettime(1, &mut value);
    let first = value;
    clock_gettime(1, &mut value);
    assert!(value > first && first >= [5, 7] && value < [3600, 0], "{first:?} {value:?}");
    // A counter that is behind gives the base.
    page.base_tsc.store(u64::MAX / 2, Ordering::Relaxed);
    clock_gettime(1, &mut value);
    assert_eq!(value, [5, 7]);

    let (mut cpu, mut node) = (u32::MAX, u32::MAX);
    assert_eq!(getcpu(&mut cpu, &mut node, 0), 0);
    assert!(cpu < 4096 && node < 1024);
}
