//! Resource limits (getrlimit(2)).

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// No limit.
pub const INFINITY: u64 = u64::MAX;

/// The resources, with Linux's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are getrlimit(2)'s, without RLIMIT_")]
pub enum Resource {
    Cpu = 0,
    FileSize = 1,
    Data = 2,
    Stack = 3,
    Core = 4,
    ResidentSet = 5,
    Processes = 6,
    OpenFiles = 7,
    LockedMemory = 8,
    AddressSpace = 9,
    Locks = 10,
    PendingSignals = 11,
    MessageQueue = 12,
    Nice = 13,
    RealTimePriority = 14,
    RealTimeTime = 15,
}

/// How many there are.
pub const COUNT: usize = 16;

/// `struct rlimit64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Limit {
    /// The one in force.
    pub soft: u64,
    /// What the soft one may be raised to.
    pub hard: u64,
}

/// All limits of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits(pub [Limit; COUNT]);

impl Default for Limits {
    fn default() -> Self {
        let mut limits = [Limit { soft: INFINITY, hard: INFINITY }; COUNT];
        let mut set = |resource: Resource, soft, hard| limits[resource as usize] = Limit { soft, hard };
        set(Resource::Stack, 8 << 20, INFINITY);
        set(Resource::Core, 0, INFINITY);
        set(Resource::OpenFiles, 1024, 1 << 20);
        set(Resource::Processes, 1 << 15, 1 << 15);
        set(Resource::LockedMemory, 8 << 20, 8 << 20);
        set(Resource::PendingSignals, 1024, 1024);
        set(Resource::MessageQueue, 819_200, 819_200);
        set(Resource::Nice, 0, 0);
        set(Resource::RealTimePriority, 0, 0);
        Limits(limits)
    }
}

impl Limits {
    /// The limit in force for a resource.
    pub fn soft(&self, resource: Resource) -> u64 {
        self.0[resource as usize].soft
    }
}
