//! Puts together what several options say: `--net`, and the short forms `--publish`, `--tap`, `--bridge`, `--mac`,
//! `--queues`, `--nic`.

use std::str::FromStr;

use super::{Backend, Error, MacAddress, Model, Nic, Publish, nic};

/// What `--net` takes: an interface, or `none`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetArgument {
    /// No interface at all.
    None,
    /// One.
    Nic(Box<Nic>),
}

impl FromStr for NetArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(NetArgument::None),
            text => Nic::parse(text).map(|nic| NetArgument::Nic(Box::new(nic))),
        }
    }
}

/// The options.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// `--net`, in order.
    pub nets: Vec<NetArgument>,
    /// `--tap` and `--bridge`: they follow those of `--net`.
    pub links: Vec<Nic>,
    /// `--publish`: on the first interface with user networking, or on one of its own that comes last.
    pub published: Vec<Publish>,
    /// `--mac`: for the interfaces that have none, in order.
    pub macs: Vec<MacAddress>,
    /// `--queues`: of each interface on a tap or bridge that doesn't say.
    pub queues: Option<u16>,
    /// `--nic`: of each interface that doesn't say.
    pub model: Option<Model>,
}

impl Request {
    /// Whether nothing was asked for, not even `none`.
    pub fn is_empty(&self) -> bool {
        self.nets.is_empty() && self.links.is_empty() && self.published.is_empty()
    }

    /// Reads `--queues`.
    pub fn parse_queues(text: &str) -> Result<u16, String> {
        nic::queues(text)
    }

    /// The interfaces, in order.
    pub fn assemble(&self) -> Result<Vec<Nic>, Error> {
        let wrong = |message: &str| Err(Error::Options(message.into()));
        let mut nics = Vec::new();
        for net in &self.nets {
            match net {
                NetArgument::Nic(nic) => nics.push((**nic).clone()),
                NetArgument::None
                    if self.nets.len() == 1 && self.links.is_empty() && self.published.is_empty() => {}
                NetArgument::None => return wrong("--net none contradicts the other network options"),
            }
        }
        nics.extend(self.links.iter().cloned());
        if !self.published.is_empty() {
            let user = nics.iter().position(|nic| matches!(nic.backend, Backend::User(_)));
            let index = user.unwrap_or_else(|| {
                nics.push(Nic::new(Backend::User(Vec::new())));
                nics.len() - 1
            });
            if let Backend::User(published) = &mut nics[index].backend {
                published.extend(&self.published);
            }
        }
        if nics.is_empty() && (!self.macs.is_empty() || self.queues.is_some() || self.model.is_some()) {
            return wrong("--mac, --queues and --nic need an interface: --publish, --tap, --bridge or --net");
        }
        let mut without = nics.iter_mut().filter(|nic| nic.mac.is_none());
        for mac in &self.macs {
            match without.next() {
                Some(nic) => nic.mac = Some(*mac),
                None => return wrong("there are more --mac than interfaces"),
            }
        }
        for nic in &mut nics {
            nic.model = nic.model.or(self.model);
            if matches!(nic.backend, Backend::Tap(_) | Backend::Bridge(_)) {
                nic.queues = nic.queues.or(self.queues);
            }
        }
        if self.queues.is_some() && nics.iter().all(|nic| nic.queues.is_none()) {
            return wrong("--queues needs --tap or --bridge: user networking has one queue");
        }
        check(&nics)?;
        Ok(nics)
    }
}

