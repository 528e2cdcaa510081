//! Whose a connection or listener is, for lists of sockets.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

/// The socket that holds a connection or listener.
#[derive(Debug, Default)]
pub struct Owner {
    inode: AtomicU64,
    uid: AtomicU32,
    version6: AtomicBool,
}

impl Owner {
    /// A socket of a user takes it; with 0 as inode, it lets go. `version6`: the socket is of IPv6.
    pub fn set(&self, inode: u64, uid: u32, version6: bool) {
        self.inode.store(inode, Relaxed);
        self.uid.store(uid, Relaxed);
        self.version6.store(version6, Relaxed);
    }

    /// The socket's inode; 0 if nobody holds it any more.
    pub fn inode(&self) -> u64 {
        self.inode.load(Relaxed)
    }

    /// The user.
    pub fn uid(&self) -> u32 {
        self.uid.load(Relaxed)
    }

    /// Whether the socket is of IPv6.
    pub fn is_version6(&self) -> bool {
        self.version6.load(Relaxed)
    }
}
