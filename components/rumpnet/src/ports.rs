//! Who has which port: the registry of local addresses and ports of TCP and UDP.
//!
//! A [`Binding`] keeps its port until the last reference to it is gone; accepted connections and those in TIME-WAIT
//! share the binding of their listener, so a port stays in use for as long as Linux would say so.

use alloc::{sync::Arc, vec::Vec};
use core::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};

use rumpkern::{Errno, Result};
use rumpuser::sync::SpinLock;

use crate::tcp::hash;

/// The ports that are given out when none is asked for (`net.ipv4.ip_local_port_range`): first and last.
static EPHEMERAL: AtomicU32 = AtomicU32::new(32_768 << 16 | 60_999);

/// The first and the last port that are given out when none is asked for.
pub fn ephemeral() -> (u16, u16) {
    let range = EPHEMERAL.load(Ordering::Relaxed);
    ((range >> 16) as u16, range as u16)
}

/// Sets them. EINVAL if there are none.
pub fn set_ephemeral(first: u16, last: u16) -> Result<()> {
    if first == 0 || first > last {
        return Err(Errno::EINVAL);
    }
    EPHEMERAL.store(u32::from(first) << 16 | u32::from(last), Ordering::Relaxed);
    Ok(())
}

/// A port belongs to one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The address, or the unspecified one of the socket's family. Never an IPv4 address in its mapped form.
    pub address: IpAddr,
    /// The port; 0 for any of the ephemeral range.
    pub port: u16,
    /// The interface's index (SO_BINDTODEVICE, a link-local scope), or 0.
    pub interface: u32,
    /// IPV6_V6ONLY: the unspecified IPv6 address leaves IPv4 alone.
    pub version6_only: bool,
    /// SO_REUSEADDR.
    pub reuse_address: bool,
    /// SO_REUSEPORT.
    pub reuse_port: bool,
    /// The effective user: only the same one shares a port by SO_REUSEPORT.
    pub user: u32,
}

impl Request {
    /// For an address and port, without options.
    pub fn new(protocol: Protocol, address: SocketAddr) -> Self {
        Request {
            protocol,
            address: address.ip(),
            port: address.port(),
            interface: 0,
            version6_only: false,
            reuse_address: false,
            reuse_port: false,
            user: 0,
        }
    }
}

#[derive(Debug)]
struct Record {
    request: Request,
    reuse_address: AtomicBool,
    reuse_port: AtomicBool,
    listening: AtomicBool,
    /// Picked for a connection to one remote address: connections to others may share the port.
    for_connection: bool,
}

const BUCKETS: usize = 128;

/// The bindings of all ports with the same remainder.
type Bucket = SpinLock<Vec<Arc<Record>>>;

static TCP: [Bucket; BUCKETS] = [const { SpinLock::new(Vec::new()) }; BUCKETS];
static UDP: [Bucket; BUCKETS] = [const { SpinLock::new(Vec::new()) }; BUCKETS];

fn bucket(protocol: Protocol, port: u16) -> &'static Bucket {
    let table = match protocol {
        Protocol::Tcp => &TCP,
        Protocol::Udp => &UDP,
    };
    &table[usize::from(port) % BUCKETS]
}

/// A local address and port that is in use until this is dropped.
#[derive(Debug)]
pub struct Binding {
    record: Arc<Record>,
}

impl Binding {
    /// The port.
    pub fn port(&self) -> u16 {
        self.record.request.port
    }

    /// The address it was bound to.
    pub fn address(&self) -> IpAddr {
        self.record.request.address
    }

    /// Sets SO_REUSEADDR and SO_REUSEPORT for those who want the port later.
    pub fn set_reuse(&self, address: bool, port: bool) {
        self.record.reuse_address.store(address, Ordering::Relaxed);
        self.record.reuse_port.store(port, Ordering::Relaxed);
    }

    /// A socket begins or ends to listen here. EADDRINUSE if another one that shares the port by SO_REUSEADDR listens.
    pub fn set_listening(&self, listening: bool) -> Result<()> {
        let record = &self.record;
        let records = bucket(record.request.protocol, record.request.port).lock();
        record.listening.store(listening, Ordering::Relaxed);
        let conflicts = |other: &Arc<Record>| !Arc::ptr_eq(other, record) && record.conflicts(other);
        if listening && records.iter().any(conflicts) {
            record.listening.store(false, Ordering::Relaxed);
            return Err(Errno::EADDRINUSE);
        }
        Ok(())
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        let mut records = bucket(self.record.request.protocol, self.record.request.port).lock();
        if let Some(index) = records.iter().position(|record| Arc::ptr_eq(record, &self.record)) {
            records.swap_remove(index);
        }
    }
}

