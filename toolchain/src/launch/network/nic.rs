//! One interface, as `--net` writes it: `user,publish=8080:80`, `tap=tap0,queues=4,address=10.0.0.2/24`.

use std::path::PathBuf;

use image::config::Network;

use super::{MacAddress, Publish, words::MAXIMUM_QUEUES};
use crate::configuration::check;

/// What an interface is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// QEMU's user networking: the guest reaches out through the host's own connections, and nothing reaches it but
    /// published ports.
    User(Vec<Publish>),
    /// A tap of the host; made for the run if absent.
    Tap(String),
    /// A new tap in a bridge of the host, for the run.
    Bridge(String),
    /// A Unix stream socket that somebody else listens on, for example passt: frames, each behind its length in
    /// 4 bytes (big-endian).
    Socket(PathBuf),
}

/// A NIC's model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Model {
    /// virtio-net.
    #[default]
    Virtio,
    /// Intel 82574L.
    E1000e,
    /// Intel 82576.
    Igb,
    /// Intel 82540EM.
    E1000,
}

impl Model {
    /// Its name, here and in QEMU.
    pub fn name(self) -> &'static str {
        match self {
            Model::Virtio => "virtio",
            Model::E1000e => "e1000e",
            Model::Igb => "igb",
            Model::E1000 => "e1000",
        }
    }
}

impl std::str::FromStr for Model {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Model::Virtio, Model::E1000e, Model::Igb, Model::E1000]
            .into_iter()
            .find(|model| model.name() == text)
            .ok_or_else(|| format!("`{text}` is not a NIC: `virtio`, `e1000e`, `igb` or `e1000`"))
    }
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// What it is connected to.
    pub backend: Backend,
    /// Its model; virtio if absent.
    pub model: Option<Model>,
    /// Its MAC address; one that is the same in every run if absent.
    pub mac: Option<MacAddress>,
    /// Pairs of queues; one if absent.
    pub queues: Option<u16>,
    /// The script that connects it, of a domain of Xen's; that of the toolstack's configuration if absent.
    pub script: Option<String>,
    /// What the guest is told of it, besides name and MAC address.
    pub configuration: Network,
}

impl Nic {
    /// An interface with everything else left open.
    pub fn new(backend: Backend) -> Self {
        let configuration = Network::default();
        Nic { backend, model: None, mac: None, queues: None, script: None, configuration }
    }

    /// Pairs of queues.
    pub fn queues(&self) -> u16 {
        self.queues.unwrap_or(1)
    }

    /// The model.
    pub fn model(&self) -> Model {
        self.model.unwrap_or_default()
    }

    /// Reads `KIND[=NAME][,OPTION=VALUE]...`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (kind, options) = text.split_once(',').unwrap_or((text, ""));
        let (kind, name) = match kind.split_once('=') {
            Some((kind, name)) => (kind, Some(name)),
            None => (kind, None),
        };
        let named = |what: &str| name.ok_or_else(|| format!("name it: {what}=NAME"));
        let backend = match kind {
            "user" if name.is_some() => return Err("`user` has no name".into()),
            "user" => Backend::User(Vec::new()),
            "tap" => Backend::Tap(link(named("tap")?)?),
            "bridge" => Backend::Bridge(link(named("bridge")?)?),
            "socket" => Backend::Socket(PathBuf::from(named("socket")?)),
            "none" => return Err("`none` takes nothing else".into()),
            other => {
                return Err(format!(
                    "`{other}` is not a network: user, tap=NAME, bridge=NAME, socket=PATH or none"
                ));
            }
        };
        let mut nic = Nic::new(backend);
        for option in options.split(',').filter(|option| !option.is_empty()) {
            nic.option(option)?;
        }
        check::gateways(&nic.configuration.gateways)?;
        Ok(nic)
    }

    /// What [`Nic::parse`] reads.
    pub fn specification(&self) -> String {
        let mut text = match &self.backend {
            Backend::User(_) => "user".into(),
            Backend::Tap(name) => format!("tap={name}"),
            Backend::Bridge(name) => format!("bridge={name}"),
            Backend::Socket(path) => format!("socket={}", path.display()),
        };
        let mut add = |key: &str, value: String| text += &format!(",{key}={value}");
        if let Backend::User(published) = &self.backend {
            published.iter().for_each(|publish| add("publish", publish.to_string()));
        }
        if let Some(mac) = self.mac {
            add("mac", mac.to_string());
        }
        if let Some(model) = self.model {
            add("model", model.name().into());
        }
        if let Some(queues) = self.queues {
            add("queues", queues.to_string());
        }
        if let Some(script) = &self.script {
            add("script", script.clone());
        }
        let Network { addresses, gateways, nameservers, mtu, .. } = &self.configuration;
        for (key, values) in [("address", addresses), ("gateway", gateways), ("nameserver", nameservers)] {
            values.iter().for_each(|value| add(key, value.clone()));
        }
        if let Some(mtu) = mtu {
            add("mtu", mtu.to_string());
        }
        text
    }

    /// Reads `NAME[,OPTION=VALUE]...` behind `--tap` and `--bridge`.
    pub fn named(kind: &str, text: &str) -> Result<Self, String> {
        Nic::parse(&format!("{kind}={text}"))
    }

    fn option(&mut self, text: &str) -> Result<(), String> {
        let (key, value) = text.split_once('=').ok_or_else(|| format!("`{text}`: write KEY=VALUE"))?;
        let configuration = &mut self.configuration;
        match key {
            "mac" => self.mac = Some(value.parse()?),
            "model" => self.model = Some(value.parse()?),
            "queues" => self.queues = Some(queues(value)?),
            "script" if matches!(self.backend, Backend::Bridge(_)) => {
                self.script = Some(script(value)?);
            }
            "script" => return Err("`script` is for an interface in a bridge of Xen's dom0".into()),
            "publish" => match &mut self.backend {
                Backend::User(published) => published.push(value.parse()?),
                _ => {
                    return Err(
                        "`publish` is for user networking; elsewhere the guest's ports are open".into()
                    );
                }
            },
            "address" => {
                check::network_address(value)?;
                configuration.addresses.push(value.into());
            }
            "gateway" => configuration.gateways.push(value.into()),
            "nameserver" => {
                check::address(value)?;
                configuration.nameservers.push(value.into());
            }
            "mtu" => {
                let number = value.parse().map_err(|_| format!("`{value}` is not an MTU"))?;
                configuration.mtu = Some(check::mtu(number)?);
            }
            other => {
                return Err(format!(
                    "unknown option `{other}`: mac, model, queues, script, publish, address, gateway, nameserver or mtu"
                ));
            }
        }
        Ok(())
    }
}

