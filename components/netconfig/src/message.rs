//! DHCP messages (RFC 2131 section 2, RFC 2132).

use alloc::{string::String, vec::Vec};
use core::net::Ipv4Addr;

use smoltcp::wire::{DhcpMessageType, DhcpOpCode, DhcpPacket};

use crate::{HardwareAddress, resolver};

/// The server's UDP port.
pub const SERVER_PORT: u16 = 67;
/// The client's UDP port.
pub const CLIENT_PORT: u16 = 68;

/// Where options begin: behind the fixed fields and the magic number.
const OPTIONS: usize = 240;
/// Relay agents may rely on this length (RFC 951).
const LEAST_LENGTH: usize = 300;

/// Options, by their numbers.
mod option {
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const NAME_SERVER: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const DOMAIN: u8 = 15;
    pub const MTU: u8 = 26;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER: u8 = 54;
    pub const WANTED: u8 = 55;
    pub const LARGEST_MESSAGE: u8 = 57;
    pub const RENEWAL_TIME: u8 = 58;
    pub const REBINDING_TIME: u8 = 59;
    pub const CLIENT: u8 = 61;
    pub const CLASSLESS_ROUTES: u8 = 121;
    pub const END: u8 = 255;
}

/// The most routers, name servers and routes of a lease.
const LIST: usize = 16;

/// What the client says.
pub struct Request<'a> {
    /// DISCOVER, REQUEST, DECLINE.
    pub kind: DhcpMessageType,
    /// Chosen by the client for an exchange.
    pub transaction: u32,
    /// Seconds since the client began.
    pub seconds: u16,
    /// Its hardware address.
    pub hardware: HardwareAddress,
    /// The address that it has (unspecified: none).
    pub address: Ipv4Addr,
    /// The address that it wants.
    pub wanted: Option<Ipv4Addr>,
    /// The server that it talks to.
    pub server: Option<Ipv4Addr>,
    /// Its host name.
    pub host_name: &'a str,
}

impl Request<'_> {
    /// The message.
    pub fn render(&self) -> Vec<u8> {
        let mut bytes = alloc::vec![0; OPTIONS];
        // BOOTREQUEST over Ethernet.
        bytes[..3].copy_from_slice(&[1, 1, 6]);
        bytes[4..8].copy_from_slice(&self.transaction.to_be_bytes());
        bytes[8..10].copy_from_slice(&self.seconds.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.address.octets());
        bytes[28..34].copy_from_slice(&self.hardware);
        bytes[236..240].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
        let mut add = |kind: u8, value: &[u8]| {
            bytes.extend_from_slice(&[kind, value.len() as u8]);
            bytes.extend_from_slice(value);
        };
        add(option::MESSAGE_TYPE, &[self.kind.into()]);
        let mut client = [1; 7];
        client[1..].copy_from_slice(&self.hardware);
        add(option::CLIENT, &client);
        if let Some(wanted) = self.wanted {
            add(option::REQUESTED_ADDRESS, &wanted.octets());
        }
        if let Some(server) = self.server {
            add(option::SERVER, &server.octets());
        }
        if self.kind != DhcpMessageType::Decline {
            add(option::LARGEST_MESSAGE, &1500u16.to_be_bytes());
            if !self.host_name.is_empty() && self.host_name.len() < 64 {
                add(option::HOST_NAME, self.host_name.as_bytes());
            }
            add(
                option::WANTED,
                &[
                    option::SUBNET_MASK,
                    option::CLASSLESS_ROUTES,
                    option::ROUTER,
                    option::NAME_SERVER,
                    option::DOMAIN,
                    option::MTU,
                    option::LEASE_TIME,
                    option::RENEWAL_TIME,
                    option::REBINDING_TIME,
                ],
            );
        }
        bytes.push(option::END);
        bytes.resize(bytes.len().max(LEAST_LENGTH), 0);
        bytes
    }
}

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// OFFER, ACK or NAK.
    pub kind: DhcpMessageType,
    /// As in the request.
    pub transaction: u32,
    /// The client that it is for.
    pub hardware: HardwareAddress,
    /// The server.
    pub server: Option<Ipv4Addr>,
    /// The address and all that comes with it.
    pub lease: Lease,
}

