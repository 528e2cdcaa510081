//! `siginfo_t`: what a handler, signalfd or sigtimedwait hears about a signal.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::number::SIGCHLD;

/// The part of `siginfo_t` that is ever used (its first 48 of 128 bytes).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct SignalInfo {
    /// The signal, 1 to 64.
    pub signal: u32,
    /// An errno, usually 0.
    pub errno: i32,
    /// `SI_*`, `SEGV_*`, `CLD_*` and so on: why.
    pub code: i32,
    /// 0.
    pub padding: u32,
    /// The union, see sigaction(2); use the constructors and accessors.
    pub fields: [u64; 4],
}

/// Bytes in `siginfo_t`.
pub const SIZE: usize = 128;

#[allow(missing_docs, reason = "the names are sigaction(2)'s")]
impl SignalInfo {
    pub const SI_USER: i32 = 0;
    pub const SI_KERNEL: i32 = 0x80;
    pub const SI_QUEUE: i32 = -1;
    pub const SI_TIMER: i32 = -2;
    pub const SI_MESGQ: i32 = -3;
    pub const SI_ASYNCIO: i32 = -4;
    pub const SI_SIGIO: i32 = -5;
    pub const SI_TKILL: i32 = -6;
    pub const CLD_EXITED: i32 = 1;
    pub const CLD_KILLED: i32 = 2;
    pub const CLD_DUMPED: i32 = 3;
    pub const CLD_STOPPED: i32 = 5;
    pub const CLD_CONTINUED: i32 = 6;

    /// From the kernel, without more.
    pub fn kernel(signal: u32) -> Self {
        SignalInfo { signal, code: Self::SI_KERNEL, ..Default::default() }
    }

    /// From a process: kill (SI_USER), tgkill (SI_TKILL).
    pub fn user(signal: u32, code: i32, pid: i32, uid: u32) -> Self {
        let sender = u64::from(pid as u32) | u64::from(uid) << 32;
        SignalInfo { signal, code, fields: [sender, 0, 0, 0], ..Default::default() }
    }

    /// A fault at `address`.
    pub fn fault(signal: u32, code: i32, address: usize) -> Self {
        SignalInfo { signal, code, fields: [address as u64, 0, 0, 0], ..Default::default() }
    }

    /// A child changed; times in clock ticks.
    pub fn child(code: i32, pid: i32, uid: u32, status: i32, user: u64, system: u64) -> Self {
        let who = u64::from(pid as u32) | u64::from(uid) << 32;
        let fields = [who, u64::from(status as u32), user, system];
        SignalInfo { signal: SIGCHLD, code, fields, ..Default::default() }
    }

    /// A file's state changed (SIGIO, F_SETSIG): `POLL_*`, `POLL*`, the descriptor.
    pub fn file(signal: u32, code: i32, band: u32, descriptor: i32) -> Self {
        let fields = [u64::from(band), u64::from(descriptor as u32), 0, 0];
        SignalInfo { signal, code, fields, ..Default::default() }
    }

    /// A POSIX timer expired.
    pub fn timer(signal: u32, timer: i32, overrun: i32, value: u64) -> Self {
        let which = u64::from(timer as u32) | u64::from(overrun as u32) << 32;
        SignalInfo { signal, code: Self::SI_TIMER, fields: [which, value, 0, 0], ..Default::default() }
    }

    /// The sender's pid (`si_pid`), where the code has one.
    pub fn pid(&self) -> i32 {
        self.fields[0] as i32
    }

    /// The sender's uid (`si_uid`), where the code has one.
    pub fn uid(&self) -> u32 {
        (self.fields[0] >> 32) as u32
    }

    /// The faulting address (`si_addr`), where the code has one.
    pub fn address(&self) -> u64 {
        self.fields[0]
    }

    /// As the program sees it.
    pub fn to_bytes(self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        bytes[..size_of::<Self>()].copy_from_slice(self.as_bytes());
        bytes
    }
}
