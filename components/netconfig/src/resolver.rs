//! Name servers and domains, from all sources, as `/etc/resolv.conf` has them.

use alloc::{
    string::{String, ToString},
    vec::Vec,
};
use core::{
    fmt::Write,
    net::{IpAddr, Ipv6Addr},
};

/// The most name servers that are kept; C libraries take the first three.
const SERVERS: usize = 8;
/// The most domains.
const DOMAINS: usize = 6;

/// Where a name server is known from, the better sources first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum From {
    /// The image's configuration.
    Configuration,
    /// DHCP.
    Dhcp,
    /// A router.
    Router,
}

/// A name server or domain with its source, interface and end.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known<T> {
    from: From,
    interface: u32,
    value: T,
    until: u64,
}

/// What is known.
#[derive(Default, Debug)]
pub struct Resolver {
    servers: Vec<Known<IpAddr>>,
    domains: Vec<Known<String>>,
}

impl Resolver {
    /// Nothing.
    pub const fn new() -> Self {
        Resolver { servers: Vec::new(), domains: Vec::new() }
    }

    /// Adds a server, or changes its end.
    pub fn add_server(&mut self, from: From, interface: u32, value: IpAddr, until: u64) {
        add(&mut self.servers, Known { from, interface, value, until }, SERVERS);
    }

    /// Adds a domain to search, or changes its end.
    pub fn add_domain(&mut self, from: From, interface: u32, value: String, until: u64) {
        add(&mut self.domains, Known { from, interface, value, until }, DOMAINS);
    }

    /// Forgets what is known from a source.
    pub fn forget(&mut self, from: From, interface: u32) {
        self.servers.retain(|known| (known.from, known.interface) != (from, interface));
        self.domains.retain(|known| (known.from, known.interface) != (from, interface));
    }

    /// Forgets what has ended; returns when the next does.
    pub fn expire(&mut self, now: u64) -> u64 {
        self.servers.retain(|known| known.until > now);
        self.domains.retain(|known| known.until > now);
        let ends = self.servers.iter().map(|known| known.until);
        ends.chain(self.domains.iter().map(|known| known.until)).min().unwrap_or(u64::MAX)
    }

    /// The text of `/etc/resolv.conf`; `scope` names the interfaces of link-local servers.
    pub fn text(&self, scope: impl Fn(u32) -> Option<String>) -> String {
        let mut text = String::new();
        let mut domains: Vec<&str> = Vec::new();
        for known in &self.domains {
            if !domains.contains(&known.value.as_str()) {
                domains.push(&known.value);
            }
        }
        if !domains.is_empty() {
            let _ = writeln!(text, "search {}", domains.join(" "));
        }
        let mut servers: Vec<String> = Vec::new();
        for known in &self.servers {
            let mut server = known.value.to_string();
            if let IpAddr::V6(address) = known.value
                && is_link_local(address)
                && let Some(name) = scope(known.interface)
            {
                server.extend(["%", &name]);
            }
            if !servers.contains(&server) {
                let _ = writeln!(text, "nameserver {server}");
                servers.push(server);
            }
        }
        text
    }
}

/// fe80::/10.
fn is_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

fn add<T: PartialEq>(list: &mut Vec<Known<T>>, new: Known<T>, limit: usize) {
    if let Some(known) = list
        .iter_mut()
        .find(|known| (known.from, known.interface, &known.value) == (new.from, new.interface, &new.value))
    {
        known.until = new.until;
    } else if list.len() < limit {
        let place = list.partition_point(|known| known.from <= new.from);
        list.insert(place, new);
    }
}

/// Whether text is a domain name, so that it can stand in a configuration file.
pub fn is_domain(text: &[u8]) -> bool {
    let is_label = |label: &[u8]| {
        (1..64).contains(&label.len())
            && label.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    text.len() < 254 && text.strip_suffix(b".").unwrap_or(text).split(|&byte| byte == b'.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_sources_come_first_and_ends_are_kept() {
        let mut resolver = Resolver::new();
        let server = |text: &str| text.parse::<IpAddr>().unwrap();
        resolver.add_server(From::Router, 2, server("fe80::1"), 50);
        resolver.add_server(From::Dhcp, 2, server("10.0.2.3"), 100);
        resolver.add_server(From::Configuration, 2, server("9.9.9.9"), u64::MAX);
        resolver.add_server(From::Dhcp, 3, server("10.0.2.3"), 100);
        resolver.add_domain(From::Dhcp, 2, "example.org".into(), 100);
        let text = |resolver: &Resolver| resolver.text(|index| Some(alloc::format!("eth{}", index - 2)));
        assert_eq!(
            text(&resolver),
            "search example.org\nnameserver 9.9.9.9\nnameserver 10.0.2.3\nnameserver fe80::1%eth0\n"
        );
        assert_eq!(resolver.expire(60), 100);
        resolver.forget(From::Dhcp, 2);
        assert_eq!(text(&resolver), "nameserver 9.9.9.9\nnameserver 10.0.2.3\n");
        assert_eq!(resolver.expire(100), u64::MAX);
    }

    #[test]
    fn domains_are_checked() {
        assert!(is_domain(b"example.org") && is_domain(b"a_b-c.") && is_domain(b"localdomain"));
        assert!(!is_domain(b"") && !is_domain(b"a..b") && !is_domain(b"a b") && !is_domain(b"a\nb"));
    }
}
