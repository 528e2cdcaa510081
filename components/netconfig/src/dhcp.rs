//! DHCPv4's client (RFC 2131 section 4.4): a state machine that is told the time and what arrives.

use alloc::{string::String, vec::Vec};
use core::net::Ipv4Addr;

use rumpuser::NEVER;
use smoltcp::wire::DhcpMessageType;

use crate::{
    HardwareAddress, SECOND,
    message::{Lease, Reply, Request},
    random,
};

/// A millisecond in nanoseconds.
const MILLISECOND: u64 = SECOND / 1000;

/// The first wait for an answer; it doubles up to [`LONGEST_WAIT`]. Shorter than RFC 2131 proposes: a lost packet
/// must not delay a server's start.
const FIRST_WAIT: u64 = SECOND;
/// The longest wait for an answer.
const LONGEST_WAIT: u64 = 64 * SECOND;
/// How often an offered address is asked for.
const REQUESTS: u32 = 4;
/// After an address was declined (RFC 2131 3.1.5), or refused.
const PAUSE: u64 = 10 * SECOND;
/// The least time between two renewals (RFC 2131 4.4.5).
const RENEWAL_WAIT: u64 = 60 * SECOND;
/// After how many questions it is said that nobody answers.
const SILENCE: u32 = 4;
/// A shorter lease is as long as this.
const SHORTEST_LEASE: u64 = 10 * SECOND;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Waits, then begins.
    Init,
    /// Looks for servers.
    Selecting,
    /// Asks for what was offered.
    Requesting,
    /// Has a lease.
    Bound,
    /// Asks the server to prolong it.
    Renewing,
    /// Asks any server to.
    Rebinding,
}

/// What the client wants done.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Send a message: from which address, to which server (all, if none).
    Send { source: Ipv4Addr, server: Option<Ipv4Addr>, message: Vec<u8> },
    /// The lease is new, prolonged or changed; until when it is valid.
    Bound { lease: Lease, until: u64 },
    /// There is no lease any more.
    Lost,
    /// No server answers.
    Silence,
}

/// The client of an interface.
pub struct Client {
    hardware: HardwareAddress,
    host_name: String,
    state: State,
    transaction: u32,
    began: u64,
    attempts: u32,
    /// When something is to be done.
    pub due: u64,
    server: Ipv4Addr,
    /// What was offered, or is had.
    lease: Option<Lease>,
    renewal: u64,
    rebinding: u64,
    expiry: u64,
    silent: bool,
}

impl Client {
    /// A client that begins at `now` (nanoseconds of the monotonic clock, as all times here).
    pub fn new(hardware: HardwareAddress, host_name: &str, now: u64) -> Self {
        Client {
            hardware,
            host_name: host_name.into(),
            state: State::Init,
            transaction: 0,
            began: now,
            attempts: 0,
            due: now,
            server: Ipv4Addr::UNSPECIFIED,
            lease: None,
            renewal: NEVER,
            rebinding: NEVER,
            expiry: NEVER,
            silent: false,
        }
    }

    /// Whether it has a lease.
    pub fn is_bound(&self) -> bool {
        matches!(self.state, State::Bound | State::Renewing | State::Rebinding)
    }

    /// Begins anew at `due`; what was had is lost.
    fn restart(&mut self, due: u64, steps: &mut Vec<Step>) {
        if self.is_bound() {
            steps.push(Step::Lost);
        }
        self.state = State::Init;
        self.lease = None;
        self.due = due;
    }

    /// The link was away, perhaps it is another one now: the lease is confirmed, or a new one found.
    pub fn link_changed(&mut self, now: u64) {
        match self.state {
            State::Bound | State::Renewing | State::Rebinding => {
                self.state = State::Rebinding;
                self.attempts = 0;
                self.due = now;
            }
            State::Init | State::Selecting | State::Requesting => {
                self.state = State::Init;
                self.due = now;
            }
        }
    }

    /// Another machine has the address.
    pub fn declined(&mut self, now: u64) -> Vec<Step> {
        let mut steps = Vec::new();
        if let Some(lease) = self.lease.take().filter(|_| self.is_bound()) {
            let message = Request {
                wanted: Some(lease.address),
                server: Some(self.server),
                ..self.request(DhcpMessageType::Decline, now)
            };
            steps.push(Step::Send { source: Ipv4Addr::UNSPECIFIED, server: None, message: message.render() });
        }
        self.restart(now + PAUSE, &mut steps);
        steps
    }