/// Reads a number of queue pairs.
pub(super) fn queues(text: &str) -> Result<u16, String> {
    text.parse()
        .ok()
        .filter(|queues| (1..=MAXIMUM_QUEUES).contains(queues))
        .ok_or_else(|| format!("`{text}` is not a number of queues: 1 to {MAXIMUM_QUEUES}"))
}

/// Checks the name of a script, or its path.
fn script(name: &str) -> Result<String, String> {
    let usual = |letter: char| letter.is_ascii_alphanumeric() || "-_./".contains(letter);
    match !name.is_empty() && name.chars().all(usual) {
        true => Ok(name.into()),
        false => Err(format!("`{name}` is not a script's name: letters, digits, `-`, `_`, `.` and `/`")),
    }
}

fn link(name: &str) -> Result<String, String> {
    check::interface(name).map(|()| name.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_specifications() {
        let text = "tap=tap0,mac=52:54:00:00:00:01,model=e1000e,address=10.0.0.2/24,address=fd00::2/64,\
                    gateway=10.0.0.1,gateway=fd00::1,nameserver=10.0.0.1,mtu=9000";
        let nic = Nic::parse(text).expect("good");
        assert_eq!(nic.backend, Backend::Tap("tap0".into()));
        assert_eq!(nic.model(), Model::E1000e);
        assert_eq!(nic.configuration.addresses, ["10.0.0.2/24", "fd00::2/64"]);
        assert_eq!(nic.configuration.mtu, Some(9000));
        let nic = Nic::named("bridge", "br0,queues=4").expect("good");
        assert_eq!((nic.backend.clone(), nic.queues()), (Backend::Bridge("br0".into()), 4));
        let nic = Nic::parse("user,publish=8080:80,publish=5353:53/udp").expect("good");
        assert!(matches!(&nic.backend, Backend::User(published) if published.len() == 2));
        for text in
            [text, "bridge=br0,queues=4", "user,publish=127.0.0.1:53:53/udp", "socket=/run/passt.socket"]
        {
            let nic = Nic::parse(text).expect("good");
            assert_eq!(Nic::parse(&nic.specification()), Ok(nic));
        }
    }

    #[test]
    fn wrong_specifications_say_why() {
        for (text, part) in [
            ("usre", "`usre` is not a network"),
            ("tap", "name it"),
            ("tap=", "interface's name"),
            ("tap=a b", "interface's name"),
            ("tap=$(x)", "interface's name"),
            ("tap=tap0,publish=80:80", "user networking"),
            ("user=x", "no name"),
            ("user,queues=0", "number of queues"),
            ("user,colour=red", "unknown option `colour`"),
            ("user,mac", "KEY=VALUE"),
            ("user,model=rtl8139", "not a NIC"),
            ("user,address=10.0.0.1", "prefix length"),
            ("user,gateway=10.0.0", "not an IP address"),
            ("user,gateway=10.0.0.1,gateway=10.0.0.2", "second gateway"),
            ("user,mtu=9", "not an MTU"),
        ] {
            let message = Nic::parse(text).expect_err(text);
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