/// What a server lends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// Bits of the subnet.
    pub prefix: u8,
    /// Default routers.
    pub routers: Vec<Ipv4Addr>,
    /// Routes: destination, prefix, router (unspecified: on the link). If there are any, `routers` is void (RFC 3442).
    pub routes: Vec<(Ipv4Addr, u8, Ipv4Addr)>,
    /// Name servers.
    pub name_servers: Vec<Ipv4Addr>,
    /// The domain.
    pub domain: Option<String>,
    /// The MTU.
    pub mtu: Option<usize>,
    /// Seconds; `u32::MAX` is for ever.
    pub lifetime: u32,
    /// Seconds until it is to be renewed.
    pub renewal: Option<u32>,
    /// Seconds until any server is asked.
    pub rebinding: Option<u32>,
}

impl Lease {
    /// Whether an address is in the lease's subnet.
    pub fn is_on_link(&self, address: Ipv4Addr) -> bool {
        (self.address.to_bits() ^ address.to_bits()).leading_zeros() >= self.prefix.min(32).into()
    }
}

impl Reply {
    /// Reads a UDP payload. `None` if it is no reply of a server, or malformed.
    pub fn parse(bytes: &[u8]) -> Option<Reply> {
        let packet = DhcpPacket::new_checked(bytes).ok()?;
        if packet.opcode() != DhcpOpCode::Reply || packet.magic_number() != 0x6382_5363 {
            return None;
        }
        let mut kind = None;
        let mut server = None;
        let mut lease = Lease {
            address: packet.your_ip(),
            prefix: classful_prefix(packet.your_ip()),
            routers: Vec::new(),
            routes: Vec::new(),
            name_servers: Vec::new(),
            domain: None,
            mtu: None,
            lifetime: u32::MAX,
            renewal: None,
            rebinding: None,
        };
        for option in packet.options() {
            let data = option.data;
            match option.kind {
                option::MESSAGE_TYPE => kind = data.first().map(|&byte| DhcpMessageType::from(byte)),
                option::SERVER => server = addresses(data).next(),
                option::SUBNET_MASK => {
                    let mask = addresses(data).next()?.to_bits();
                    if mask.count_ones() != mask.leading_ones() {
                        return None;
                    }
                    lease.prefix = mask.leading_ones() as u8;
                }
                option::ROUTER => lease.routers = addresses(data).take(LIST).collect(),
                option::NAME_SERVER => lease.name_servers = addresses(data).take(LIST).collect(),
                option::DOMAIN => lease.domain = domain(data),
                option::MTU => lease.mtu = data.first_chunk().map(|&word| u16::from_be_bytes(word).into()),
                option::LEASE_TIME => lease.lifetime = word(data)?,
                option::RENEWAL_TIME => lease.renewal = word(data),
                option::REBINDING_TIME => lease.rebinding = word(data),
                option::CLASSLESS_ROUTES => lease.routes = classless_routes(data)?,
                _ => {}
            }
        }
        Some(Reply {
            kind: kind?,
            transaction: packet.transaction_id(),
            hardware: packet.client_hardware_address().0,
            server,
            lease,
        })
    }
}

fn word(data: &[u8]) -> Option<u32> {
    data.first_chunk().map(|&word| u32::from_be_bytes(word))
}

/// Addresses that a machine can have.
fn addresses(data: &[u8]) -> impl Iterator<Item = Ipv4Addr> {
    data.chunks_exact(4).map(|chunk| Ipv4Addr::new(chunk[0], chunk[1], chunk[2], chunk[3]))
}

/// A domain name; only what a resolver can use.
fn domain(data: &[u8]) -> Option<String> {
    let text = data.strip_suffix(&[0]).unwrap_or(data);
    resolver::is_domain(text).then(|| text.iter().map(|&byte| char::from(byte)).collect())
}

/// RFC 3442.
fn classless_routes(mut data: &[u8]) -> Option<Vec<(Ipv4Addr, u8, Ipv4Addr)>> {
    let mut routes = Vec::new();
    while let [prefix, rest @ ..] = data {
        let length = usize::from(prefix.div_ceil(8));
        if *prefix > 32 {
            return None;
        }
        let (network, rest) = rest.split_at_checked(length)?;
        let (router, rest) = rest.split_at_checked(4)?;
        let mut octets = [0; 4];
        octets[..length].copy_from_slice(network);
        let router = addresses(router).next()?;
        if routes.len() < LIST {
            routes.push((octets.into(), *prefix, router));
        }
        data = rest;
    }
    Some(routes)
}

