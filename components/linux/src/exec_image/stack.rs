//! The stack that a program starts with: strings, pointers to them, and the auxiliary vector (System V ABI,
//! x86-64 supplement, 3.4.1).

use alloc::{sync::Arc, vec::Vec};
use core::ops::Range;

use linux_raw_sys::auxvec;
use rumpkern::{
    Errno, Result,
    vm::{EntryFlags, Name, Placement, Request, Space},
};
use rumpuser::{Protection, memory::PAGE_SIZE, rumpuser_getrandom};

use crate::{credentials::Credentials, elf::PROGRAM_HEADER_SIZE};

/// The longest single argument, its NUL included (MAX_ARG_STRLEN).
pub const STRING_MAX: usize = 32 * PAGE_SIZE;
/// The most that arguments and environment may have together, whatever the stack limit (3/4 of _STK_LIM).
pub const ARGUMENTS_MAX: usize = 6 << 20;
/// What is mapped of the stack at first, beyond what is on it.
const INITIAL_ROOM: usize = 132 << 10;
/// Clock ticks per second (AT_CLKTCK).
const CLOCK_TICKS: u64 = 100;
const PLATFORM: &[u8] = b"x86_64\0";

/// Where a program's arguments are, for /proc. Kept with the space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackLayout {
    /// The stack pointer at the start.
    pub stack_pointer: usize,
    /// The argument strings, with their NULs.
    pub arguments: Range<usize>,
    /// The environment strings, with their NULs.
    pub environment: Range<usize>,
    /// The auxiliary vector's bytes.
    pub auxiliary: Vec<u8>,
}

impl StackLayout {
    /// The layout that a space was loaded with.
    pub fn of(space: &Space) -> Option<Arc<StackLayout>> {
        space.attachment()?.downcast().ok()
    }
}

/// What goes on the stack.
pub(super) struct Start<'a> {
    pub arguments: &'a [Vec<u8>],
    pub environment: &'a [Vec<u8>],
    pub name: &'a [u8],
    pub program_headers: usize,
    pub program_header_count: usize,
    pub interpreter_base: usize,
    pub entry: usize,
    pub vdso: usize,
    pub credentials: &'a Credentials,
    pub secure: bool,
    pub executable: bool,
}

/// E2BIG if the strings are more than a program may have.
pub(super) fn check_size(
    arguments: &[Vec<u8>],
    environment: &[Vec<u8>],
    name: &[u8],
    stack_limit: usize,
) -> Result<()> {
    let limit = (stack_limit / 4).clamp(STRING_MAX, ARGUMENTS_MAX);
    let mut total = name.len() + 1;
    for string in arguments.iter().chain(environment) {
        if string.len() >= STRING_MAX {
            return Err(Errno::E2BIG);
        }
        total = total.saturating_add(string.len() + 1 + size_of::<usize>());
    }
    if total > limit { Err(Errno::E2BIG) } else { Ok(()) }
}

/// The strings below the stack's top, growing up from `base`.
struct Strings {
    bytes: Vec<u8>,
    base: usize,
}

impl Strings {
    fn push(&mut self, string: &[u8]) -> usize {
        let address = self.base + self.bytes.len();
        self.bytes.extend_from_slice(string);
        self.bytes.push(0);
        address
    }
}