    fn request(&self, kind: DhcpMessageType, now: u64) -> Request<'_> {
        Request {
            kind,
            transaction: self.transaction,
            seconds: (now.saturating_sub(self.began) / SECOND).min(u16::MAX.into()) as u16,
            hardware: self.hardware,
            address: Ipv4Addr::UNSPECIFIED,
            wanted: None,
            server: None,
            host_name: &self.host_name,
        }
    }

    /// The next wait: doubled each time, a quarter more or less.
    fn wait(&self) -> u64 {
        let wait = FIRST_WAIT.saturating_mul(1 << self.attempts.min(10)).min(LONGEST_WAIT);
        wait - wait / 4 + random::below(wait / 2 / MILLISECOND) * MILLISECOND
    }

    /// Does what is due.
    pub fn run(&mut self, now: u64) -> Vec<Step> {
        let mut steps = Vec::new();
        if now < self.due {
            return steps;
        }
        if self.state == State::Init {
            self.state = State::Selecting;
            self.transaction = random::word() as u32;
            self.began = now;
            self.attempts = 0;
        }
        if self.state == State::Requesting && self.attempts >= REQUESTS {
            self.state = State::Selecting;
            self.lease = None;
            self.attempts = 0;
        }
        if self.is_bound() && now >= self.expiry {
            self.restart(now, &mut steps);
            steps.extend(self.run(now));
            return steps;
        }
        match self.state {
            State::Init => {}
            State::Selecting => {
                let message = self.request(DhcpMessageType::Discover, now).render();
                steps.push(Step::Send { source: Ipv4Addr::UNSPECIFIED, server: None, message });
                if self.attempts + 1 == SILENCE && !self.silent {
                    self.silent = true;
                    steps.push(Step::Silence);
                }
                self.due = now + self.wait();
                self.attempts += 1;
            }
            State::Requesting => {
                let wanted = self.lease.as_ref().map(|lease| lease.address);
                let message = Request {
                    wanted,
                    server: Some(self.server),
                    ..self.request(DhcpMessageType::Request, now)
                };
                steps.push(Step::Send {
                    source: Ipv4Addr::UNSPECIFIED,
                    server: None,
                    message: message.render(),
                });
                self.due = now + self.wait();
                self.attempts += 1;
            }
            State::Bound | State::Renewing | State::Rebinding => self.prolong(now, &mut steps),
        }
        steps
    }

    /// Asks for more time, with an address to use meanwhile.
    fn prolong(&mut self, now: u64, steps: &mut Vec<Step>) {
        let Some(address) = self.lease.as_ref().map(|lease| lease.address) else { return };
        if self.state == State::Bound {
            self.transaction = random::word() as u32;
            self.began = now;
        }
        // A link that came back has asked everybody already.
        self.state = if now >= self.rebinding || self.state == State::Rebinding {
            State::Rebinding
        } else {
            State::Renewing
        };
        let server = (self.state == State::Renewing).then_some(self.server);
        let message = Request { address, ..self.request(DhcpMessageType::Request, now) };
        steps.push(Step::Send { source: address, server, message: message.render() });
        let end = if server.is_some() { self.rebinding } else { self.expiry };
        let half = (end.saturating_sub(now) / 2).max(RENEWAL_WAIT);
        self.due = now.saturating_add(half).min(end).max(now + SECOND);
    }

    /// Takes a server's message.
    pub fn receive(&mut self, now: u64, bytes: &[u8]) -> Vec<Step> {
        let mut steps = Vec::new();
        let Some(reply) = Reply::parse(bytes) else { return steps };
        if reply.transaction != self.transaction || reply.hardware != self.hardware {
            return steps;
        }
        match (self.state, reply.kind) {
            (State::Selecting, DhcpMessageType::Offer) if is_assignable(reply.lease.address) => {
                let Some(server) = reply.server else { return steps };
                self.server = server;
                self.lease = Some(reply.lease);
                self.state = State::Requesting;
                self.attempts = 0;
                self.due = now;
                steps = self.run(now);
            }
            (State::Requesting | State::Renewing | State::Rebinding, DhcpMessageType::Ack)
                if is_assignable(reply.lease.address) =>
            {
                if self.state == State::Requesting && reply.server.is_some_and(|server| server != self.server)
                {
                    return steps;
                }
                self.server = reply.server.unwrap_or(self.server);
                self.bind(now, reply.lease, &mut steps);
            }
            (State::Requesting | State::Renewing | State::Rebinding, DhcpMessageType::Nak) => {
                // At once, but not in a circle with a server that always refuses.
                let pause = if self.state == State::Requesting { PAUSE } else { 0 };
                self.restart(now + pause, &mut steps);
            }
            _ => {}
        }
        steps
    }

    fn bind(&mut self, now: u64, lease: Lease, steps: &mut Vec<Step>) {
        let after = |seconds: u64| now.saturating_add(seconds.saturating_mul(SECOND));
        if lease.lifetime == u32::MAX {
            (self.renewal, self.rebinding, self.expiry) = (NEVER, NEVER, NEVER);
        } else {
            let lifetime = u64::from(lease.lifetime).max(SHORTEST_LEASE / SECOND);
            let given = |seconds: Option<u32>, usual: u64| {
                seconds.map(u64::from).filter(|&seconds| seconds > 0 && seconds < lifetime).unwrap_or(usual)
            };
            let rebinding = given(lease.rebinding, lifetime * 7 / 8);
            let renewal = given(lease.renewal, lifetime / 2).min(rebinding);
            (self.renewal, self.rebinding, self.expiry) = (after(renewal), after(rebinding), after(lifetime));
        }
        self.state = State::Bound;
        self.silent = false;
        self.attempts = 0;
        self.due = self.renewal;
        self.lease = Some(lease.clone());
        steps.push(Step::Bound { lease, until: self.expiry });
    }
}

