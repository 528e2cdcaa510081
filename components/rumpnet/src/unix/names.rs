//! Which socket has which address.

use alloc::{
    collections::BTreeMap,
    format,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::{AtomicU32, Ordering};

use rumpkern::{Errno, Result};
use rumpuser::sync::Mutex;
use rumpvfs::vnode::Vnode;

use super::UnixSocket;
use crate::socket::Address;

static ABSTRACT: Mutex<BTreeMap<Vec<u8>, Weak<UnixSocket>>> = Mutex::new(BTreeMap::new());
/// By the device and inode number of the socket's name in a file system.
static PATHS: Mutex<BTreeMap<(u64, u64), Weak<UnixSocket>>> = Mutex::new(BTreeMap::new());

fn identity(vnode: &Arc<dyn Vnode>) -> Result<(u64, u64)> {
    let attributes = vnode.attributes()?;
    Ok((attributes.device, attributes.inode))
}

/// Gives a socket an address. EADDRINUSE if another has it.
pub fn register(address: &Address, socket: &Weak<UnixSocket>) -> Result<()> {
    match address {
        Address::Abstract(name) => {
            let mut names = ABSTRACT.lock();
            if names.get(name).is_some_and(|other| other.strong_count() > 0) {
                return Err(Errno::EADDRINUSE);
            }
            names.insert(name.clone(), socket.clone());
        }
        Address::Path(_, vnode) => {
            let identity = identity(vnode)?;
            PATHS.lock().insert(identity, socket.clone());
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

/// A free abstract address (autobind: five hexadecimal digits).
pub fn register_any(socket: &Weak<UnixSocket>) -> Result<Address> {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    for _ in 0..1 << 20 {
        let number = NEXT.fetch_add(1, Ordering::Relaxed) & 0xf_ffff;
        let address = Address::Abstract(format!("{number:05x}").into_bytes());
        match register(&address, socket) {
            Err(Errno::EADDRINUSE) => {}
            Err(error) => return Err(error),
            Ok(()) => return Ok(address),
        }
    }
    Err(Errno::ENOSPC)
}

/// Takes a socket's address away.
pub fn unregister(address: &Address, socket: &UnixSocket) {
    let is_ours = |other: &Weak<UnixSocket>| core::ptr::eq(other.as_ptr(), socket);
    match address {
        Address::Abstract(name) => {
            let mut names = ABSTRACT.lock();
            if names.get(name).is_some_and(is_ours) {
                names.remove(name);
            }
        }
        Address::Path(_, vnode) => {
            if let Ok(identity) = identity(vnode) {
                let mut paths = PATHS.lock();
                if paths.get(&identity).is_some_and(is_ours) {
                    paths.remove(&identity);
                }
            }
        }
        _ => {}
    }
}

/// The socket at an address. ECONNREFUSED if there is none.
pub fn find(address: &Address) -> Result<Arc<UnixSocket>> {
    let found = match address {
        Address::Abstract(name) => ABSTRACT.lock().get(name).and_then(Weak::upgrade),
        Address::Path(_, vnode) => {
            let identity = identity(vnode)?;
            PATHS.lock().get(&identity).and_then(Weak::upgrade)
        }
        _ => return Err(Errno::EINVAL),
    };
    found.ok_or(Errno::ECONNREFUSED)
}