impl Start<'_> {
    /// Maps the stack and fills it.
    pub(super) fn build(&self, space: &Space, stack_limit: usize) -> Result<StackLayout> {
        let mut random = [0u8; 16];
        rumpuser_getrandom(&mut random);
        let length: usize =
            self.arguments.iter().chain(self.environment).map(|string| string.len() + 1).sum();
        let fixed = self.name.len() + 1 + PLATFORM.len() + random.len() + size_of::<usize>();
        let top = space.stack_top();
        let base = (top - length - fixed) & !15;
        let mut strings = Strings { bytes: Vec::with_capacity(top - base), base };
        let random_at = base;
        strings.bytes.extend_from_slice(&random);
        let platform_at = base + strings.bytes.len();
        strings.bytes.extend_from_slice(PLATFORM);
        let pointers: Vec<usize> = self.arguments.iter().map(|string| strings.push(string)).collect();
        let arguments_end = base + strings.bytes.len();
        let environment: Vec<usize> = self.environment.iter().map(|string| strings.push(string)).collect();
        let environment_end = base + strings.bytes.len();
        let name_at = strings.push(self.name);

        let auxiliary = self.auxiliary_vector(random_at, platform_at, name_at);
        let words = 1 + pointers.len() + 1 + environment.len() + 1 + auxiliary.len() * 2;
        let stack_pointer = (base - words * size_of::<u64>()) & !15;
        let mut table: Vec<u64> = Vec::with_capacity(words);
        table.push(pointers.len() as u64);
        table.extend(pointers.iter().map(|&address| address as u64));
        table.push(0);
        table.extend(environment.iter().map(|&address| address as u64));
        table.push(0);
        let auxiliary_from = table.len();
        table.extend(auxiliary.iter().flat_map(|&(kind, value)| [kind, value]));

        self.map_stack(space, stack_pointer, stack_limit)?;
        let table_bytes: Vec<u8> = table.iter().flat_map(|word| word.to_le_bytes()).collect();
        put(space, stack_pointer, &table_bytes)?;
        put(space, base, &strings.bytes)?;
        let arguments_start = pointers.first().copied().unwrap_or(arguments_end);
        Ok(StackLayout {
            stack_pointer,
            arguments: arguments_start..arguments_end,
            environment: arguments_end..environment_end,
            auxiliary: table_bytes[auxiliary_from * size_of::<u64>()..].to_vec(),
        })
    }

    fn map_stack(&self, space: &Space, stack_pointer: usize, stack_limit: usize) -> Result<()> {
        let top = space.stack_top();
        let used = top - (stack_pointer & !(PAGE_SIZE - 1));
        let room = INITIAL_ROOM.min(stack_limit.saturating_sub(used) & !(PAGE_SIZE - 1));
        let mut protection = Protection::READ | Protection::WRITE;
        protection.set(Protection::EXECUTE, self.executable);
        space.map(Request {
            placement: Placement::Fixed(top - used - room),
            flags: EntryFlags::GROWS_DOWN,
            name: Some(Arc::new(Name { path: b"[stack]".to_vec(), ..Name::default() })),
            ..Request::anonymous(used + room, protection)
        })?;
        Ok(())
    }

    fn auxiliary_vector(&self, random: usize, platform: usize, name: usize) -> Vec<(u64, u64)> {
        let who = self.credentials;
        let features = cpu::features();
        let entries = [
            (auxvec::AT_SYSINFO_EHDR, self.vdso as u64),
            (auxvec::AT_MINSIGSTKSZ, features.signal_frame),
            (auxvec::AT_HWCAP, features.hwcap),
            (auxvec::AT_PAGESZ, PAGE_SIZE as u64),
            (auxvec::AT_CLKTCK, CLOCK_TICKS),
            (auxvec::AT_PHDR, self.program_headers as u64),
            (auxvec::AT_PHENT, PROGRAM_HEADER_SIZE as u64),
            (auxvec::AT_PHNUM, self.program_header_count as u64),
            (auxvec::AT_BASE, self.interpreter_base as u64),
            (auxvec::AT_FLAGS, 0),
            (auxvec::AT_ENTRY, self.entry as u64),
            (auxvec::AT_UID, who.uid.into()),
            (auxvec::AT_EUID, who.euid.into()),
            (auxvec::AT_GID, who.gid.into()),
            (auxvec::AT_EGID, who.egid.into()),
            (auxvec::AT_SECURE, self.secure.into()),
            (auxvec::AT_RANDOM, random as u64),
            (auxvec::AT_HWCAP2, 0),
            (auxvec::AT_EXECFN, name as u64),
            (auxvec::AT_PLATFORM, platform as u64),
            (auxvec::AT_NULL, 0),
        ];
        // Without a vDSO the entry is left out, not zero.
        entries
            .into_iter()
            .map(|(kind, value)| (kind.into(), value))
            .filter(|&(kind, value)| kind != u64::from(auxvec::AT_SYSINFO_EHDR) || value != 0)
            .collect()
    }
}

fn put(space: &Space, address: usize, bytes: &[u8]) -> Result<()> {
    space.write(address, bytes).1.map_err(|error| match error {
        rumpkern::vm::FaultError::OutOfMemory => Errno::ENOMEM,
        // RLIMIT_STACK is too small for what is to go there.
        _ => Errno::E2BIG,
    })
}

/// What the CPU tells of itself.
mod cpu {
    use core::arch::x86_64::{__cpuid, __cpuid_count};

    /// See the module.
    pub struct Features {
        /// CPUID.1:EDX.
        pub hwcap: u64,
        /// Room that a signal frame takes, at the most.
        pub signal_frame: u64,
    }

    /// What a signal frame takes besides the extended state.
    const FRAME: u64 = 1024;
    /// MINSIGSTKSZ as it is compiled into programs.
    const LEAST: u64 = 2048;

    pub fn features() -> Features {
        let leaf = __cpuid(1);
        let has_xsave = leaf.ecx >> 26 & 1 == 1;
        let state = if has_xsave { u64::from(__cpuid_count(0xd, 0).ebx) } else { 512 };
        Features { hwcap: leaf.edx.into(), signal_frame: (state + FRAME).max(LEAST) }
    }
}
