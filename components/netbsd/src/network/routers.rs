//! Router solicitation (RFC 4861 section 6.3.7): IPv6's addresses and routers come from advertisements, which the kernel
//! handles; that they come at once has to be asked for.

use alloc::{boxed::Box, string::String, vec::Vec};
use core::{ffi::c_int, net::Ipv6Addr};

use netconfig::SECOND;
use rumpuser::{CpuSet, rumpuser_clock_monotonic, rumpuser_park};

use super::{
    addresses::{self, INET6},
    interfaces::{Interface, RAW},
};
use crate::{errno::Errno, kernel, kernel::Descriptor, thread};

/// `IPPROTO_ICMPV6`, `IPPROTO_IPV6`.
const ICMP6: c_int = 58;
const IP6: c_int = 41;
/// `IPV6_MULTICAST_IF`, `IPV6_MULTICAST_HOPS`.
const MULTICAST_INTERFACE: c_int = 9;
const MULTICAST_HOPS: c_int = 10;
/// Routers want to see that a solicitation came over no other router.
const HOPS: u32 = 255;
/// All routers on the link.
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// A router solicitation (RFC 4861 section 4.1) without options; the kernel adds the checksum.
const SOLICITATION: [u8; 8] = [133, 0, 0, 0, 0, 0, 0, 0];
/// How many are sent, and the pauses between them (RFC 4861 section 10).
const COUNT: u32 = 3;
const INTERVAL: u64 = 4 * SECOND;
/// Until the link-local address can be used, after it was checked to be nobody else's.
const SOON: u64 = SECOND / 10;
/// How long that is waited for.
const PATIENCE: u64 = 10 * SECOND;

/// Starts to ask routers on these interfaces, if the kernel has IPv6.
pub fn start(interfaces: Vec<Interface>) {
    let main = move || {
        kernel::become_process();
        solicit(&interfaces);
        kernel::leave_process();
    };
    // Without the thread routers' own, regular advertisements do it.
    let _ = thread::spawn(String::from("routers"), CpuSet::MAX, Box::new(main));
}

fn solicit(interfaces: &[Interface]) {
    let mut sent: Vec<u32> = interfaces.iter().map(|_| 0).collect();
    let began = rumpuser_clock_monotonic();
    let Ok(socket) = Descriptor::socket(INET6, RAW, ICMP6) else { return };
    let mut next = began;
    while sent.iter().any(|&count| count < COUNT) {
        let now = rumpuser_clock_monotonic();
        if now < next {
            rumpuser_park(next);
            continue;
        }
        let mut failed = false;
        for (interface, count) in interfaces.iter().zip(&mut sent) {
            match ask(&socket, interface) {
                Ok(()) => *count += 1,
                Err(_) => failed = true,
            }
        }
        if failed && now > began + PATIENCE {
            return;
        }
        next = now + if failed && sent.iter().all(|&count| count == 0) { SOON } else { INTERVAL };
    }
}

fn ask(socket: &Descriptor, interface: &Interface) -> Result<(), Errno> {
    socket.set_option(IP6, MULTICAST_INTERFACE, &interface.index.to_le_bytes())?;
    socket.set_option(IP6, MULTICAST_HOPS, &HOPS.to_le_bytes())?;
    socket.send_to(&SOLICITATION, &addresses::inet6(ALL_ROUTERS, interface.index)).map(|_| ())
}