/// What no machine can have.
fn check(nics: &[Nic]) -> Result<(), Error> {
    let wrong = |message: String| Err(Error::Options(message));
    for (index, nic) in nics.iter().enumerate() {
        let before = &nics[..index];
        if nic.queues() > 1 && nic.model() != Model::Virtio {
            return wrong(format!("{} has one queue here; several need virtio", nic.model().name()));
        }
        if nic.queues() > 1 && matches!(nic.backend, Backend::User(_) | Backend::Socket(_)) {
            return wrong("several queues need a tap or bridge".into());
        }
        if let Some(mac) = nic.mac.filter(|mac| before.iter().any(|other| other.mac == Some(*mac))) {
            return wrong(format!("two interfaces have the MAC address {mac}"));
        }
        if matches!(nic.backend, Backend::Tap(_) | Backend::Socket(_))
            && before.iter().any(|other| other.backend == nic.backend)
        {
            return wrong(format!("two interfaces on one {}", nic.backend.name()));
        }
    }
    let published: Vec<&Publish> = nics
        .iter()
        .flat_map(|nic| match &nic.backend {
            Backend::User(published) => published.as_slice(),
            _ => &[],
        })
        .collect();
    for (index, publish) in published.iter().enumerate() {
        let same = |other: &&&Publish| {
            (other.host, other.protocol) == (publish.host, publish.protocol)
                && (other.address == publish.address || other.address.is_none() || publish.address.is_none())
        };
        if let Some(other) = published[..index].iter().find(same) {
            return wrong(format!(
                "--publish {other} and --publish {publish} want the same port of the host"
            ));
        }
    }
    Ok(())
}

impl Backend {
    /// What it is called in a message.
    pub fn name(&self) -> String {
        match self {
            Backend::User(_) => "user networking".into(),
            Backend::Tap(name) => format!("tap {name}"),
            Backend::Bridge(name) => format!("bridge {name}"),
            Backend::Socket(path) => format!("socket {}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(nets: &[&str], links: &[&str], published: &[&str]) -> Request {
        Request {
            nets: nets.iter().map(|text| text.parse().expect("good")).collect(),
            links: links.iter().map(|text| Nic::parse(text).expect("good")).collect(),
            published: published.iter().map(|text| text.parse().expect("good")).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn the_order_is_kept_and_ports_find_their_interface() {
        let nics = request(&["tap=a", "user"], &["bridge=b"], &["8080:80"]).assemble().expect("good");
        assert_eq!(nics[0].backend, Backend::Tap("a".into()));
        assert!(matches!(&nics[1].backend, Backend::User(published) if published.len() == 1));
        assert_eq!(nics[2].backend, Backend::Bridge("b".into()));
        let nics = request(&[], &["tap=a"], &["8080:80", "8081:81"]).assemble().expect("good");
        assert!(matches!(&nics[1].backend, Backend::User(published) if published.len() == 2));
        assert!(request(&["none"], &[], &[]).assemble().expect("good").is_empty());
    }

    #[test]
    fn what_is_left_open_is_filled_in() {
        let mut request = request(&["user,mac=52:54:00:00:00:09"], &["tap=a", "tap=b,queues=2"], &[]);
        request.queues = Some(4);
        request.macs = vec![MacAddress([2, 0, 0, 0, 0, 1])];
        let nics = request.assemble().expect("good");
        assert_eq!(nics.iter().map(Nic::queues).collect::<Vec<_>>(), [1, 4, 2]);
        assert_eq!(nics[1].mac, Some(MacAddress([2, 0, 0, 0, 0, 1])));
        assert_eq!(nics[2].mac, None);
    }

    #[test]
    fn contradictions_are_refused() {
        let refused = |request: Request, part: &str| {
            let message = request.assemble().expect_err(part).to_string();
            assert!(message.contains(part), "{message}");
        };
        refused(request(&["none"], &["tap=a"], &[]), "contradicts");
        refused(request(&[], &["tap=a", "tap=a"], &[]), "two interfaces on one tap a");
        refused(request(&[], &[], &["80:80", "127.0.0.1:80:81"]), "want the same port");
        refused(
            request(&["user,mac=52:54:00:00:00:09", "user,mac=52:54:00:00:00:09"], &[], &[]),
            "two interfaces",
        );
        refused(request(&[], &["tap=a,queues=2,model=e1000e"], &[]), "one queue here");
        refused(request(&["user,queues=2"], &[], &[]), "need a tap");
        let mut queues = request(&["user"], &[], &[]);
        queues.queues = Some(2);
        refused(queues, "--queues needs");
        let mut macs = request(&[], &[], &[]);
        macs.macs = vec![MacAddress([2, 0, 0, 0, 0, 1])];
        refused(macs, "need an interface");
    }
}
