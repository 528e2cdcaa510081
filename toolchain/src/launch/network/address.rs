//! MAC addresses and published ports, as they are written.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use sha2::{Digest, Sha256};

/// A MAC address of one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddress(pub [u8; 6]);

/// The prefix that QEMU uses: locally administered.
const PREFIX: [u8; 3] = [0x52, 0x54, 0x00];

impl MacAddress {
    /// The address of interface `index` of an image, the same in every run. `link` is the tap that it is on, so that
    /// two machines of one image on one network differ.
    pub fn stable(image: &str, link: &str, index: usize) -> Self {
        let hash = Sha256::digest(format!("{image}\0{link}\0{index}"));
        MacAddress([PREFIX[0], PREFIX[1], PREFIX[2], hash[0], hash[1], hash[2]])
    }

    /// Another one, for what stands between this machine and its network.
    pub fn neighbour(self) -> Self {
        let [a, b, c, d, e, f] = self.0;
        MacAddress([a, b, c, d, e, f ^ 0x80])
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a MAC address, as 52:54:00:12:34:56");
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let hexadecimal =
                |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            let part = parts.next().filter(|part| hexadecimal(part)).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() {
            return Err(wrong());
        }
        if bytes[0] & 1 != 0 {
            return Err(format!("`{text}` is a multicast address: the first byte of a machine's is even"));
        }
        if bytes == [0; 6] {
            return Err(format!("`{text}` is no machine's address"));
        }
        Ok(MacAddress(bytes))
    }
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// Its name in small letters.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

/// A port of the host that leads to one of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish {
    /// The host's address; every one if absent.
    pub address: Option<Ipv4Addr>,
    /// The host's port.
    pub host: u16,
    /// The guest's port.
    pub guest: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

impl fmt::Display for Publish {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = self.address {
            write!(formatter, "{address}:")?;
        }
        write!(formatter, "{}:{}/{}", self.host, self.guest, self.protocol.name())
    }
}

impl FromStr for Publish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (rest, protocol) = match text.split_once('/') {
            None => (text, Protocol::Tcp),
            Some((rest, "tcp")) => (rest, Protocol::Tcp),
            Some((rest, "udp")) => (rest, Protocol::Udp),
            Some((_, other)) => return Err(format!("`{other}` is no protocol: `tcp` or `udp`")),
        };
        if rest.starts_with('[') {
            return Err(
                "user networking forwards IPv4 only: give an IPv4 address of the host, or use a tap".into()
            );
        }
        let port = |text: &str| match text.parse::<u32>() {
            Ok(number @ 1..=65535) => Ok(number as u16),
            Ok(_) => Err(format!("port {text} is out of range: 1 to 65535")),
            Err(_) => Err(format!("`{text}` is not a port")),
        };
        let parts: Vec<&str> = rest.split(':').collect();
        let (address, host, guest) = match parts[..] {
            [host, guest] => (None, host, guest),
            [address, host, guest] => {
                let address =
                    address.parse().map_err(|_| format!("`{address}` is not an IPv4 address of the host"))?;
                (Some(address), host, guest)
            }
            _ => return Err(format!("`{text}`: write HOST:GUEST, as 8080:80, or ADDRESS:HOST:GUEST")),
        };
        Ok(Publish { address, host: port(host)?, guest: port(guest)?, protocol })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses() {
        let address: MacAddress = "52:54:00:AB:cd:01".parse().expect("good");
        assert_eq!(address.to_string(), "52:54:00:ab:cd:01");
        let bad = ["", "52:54:00:ab:cd", "52:54:00:ab:cd:01:02", "52-54-00-ab-cd-01", "5:54:0:ab:cd:001"];
        for text in bad.iter().chain(&["01:00:5e:00:00:01", "00:00:00:00:00:00", "+2:54:00:ab:cd:01"]) {
            assert!(text.parse::<MacAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn stable_addresses_differ_by_what_they_are_for() {
        let of = MacAddress::stable;
        assert_eq!(of("web.elf", "", 0), of("web.elf", "", 0));
        let all = [of("web.elf", "", 0), of("web.elf", "", 1), of("db.elf", "", 0), of("web.elf", "tap0", 0)];
        for (index, address) in all.iter().enumerate() {
            assert!(!all[..index].contains(address));
            assert_eq!(address.to_string().parse(), Ok(*address));
        }
    }

    #[test]
    fn published_ports() {
        let publish = |text: &str| text.parse::<Publish>();
        let plain = publish("8080:80").expect("good");
        assert_eq!((plain.address, plain.host, plain.guest, plain.protocol), (None, 8080, 80, Protocol::Tcp));
        let full = publish("127.0.0.1:5353:53/udp").expect("good");
        assert_eq!(full.address, Some(Ipv4Addr::LOCALHOST));
        assert_eq!(full.to_string(), "127.0.0.1:5353:53/udp");
        for (text, part) in [
            ("0:80", "port 0 is out of range"),
            ("80:65536", "port 65536 is out of range"),
            ("80", "write HOST:GUEST"),
            ("a:80", "`a` is not a port"),
            ("-1:80", "`-1` is not a port"),
            ("80:80/sctp", "no protocol"),
            ("host:80:80", "not an IPv4 address"),
            ("[::1]:80:80", "IPv4 only"),
            ("1:2:3:4", "write HOST:GUEST"),
        ] {
            let message = publish(text).expect_err(text);
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