fn overlap(one: &Request, other: &Request) -> bool {
    let covers = |wide: &Request, narrow: &Request| match (wide.address, narrow.address) {
        (IpAddr::V4(address), IpAddr::V4(_)) => address.is_unspecified(),
        (IpAddr::V6(address), IpAddr::V6(_)) => address.is_unspecified(),
        (IpAddr::V6(address), IpAddr::V4(_)) => address.is_unspecified() && !wide.version6_only,
        (IpAddr::V4(_), IpAddr::V6(_)) => false,
    };
    one.port == other.port
        && (one.interface == other.interface || one.interface == 0 || other.interface == 0)
        && (one.address == other.address || covers(one, other) || covers(other, one))
}

impl Record {
    /// Whether `other`, which was there before, stands in the way.
    fn conflicts(&self, other: &Record) -> bool {
        if !overlap(&self.request, &other.request) || self.for_connection && other.for_connection {
            return false;
        }
        let both = |flag: fn(&Record) -> &AtomicBool| {
            flag(self).load(Ordering::Relaxed) && flag(other).load(Ordering::Relaxed)
        };
        if both(|record| &record.reuse_port) && self.request.user == other.request.user {
            return false;
        }
        !both(|record| &record.reuse_address) || other.listening.load(Ordering::Relaxed)
    }
}

fn claim(request: &Request, for_connection: bool) -> Option<Arc<Binding>> {
    let record = Arc::new(Record {
        request: *request,
        reuse_address: AtomicBool::new(request.reuse_address),
        reuse_port: AtomicBool::new(request.reuse_port),
        listening: AtomicBool::new(false),
        for_connection,
    });
    let mut records = bucket(request.protocol, request.port).lock();
    if records.iter().any(|other| record.conflicts(other)) {
        return None;
    }
    records.push(record.clone());
    drop(records);
    Some(Arc::new(Binding { record }))
}

/// Where in the range the search for a free port starts (RFC 6056, section 3.3.4: a keyed hash of whom it is for, and
/// a counter, so that ports are neither predictable nor reused soon).
fn start(local: IpAddr, remote: Option<SocketAddr>) -> u32 {
    static USED: [AtomicU32; 16] = [const { AtomicU32::new(0) }; 16];
    let [low, high] = hash::address_words(local);
    let (remote_words, remote_port) = match remote {
        Some(remote) => (hash::address_words(remote.ip()), remote.port()),
        None => ([0, 0], 0),
    };
    let sum = hash::keyed(&[low, high, remote_words[0], remote_words[1], u64::from(remote_port)]);
    let used = USED[(sum >> 60) as usize].fetch_add(1, Ordering::Relaxed);
    (sum as u32 >> 1).wrapping_add(used)
}

fn search(first: u32, mut try_port: impl FnMut(u16) -> Option<Arc<Binding>>) -> Option<Arc<Binding>> {
    let (lowest, highest) = ephemeral();
    let count = u32::from(highest - lowest) + 1;
    (0..count).map(|step| lowest + (first.wrapping_add(step) % count) as u16).find_map(&mut try_port)
}

/// Binds an address and port. EADDRINUSE if another binding stands in the way, or with port 0, if no port is free.
pub fn bind(request: &Request) -> Result<Arc<Binding>> {
    if request.port != 0 {
        return claim(request, false).ok_or(Errno::EADDRINUSE);
    }
    // A port that nobody else has, even where the options would let it be shared.
    let first = start(request.address, None);
    let alone = |port| Request { port, reuse_address: false, reuse_port: false, ..*request };
    let binding = search(first, |port| claim(&alone(port), false)).ok_or(Errno::EADDRINUSE)?;
    binding.set_reuse(request.reuse_address, request.reuse_port);
    Ok(binding)
}

