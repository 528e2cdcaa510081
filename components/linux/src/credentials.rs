//! Who a task is: user and group identifiers, supplementary groups, capabilities.

use alloc::vec::Vec;

/// Every capability that Linux 6.1 knows (CAP_LAST_CAP is 40).
pub const ALL_CAPABILITIES: u64 = (1 << 41) - 1;

/// See the module. Immutable once published; a change makes a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are credentials(7)'s")]
pub struct Credentials {
    pub uid: u32,
    pub euid: u32,
    pub suid: u32,
    pub fsuid: u32,
    pub gid: u32,
    pub egid: u32,
    pub sgid: u32,
    pub fsgid: u32,
    pub groups: Vec<u32>,
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub bounding: u64,
    pub ambient: u64,
}

impl Default for Credentials {
    /// The superuser's.
    fn default() -> Self {
        Credentials {
            uid: 0,
            euid: 0,
            suid: 0,
            fsuid: 0,
            gid: 0,
            egid: 0,
            sgid: 0,
            fsgid: 0,
            groups: Vec::new(),
            effective: ALL_CAPABILITIES,
            permitted: ALL_CAPABILITIES,
            inheritable: 0,
            bounding: ALL_CAPABILITIES,
            ambient: 0,
        }
    }
}

impl Credentials {
    /// Whether the effective set has capability number `capability`.
    pub fn capable(&self, capability: u32) -> bool {
        self.effective >> capability & 1 == 1
    }

    /// Whether the file system group or a supplementary group is `gid`.
    pub fn in_group(&self, gid: u32) -> bool {
        self.fsgid == gid || self.groups.contains(&gid)
    }
}
