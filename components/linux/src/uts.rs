//! What the system calls itself: uname(2), the host name, /proc/sys/kernel.

use alloc::vec::Vec;

use rumpkern::{Errno, Result};
use rumpuser::sync::Mutex;

/// `sysname`.
pub const SYSTEM: &str = "Linux";
/// `release`: the Linux whose behaviour programs find here.
pub const RELEASE: &str = "6.1.0-rumprun";
/// `version`.
pub const VERSION: &str = "#1 SMP PREEMPT rumprun-bake";
/// `machine`.
pub const MACHINE: &str = "x86_64";
/// Longest host or domain name.
pub const NAME_MAX: usize = 64;

static HOST: Mutex<Vec<u8>> = Mutex::new(Vec::new());
static DOMAIN: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// The host name.
pub fn host_name() -> Vec<u8> {
    let name = HOST.lock();
    if name.is_empty() { b"localhost".to_vec() } else { name.clone() }
}

/// Sets the host name. EINVAL if it is too long.
pub fn set_host_name(name: &[u8]) -> Result<()> {
    set(&HOST, name)
}

/// The NIS domain name.
pub fn domain_name() -> Vec<u8> {
    let name = DOMAIN.lock();
    if name.is_empty() { b"(none)".to_vec() } else { name.clone() }
}

/// Sets the NIS domain name. EINVAL if it is too long.
pub fn set_domain_name(name: &[u8]) -> Result<()> {
    set(&DOMAIN, name)
}

fn set(place: &Mutex<Vec<u8>>, name: &[u8]) -> Result<()> {
    if name.len() > NAME_MAX {
        return Err(Errno::EINVAL);
    }
    *place.lock() = name.to_vec();
    Ok(())
}
