//! Packets: every parser of the internet layer's headers and messages.
#![no_main]

use rumpnet::{configuration, icmp, ip, multicast, neighbour};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    icmp::fuzz(bytes);
    ip::error::fuzz(bytes);
    neighbour::arp::fuzz(bytes);
    neighbour::discovery::fuzz(bytes);
    multicast::igmp::fuzz(bytes);
    multicast::mld::fuzz(bytes);
    configuration::dhcp::fuzz(bytes);
    configuration::slaac::fuzz(bytes);
});