/// The subnet of an address when nobody says (RFC 791).
fn classful_prefix(address: Ipv4Addr) -> u8 {
    match address.octets()[0] {
        0..128 => 8,
        128..192 => 16,
        _ => 24,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A reply with some options.
    pub fn reply(kind: u8, transaction: u32, address: [u8; 4], options: &[(u8, &[u8])]) -> Vec<u8> {
        let mut bytes = alloc::vec![0; OPTIONS];
        bytes[..3].copy_from_slice(&[2, 1, 6]);
        bytes[4..8].copy_from_slice(&transaction.to_be_bytes());
        bytes[16..20].copy_from_slice(&address);
        bytes[28..34].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
        bytes[236..240].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
        bytes.extend_from_slice(&[53, 1, kind]);
        for (number, data) in options {
            bytes.extend_from_slice(&[*number, data.len() as u8]);
            bytes.extend_from_slice(data);
        }
        bytes.push(255);
        bytes
    }

    #[test]
    fn replies_are_read() {
        let options: [(u8, &[u8]); 9] = [
            (1, &[255, 255, 240, 0]),
            (3, &[10, 0, 0, 1, 10, 0, 0, 2]),
            (6, &[10, 0, 0, 3]),
            (15, b"example.org\0"),
            (26, &[5, 0xdc]),
            (51, &[0, 0, 14, 16]),
            (54, &[10, 0, 0, 4]),
            (121, &[24, 192, 168, 7, 10, 0, 0, 9, 0, 10, 0, 0, 1]),
            (42, &[1, 2, 3, 4]),
        ];
        let reply = Reply::parse(&reply(5, 77, [10, 0, 3, 4], &options)).unwrap();
        assert_eq!((reply.kind, reply.transaction), (DhcpMessageType::Ack, 77));
        assert_eq!(reply.server, Some(Ipv4Addr::new(10, 0, 0, 4)));
        let lease = reply.lease;
        assert_eq!((lease.address, lease.prefix), (Ipv4Addr::new(10, 0, 3, 4), 20));
        assert_eq!(lease.routers.len(), 2);
        assert_eq!(lease.domain.as_deref(), Some("example.org"));
        assert_eq!((lease.mtu, lease.lifetime), (Some(1500), 3600));
        let router = Ipv4Addr::new(10, 0, 0, 9);
        assert_eq!(lease.routes[0], (Ipv4Addr::new(192, 168, 7, 0), 24, router));
        assert_eq!(lease.routes[1], (Ipv4Addr::UNSPECIFIED, 0, Ipv4Addr::new(10, 0, 0, 1)));
    }

    #[test]
    fn malformed_replies_are_not() {
        let good = reply(2, 1, [10, 0, 0, 9], &[(1, &[255, 255, 255, 0])]);
        assert!(Reply::parse(&good).is_some());
        assert!(Reply::parse(&good[..239]).is_none());
        assert!(Reply::parse(&good[..240]).is_none());
        assert!(Reply::parse(&reply(2, 1, [10, 0, 0, 9], &[(1, &[255, 0, 255, 0])])).is_none());
        assert!(Reply::parse(&reply(2, 1, [10, 0, 0, 9], &[(121, &[33, 1, 2])])).is_none());
        assert!(Reply::parse(&reply(2, 1, [10, 0, 0, 9], &[(121, &[24, 1, 2])])).is_none());
        let odd = Reply::parse(&reply(2, 1, [10, 0, 0, 9], &[(15, b"a\nnameserver 1.2.3.4")])).unwrap();
        assert_eq!(odd.lease.domain, None);
    }

    #[test]
    fn routers_in_and_beside_the_subnet_are_told_apart() {
        let lease = |prefix| Lease {
            address: Ipv4Addr::new(10, 0, 0, 9),
            prefix,
            routers: Vec::new(),
            routes: Vec::new(),
            name_servers: Vec::new(),
            domain: None,
            mtu: None,
            lifetime: u32::MAX,
            renewal: None,
            rebinding: None,
        };
        let router = Ipv4Addr::new(10, 0, 0, 1);
        assert!(lease(24).is_on_link(router) && lease(0).is_on_link(router) && !lease(32).is_on_link(router));
    }
}
