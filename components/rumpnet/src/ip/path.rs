//! What is known of the MTU of paths (RFC 1191, RFC 8201): a bounded number of destinations, for a while.

use alloc::collections::BTreeMap;
use core::{
    net::IpAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use rumpuser::{NEVER, rumpuser_clock_monotonic, sync::SpinLock};

use crate::{
    route,
    service::{self, SECOND, Task},
};

/// The smallest MTU that a message may set for IPv4: less is an attack or useless (Linux's `min_pmtu`).
const LEAST4: usize = 552;
/// IPv6's minimum (RFC 8200 5).
const LEAST6: usize = 1280;
/// For how long it is believed.
const LIFETIME: u64 = 600 * SECOND;
/// The most destinations.
const LIMIT: usize = 1024;

static PATHS: SpinLock<BTreeMap<IpAddr, (usize, u64)>> = SpinLock::new(BTreeMap::new());
/// How many there are, so that most lookups take no lock.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// The MTU on the way to a destination, if it is known to be smaller than the link's.
pub fn mtu(destination: IpAddr) -> Option<usize> {
    if COUNT.load(Ordering::Relaxed) == 0 {
        return None;
    }
    let now = rumpuser_clock_monotonic();
    let mut paths = PATHS.lock();
    let &(mtu, until) = paths.get(&destination)?;
    if until > now {
        return Some(mtu);
    }
    paths.remove(&destination);
    COUNT.store(paths.len(), Ordering::Relaxed);
    None
}

/// A router says that only `mtu` bytes get through to a destination. Returns what is used from now on.
pub(crate) fn reduce(destination: IpAddr, mtu: usize) -> usize {
    let mtu = mtu.max(if destination.is_ipv4() { LEAST4 } else { LEAST6 });
    let now = rumpuser_clock_monotonic();
    {
        let mut paths = PATHS.lock();
        if paths.get(&destination).is_some_and(|&(known, until)| until > now && known <= mtu) {
            return mtu;
        }
        if paths.len() >= LIMIT {
            let oldest = paths.iter().min_by_key(|&(_, &(_, until))| until).map(|(&address, _)| address);
            if let Some(oldest) = oldest {
                paths.remove(&oldest);
            }
        }
        paths.insert(destination, (mtu, now + LIFETIME));
        COUNT.store(paths.len(), Ordering::Relaxed);
    }
    service::at(Task::Addresses, now + LIFETIME);
    route::invalidate();
    mtu
}

/// Forgets what is too old; returns when to look again.
pub(crate) fn expire(now: u64) -> u64 {
    let (gone, next) = {
        let mut paths = PATHS.lock();
        let before = paths.len();
        paths.retain(|_, &mut (_, until)| until > now);
        COUNT.store(paths.len(), Ordering::Relaxed);
        (before > paths.len(), paths.values().map(|&(_, until)| until).min().unwrap_or(NEVER))
    };
    if gone {
        // Larger packets are tried again.
        route::invalidate();
    }
    next
}

/// The MTU to try next when a router didn't say (RFC 1191 7.1).
pub(crate) fn plateau(length: usize) -> usize {
    const PLATEAUS: [usize; 8] = [32000, 17914, 8166, 4352, 2002, 1492, 1006, 576];
    PLATEAUS.into_iter().find(|&plateau| plateau < length).unwrap_or(LEAST4)
}
