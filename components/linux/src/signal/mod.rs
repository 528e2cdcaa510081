//! Signals: numbers and sets here; actions, queues, delivery and the calls in the files beside.

pub mod action;
pub mod calls;
pub mod deliver;
pub mod frame;
pub mod info;
pub mod queue;
pub mod send;

pub use action::{Action, Actions};
pub use info::SignalInfo;

/// Signal numbers.
#[allow(missing_docs, reason = "the names are signal(7)'s")]
pub mod number {
    pub const SIGHUP: u32 = 1;
    pub const SIGINT: u32 = 2;
    pub const SIGQUIT: u32 = 3;
    pub const SIGILL: u32 = 4;
    pub const SIGTRAP: u32 = 5;
    pub const SIGABRT: u32 = 6;
    pub const SIGBUS: u32 = 7;
    pub const SIGFPE: u32 = 8;
    pub const SIGKILL: u32 = 9;
    pub const SIGUSR1: u32 = 10;
    pub const SIGSEGV: u32 = 11;
    pub const SIGUSR2: u32 = 12;
    pub const SIGPIPE: u32 = 13;
    pub const SIGALRM: u32 = 14;
    pub const SIGTERM: u32 = 15;
    pub const SIGSTKFLT: u32 = 16;
    pub const SIGCHLD: u32 = 17;
    pub const SIGCONT: u32 = 18;
    pub const SIGSTOP: u32 = 19;
    pub const SIGTSTP: u32 = 20;
    pub const SIGTTIN: u32 = 21;
    pub const SIGTTOU: u32 = 22;
    pub const SIGURG: u32 = 23;
    pub const SIGXCPU: u32 = 24;
    pub const SIGXFSZ: u32 = 25;
    pub const SIGVTALRM: u32 = 26;
    pub const SIGPROF: u32 = 27;
    pub const SIGWINCH: u32 = 28;
    pub const SIGIO: u32 = 29;
    pub const SIGPWR: u32 = 30;
    pub const SIGSYS: u32 = 31;
    /// The first real-time signal.
    pub const SIGRTMIN: u32 = 32;
    /// The last signal.
    pub const SIGRTMAX: u32 = 64;
}

/// The names of the standard signals, for messages.
pub fn name(signal: u32) -> &'static str {
    const NAMES: [&str; 32] = [
        "signal 0",
        "SIGHUP",
        "SIGINT",
        "SIGQUIT",
        "SIGILL",
        "SIGTRAP",
        "SIGABRT",
        "SIGBUS",
        "SIGFPE",
        "SIGKILL",
        "SIGUSR1",
        "SIGSEGV",
        "SIGUSR2",
        "SIGPIPE",
        "SIGALRM",
        "SIGTERM",
        "SIGSTKFLT",
        "SIGCHLD",
        "SIGCONT",
        "SIGSTOP",
        "SIGTSTP",
        "SIGTTIN",
        "SIGTTOU",
        "SIGURG",
        "SIGXCPU",
        "SIGXFSZ",
        "SIGVTALRM",
        "SIGPROF",
        "SIGWINCH",
        "SIGIO",
        "SIGPWR",
        "SIGSYS",
    ];
    NAMES.get(signal as usize).copied().unwrap_or("a real-time signal")
}

/// A set of signals, bit `n - 1` for signal `n`, as the kernel's `sigset_t`.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable,
)]
#[repr(transparent)]
pub struct SignalSet(pub u64);

impl SignalSet {
    /// No signal.
    pub const EMPTY: SignalSet = SignalSet(0);
    /// Those that cannot be blocked, caught or ignored.
    pub const UNBLOCKABLE: SignalSet = SignalSet::of(&[number::SIGKILL, number::SIGSTOP]);
    /// Those whose default action stops the process.
    pub const STOPPING: SignalSet =
        SignalSet::of(&[number::SIGSTOP, number::SIGTSTP, number::SIGTTIN, number::SIGTTOU]);
    /// Those that the program's own instructions raise; delivered before others.
    pub const SYNCHRONOUS: SignalSet = SignalSet::of(&[
        number::SIGSEGV,
        number::SIGBUS,
        number::SIGILL,
        number::SIGTRAP,
        number::SIGFPE,
        number::SIGSYS,
    ]);

    /// The set of some signals.
    pub const fn of(signals: &[u32]) -> Self {
        let mut bits = 0;
        let mut index = 0;
        while index < signals.len() {
            bits |= 1 << (signals[index] - 1);
            index += 1;
        }
        SignalSet(bits)
    }

    /// Whether `signal` (1 to 64) is in it.
    pub fn contains(self, signal: u32) -> bool {
        self.0 >> (signal - 1) & 1 == 1
    }

    /// With `signal`.
    pub fn with(self, signal: u32) -> Self {
        SignalSet(self.0 | 1 << (signal - 1))
    }

    /// Without `signal`.
    pub fn without(self, signal: u32) -> Self {
        SignalSet(self.0 & !(1 << (signal - 1)))
    }

    /// In both.
    pub fn and(self, other: Self) -> Self {
        SignalSet(self.0 & other.0)
    }

    /// In either.
    pub fn or(self, other: Self) -> Self {
        SignalSet(self.0 | other.0)
    }

    /// In this one only.
    pub fn minus(self, other: Self) -> Self {
        SignalSet(self.0 & !other.0)
    }

    /// Whether it has none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The signal to deliver first: synchronous ones, then by number.
    pub fn first(self) -> Option<u32> {
        let urgent = self.and(Self::SYNCHRONOUS);
        let set = if urgent.is_empty() { self } else { urgent };
        (!set.is_empty()).then(|| set.0.trailing_zeros() + 1)
    }
}