/// Whether a machine can have the address.
fn is_assignable(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    !address.is_unspecified() && !address.is_loopback() && first != 0 && first < 224
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::tests::reply;

    const HARDWARE: HardwareAddress = [2, 0, 0, 0, 0, 9];
    const SERVER: [u8; 4] = [10, 0, 0, 1];
    const MASK: (u8, &[u8]) = (1, &[255, 255, 255, 0]);

    fn transaction(steps: &[Step]) -> u32 {
        let Some(Step::Send { message, .. }) = steps.first() else { panic!("{steps:?}") };
        u32::from_be_bytes(message[4..8].try_into().unwrap())
    }

    fn kind(step: &Step) -> u8 {
        let Step::Send { message, .. } = step else { panic!("{step:?}") };
        message[242]
    }

    fn bound(client: &mut Client, now: u64) -> Vec<Step> {
        let number = transaction(&client.run(now));
        let offer = reply(2, number, [10, 0, 0, 9], &[MASK, (54, &SERVER)]);
        let steps = client.receive(now, &offer);
        assert_eq!(kind(&steps[0]), 3);
        client.receive(now, &reply(5, number, [10, 0, 0, 9], &[MASK, (54, &SERVER), (51, &[0, 0, 0, 100])]))
    }

    #[test]
    fn an_address_is_found_renewed_rebound_and_lost() {
        let mut client = Client::new(HARDWARE, "name", 0);
        let steps = bound(&mut client, 0);
        let [Step::Bound { lease, until }] = &steps[..] else { panic!("{steps:?}") };
        assert_eq!((lease.address, *until), (Ipv4Addr::new(10, 0, 0, 9), 100 * SECOND));
        assert_eq!(client.due, 50 * SECOND);
        let steps = client.run(50 * SECOND);
        let [Step::Send { source, server, message }] = &steps[..] else { panic!("{steps:?}") };
        assert_eq!((*source, *server), (lease.address, Some(SERVER.into())));
        assert_eq!(message[12..16], [10, 0, 0, 9]);
        // No answer: at seven eighths everybody is asked.
        assert_eq!(client.due, 87 * SECOND);
        let steps = client.run(87 * SECOND);
        assert!(matches!(&steps[..], [Step::Send { server: None, .. }]), "{steps:?}");
        let number = transaction(&steps);
        let ack = reply(5, number, [10, 0, 0, 9], &[MASK, (54, &SERVER), (51, &[0, 0, 0, 100])]);
        let steps = client.receive(90 * SECOND, &ack);
        assert!(matches!(&steps[..], [Step::Bound { until, .. }] if *until == 190 * SECOND));
        let mut now = client.due;
        while client.is_bound() {
            let steps = client.run(now);
            if !client.is_bound() {
                assert_eq!((&steps[0], kind(&steps[1]), now), (&Step::Lost, 1, 190 * SECOND));
            }
            now = client.due;
        }
    }

    #[test]
    fn silence_is_said_once_and_asking_goes_on_with_growing_pauses() {
        let mut client = Client::new(HARDWARE, "", 0);
        let (mut now, mut silences, mut asked, mut longest) = (0, 0, 0, 0);
        while asked < 20 {
            let steps = client.run(now);
            asked += steps.iter().filter(|step| matches!(step, Step::Send { .. })).count();
            silences += steps.iter().filter(|step| **step == Step::Silence).count();
            longest = longest.max(client.due - now);
            now = client.due;
        }
        assert_eq!(silences, 1);
        assert!((40 * SECOND..=80 * SECOND).contains(&longest), "{longest}");
    }

    #[test]
    fn others_answers_are_not_taken_and_refusals_and_conflicts_begin_anew() {
        let mut client = Client::new(HARDWARE, "", 0);
        let number = transaction(&client.run(0));
        let offer = [MASK, (54, &SERVER[..])];
        assert!(client.receive(0, &reply(2, number ^ 1, [10, 0, 0, 9], &offer)).is_empty());
        assert!(client.receive(0, &reply(5, number, [10, 0, 0, 9], &offer)).is_empty());
        assert!(client.receive(0, &reply(2, number, [127, 0, 0, 9], &offer)).is_empty());
        assert_eq!(client.receive(0, &reply(2, number, [10, 0, 0, 9], &offer)).len(), 1);
        assert!(client.receive(0, &reply(6, number, [0; 4], &[(54, &SERVER)])).is_empty());
        assert_eq!(client.due, PAUSE);
        bound(&mut client, PAUSE);
        let steps = client.declined(PAUSE);
        assert_eq!((kind(&steps[0]), &steps[1]), (4, &Step::Lost));
        assert!(!client.is_bound() && client.due == 2 * PAUSE);
    }
}
