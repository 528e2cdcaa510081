//! The network options, of `run` and of what runs images otherwise.

use clap::Args;
use toolchain::launch::network::{Error, MacAddress, Model, NetArgument, Nic, Publish, Request};

/// Network options. Without any, a machine has no network.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Network")]
pub struct NetworkArguments {
    /// Lead a port of the host to one of the guest, by user networking; may be repeated.
    #[arg(long = "publish", value_name = "[ADDRESS:]HOST:GUEST[/udp]")]
    pub published: Vec<Publish>,
    /// An interface on a tap of the host, which is made for the run if absent; OPTION as for --net. May be repeated.
    #[arg(long = "tap", value_name = "NAME[,OPTION=VALUE]", value_parser = |text: &str| Nic::named("tap", text))]
    pub taps: Vec<Nic>,
    /// An interface in a bridge of the host, by a tap made for the run; OPTION as for --net. May be repeated.
    #[arg(long = "bridge", value_name = "NAME[,OPTION=VALUE]", value_parser = |text: &str| Nic::named("bridge", text))]
    pub bridges: Vec<Nic>,
    /// An interface: user, tap=NAME, bridge=NAME, socket=PATH (passt and the like), or none. May be repeated; they are
    /// eth0, eth1... in this order, those of --tap, --bridge and --publish behind them.
    ///
    /// Options, each behind a comma: mac=ADDRESS, model=virtio|e1000e|igb|e1000, queues=N, publish=HOST:GUEST,
    /// address=ADDRESS/PREFIX or address=dhcp, gateway=ADDRESS, nameserver=ADDRESS, mtu=BYTES. The last four change
    /// what was baked, for this run.
    #[arg(long = "net", value_name = "KIND[,OPTION=VALUE]")]
    pub nets: Vec<NetArgument>,
    /// MAC address of the first interface that has none, then of the next; may be repeated. Otherwise one that is the
    /// same in every run.
    #[arg(long = "mac", value_name = "ADDRESS")]
    pub macs: Vec<MacAddress>,
    /// Pairs of queues of each interface on a tap or bridge.
    #[arg(long, value_name = "N", value_parser = Request::parse_queues)]
    pub queues: Option<u16>,
    /// The NIC's model: virtio, e1000e, igb or e1000.
    #[arg(long = "nic", value_name = "MODEL")]
    pub model: Option<Model>,
}

impl NetworkArguments {
    /// As the library takes them.
    pub fn request(&self) -> Request {
        Request {
            nets: self.nets.clone(),
            links: [self.taps.as_slice(), &self.bridges].concat(),
            published: self.published.clone(),
            macs: self.macs.clone(),
            queues: self.queues,
            model: self.model,
        }
    }

    /// The interfaces.
    pub fn nics(&self) -> Result<Vec<Nic>, Error> {
        self.request().assemble()
    }
}