/// A port of the ephemeral range for a connection from `request.address` (its port is ignored) to `remote`. Ports are
/// shared with connections to other places: `taken` says whether a connection between the two exists already with
/// that local port. EADDRNOTAVAIL if there is none.
pub fn bind_connection(
    request: &Request,
    remote: SocketAddr,
    mut taken: impl FnMut(u16) -> bool,
) -> Result<Arc<Binding>> {
    search(start(request.address, Some(remote)), |port| {
        if taken(port) {
            return None;
        }
        claim(&Request { port, reuse_address: false, reuse_port: false, ..*request }, true)
    })
    .ok_or(Errno::EADDRNOTAVAIL)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(address: &str) -> Request {
        Request::new(Protocol::Tcp, address.parse().unwrap())
    }

    fn in_use(request: &Request) -> bool {
        match bind(request) {
            Ok(_) => false,
            Err(error) => {
                assert_eq!(error, Errno::EADDRINUSE);
                true
            }
        }
    }

    #[test]
    fn addresses_of_one_port_conflict_where_they_overlap() {
        let specific = bind(&request("10.0.0.1:1001")).unwrap();
        assert!(in_use(&request("10.0.0.1:1001")));
        assert!(in_use(&request("0.0.0.0:1001")));
        assert!(in_use(&request("[::]:1001")));
        assert!(!in_use(&Request { version6_only: true, ..request("[::]:1001") }));
        assert!(!in_use(&request("10.0.0.2:1001")));
        assert!(!in_use(&request("10.0.0.1:1002")));
        assert!(!in_use(&Request { protocol: Protocol::Udp, ..request("10.0.0.1:1001") }));
        drop(specific);
        assert!(!in_use(&request("[::]:1001")));

        let wide = bind(&Request { version6_only: true, ..request("[::]:1003") }).unwrap();
        assert!(!in_use(&request("0.0.0.0:1003")));
        assert!(in_use(&request("[fe80::1]:1003")));
        drop(wide);

        let bound = Request { interface: 2, ..request("0.0.0.0:1004") };
        let _bound = bind(&bound).unwrap();
        assert!(!in_use(&Request { interface: 3, ..bound }));
        assert!(in_use(&Request { interface: 0, ..bound }));
    }

    #[test]
    fn reuse_address_shares_until_somebody_listens() {
        let shared = Request { reuse_address: true, ..request("0.0.0.0:1010") };
        let first = bind(&shared).unwrap();
        assert!(in_use(&request("0.0.0.0:1010")));
        let second = bind(&shared).unwrap();
        first.set_listening(true).unwrap();
        assert_eq!(second.set_listening(true), Err(Errno::EADDRINUSE));
        assert!(in_use(&shared));
        // What the listener leaves behind (connections in TIME-WAIT share its binding) is no obstacle.
        first.set_listening(false).unwrap();
        assert!(!in_use(&shared));
    }

    #[test]
    fn reuse_port_shares_with_the_same_user_only() {
        let shared = Request { reuse_port: true, user: 7, ..request("[::]:1020") };
        let first = bind(&shared).unwrap();
        let second = bind(&shared).unwrap();
        first.set_listening(true).unwrap();
        second.set_listening(true).unwrap();
        assert!(!in_use(&shared));
        assert!(in_use(&Request { user: 8, ..shared }));
        assert!(in_use(&Request { reuse_port: false, ..shared }));
    }

    #[test]
    fn connections_share_ports_and_sockets_dont() {
        let remote = "10.0.0.9:80".parse().unwrap();
        let mut bindings = Vec::new();
        let mut seen = Vec::new();
        for _ in 0..200 {
            let binding =
                bind_connection(&request("10.0.0.1:0"), remote, |port| seen.contains(&port)).unwrap();
            let (first, last) = ephemeral();
            assert!((first..=last).contains(&binding.port()));
            seen.push(binding.port());
            bindings.push(binding);
        }
        let port = seen[0];
        let elsewhere =
            bind_connection(&request("10.0.0.1:0"), "10.0.0.8:80".parse().unwrap(), |other| other != port);
        assert_eq!(elsewhere.unwrap().port(), port);
        assert!(in_use(&Request { port, ..request("0.0.0.0:0") }));
        let picked: Vec<_> = (0..200).map(|_| bind(&request("10.0.0.1:0")).unwrap()).collect();
        assert!(picked.iter().all(|binding| !seen.contains(&binding.port())));
        let none = bind_connection(&request("10.0.0.1:0"), remote, |_| true);
        assert_eq!(none.unwrap_err(), Errno::EADDRNOTAVAIL);
    }
}
