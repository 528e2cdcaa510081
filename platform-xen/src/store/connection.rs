//! The connection to xenstore's daemon: a ring for each direction, and the messages that are under way.

use alloc::{collections::VecDeque, vec::Vec};
use core::sync::atomic::{AtomicU8, AtomicU32};

use super::wire::{self, Kind, Message};
use crate::ring::ByteRing;

/// Changes that nobody has looked at yet are kept up to this number; more than so many watches lose nothing by it, as a
/// watcher looks at the node itself.
pub const EVENTS: usize = 1024;

/// `struct xenstore_domain_interface`.
#[repr(C)]
pub struct Interface {
    requests: [AtomicU8; 1024],
    answers: [AtomicU8; 1024],
    pub request_consumer: AtomicU32,
    pub request_producer: AtomicU32,
    pub answer_consumer: AtomicU32,
    pub answer_producer: AtomicU32,
}

impl Interface {
    /// The ring of requests.
    pub fn requests(&self) -> ByteRing<'_> {
        ByteRing::new(&self.requests, &self.request_consumer, &self.request_producer)
    }

    /// The ring of answers and events.
    pub fn answers(&self) -> ByteRing<'_> {
        ByteRing::new(&self.answers, &self.answer_consumer, &self.answer_producer)
    }

    /// Empty rings, for tests and fuzzing.
    #[cfg(any(test, feature = "host"))]
    pub fn new() -> alloc::boxed::Box<Interface> {
        alloc::boxed::Box::new(Interface {
            requests: [const { AtomicU8::new(0) }; 1024],
            answers: [const { AtomicU8::new(0) }; 1024],
            request_consumer: AtomicU32::new(0),
            request_producer: AtomicU32::new(0),
            answer_consumer: AtomicU32::new(0),
            answer_producer: AtomicU32::new(0),
        })
    }
}

/// See the module.
pub struct Connection {
    interface: &'static Interface,
    /// What is still to be sent.
    outgoing: VecDeque<u8>,
    /// The message that is coming in.
    incoming: Vec<u8>,
    next: u32,
    /// The request that waits for its answer.
    awaited: Option<u32>,
    answer: Option<Message>,
    events: VecDeque<Message>,
    broken: bool,
}

impl Connection {
    /// A connection that is at rest.
    pub fn new(interface: &'static Interface) -> Self {
        Connection {
            interface,
            outgoing: VecDeque::new(),
            incoming: Vec::new(),
            next: 1,
            awaited: None,
            answer: None,
            events: VecDeque::new(),
            broken: false,
        }
    }

    /// Begins anew on the empty rings of a restored domain. Changes that have come are kept.
    pub fn resume(&mut self) {
        self.outgoing.clear();
        self.incoming.clear();
        (self.awaited, self.answer, self.broken) = (None, None, false);
    }

    /// Begins a request, the only one.
    pub fn request(&mut self, kind: Kind, transaction: u32, payload: &[u8]) {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        (self.awaited, self.answer) = (Some(number), None);
        self.outgoing.extend(wire::encode(kind, number, transaction, payload));
    }

    /// Moves what can be moved; returns whether the daemon should be told.
    pub fn pump(&mut self) -> bool {
        if self.broken {
            return false;
        }
        let moved = self.send().and_then(|sent| self.receive().map(|received| sent || received));
        self.broken = moved.is_none();
        moved.unwrap_or(false)
    }

    fn send(&mut self) -> Option<bool> {
        let ring = self.interface.requests();
        let mut sent = false;
        while !self.outgoing.is_empty() {
            let count = ring.send(self.outgoing.as_slices().0).ok()?;
            if count == 0 {
                break;
            }
            self.outgoing.drain(..count);
            sent = true;
        }
        Some(sent)
    }

    fn receive(&mut self) -> Option<bool> {
        let ring = self.interface.answers();
        let mut received = false;
        let mut bytes = [0; 256];
        loop {
            let missing = wire::missing(&self.incoming).ok()?;
            if missing == 0 {
                let message = wire::decode(&core::mem::take(&mut self.incoming))?;
                self.sort(message);
                continue;
            }
            let count = ring.receive(&mut bytes[..missing.min(256)]).ok()?;
            if count == 0 {
                return Some(received);
            }
            self.incoming.extend_from_slice(&bytes[..count]);
            received = true;
        }
    }

    fn sort(&mut self, message: Message) {
        if message.kind == wire::WATCH_EVENT {
            if self.events.len() < EVENTS {
                self.events.push_back(message);
            }
        } else if self.awaited == Some(message.request) {
            (self.awaited, self.answer) = (None, Some(message));
        }
    }

    /// The answer, once it has come; `Err` if none will come.
    pub fn answer(&mut self) -> Result<Option<Message>, ()> {
        match self.answer.take() {
            None if self.broken => Err(()),
            answer => Ok(answer),
        }
    }

    /// How many changes wait.
    #[cfg(any(test, feature = "host"))]
    pub fn waiting_events(&self) -> usize {
        self.events.len()
    }

    /// The next change.
    pub fn event(&mut self) -> Option<Message> {
        self.events.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::Ordering;

    fn interface() -> &'static Interface {
        Box::leak(Interface::new())
    }

    fn message(kind: u32, request: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = wire::encode(Kind::Read, request, 0, payload);
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes
    }

    #[test]
    fn long_requests_go_in_pieces_and_answers_are_sorted() {
        let interface = interface();
        let mut connection = Connection::new(interface);
        connection.request(Kind::Write, 0, &[b'x'; 3000]);
        let mut seen = 0;
        let mut buffer = [0; 4096];
        while connection.pump() {
            seen += interface.requests().receive(&mut buffer).expect("indices");
        }
        assert_eq!(seen, 3016);
        let stream = [
            message(wire::WATCH_EVENT, 0, b"path\0token\0"),
            message(2, 99, b"for somebody else"),
            message(11, 1, b"OK\0"),
        ]
        .concat();
        for byte in &stream {
            assert_eq!(connection.answer(), Ok(None));
            assert_eq!(interface.answers().send(&[*byte]), Ok(1));
            connection.pump();
        }
        assert_eq!(connection.answer().expect("sound").expect("an answer").payload, b"OK\0");
        assert_eq!(connection.event().expect("a change").payload, b"path\0token\0");
        assert_eq!((connection.event(), connection.answer()), (None, Ok(None)));
    }

    #[test]
    fn a_daemon_gone_wild_is_left_alone() {
        for wild in [message(2, 1, &[]), vec![0xff; 1024]] {
            let interface = interface();
            let mut connection = Connection::new(interface);
            connection.request(Kind::Read, 0, b"x\0");
            connection.pump();
            interface.answers().send(&wild).expect("room");
            connection.pump();
            if wild.len() > 100 {
                assert_eq!(connection.answer(), Err(()));
            }
            interface.answer_producer.store(1 << 20, Ordering::Relaxed);
            connection.pump();
            let _ = connection.answer();
            assert!(!connection.pump());
            assert_eq!(connection.answer(), Err(()));
        }
    }

    #[test]
    fn changes_are_bounded() {
        let interface = interface();
        let mut connection = Connection::new(interface);
        for _ in 0..3 * EVENTS {
            interface.answers().send(&message(wire::WATCH_EVENT, 0, b"p\0t\0")).expect("room");
            connection.pump();
        }
        assert_eq!(connection.waiting_events(), EVENTS);
    }
}
