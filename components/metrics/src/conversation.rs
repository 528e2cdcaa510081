//! One client's connection, from the request to the end. It never waits: it goes on as far as the connection lets it,
//! and has a time by which each part must be done.

use alloc::{format, sync::Arc, vec::Vec};

use rumpkern::{Errno, Result};

use crate::request::{self, Answer};

/// How long a client may take to ask, in nanoseconds.
pub const ASK: u64 = 5_000_000_000;
/// How long it may take to read the answer.
pub const TAKE: u64 = 10_000_000_000;
/// How long to wait for its end, so that the answer isn't lost to a reset.
pub const LEAVE: u64 = 1_000_000_000;

/// The connection.
pub trait Stream {
    /// Receives what is there; 0 at the end. EAGAIN if nothing is.
    fn receive(&self, buffer: &mut [u8]) -> Result<usize>;
    /// Sends what there is room for. EAGAIN if there is none.
    fn send(&self, bytes: &[u8]) -> Result<usize>;
    /// Says that nothing more will be sent.
    fn end(&self);
}

enum State {
    /// The request comes.
    Asking(Vec<u8>),
    /// The answer goes: head, text, and how much of both is sent.
    Taking(Vec<u8>, Arc<Vec<u8>>, usize),
    /// The answer is sent.
    Leaving,
    Over,
}

/// See the module.
pub struct Conversation<S> {
    stream: S,
    state: State,
    deadline: u64,
}

impl<S: Stream> Conversation<S> {
    /// With a client that has just connected.
    pub fn new(stream: S, now: u64) -> Self {
        Conversation { stream, state: State::Asking(Vec::new()), deadline: now.saturating_add(ASK) }
    }

    /// By when it must have got further.
    pub fn deadline(&self) -> u64 {
        self.deadline
    }

    /// Goes on as far as that is possible now; returns whether it is over. `text` makes the metrics.
    pub fn go_on(&mut self, now: u64, mut text: impl FnMut() -> Arc<Vec<u8>>) -> bool {
        while now < self.deadline {
            match self.step(now, &mut text) {
                Ok(()) => {}
                Err(Errno::EAGAIN) => return false,
                Err(_) => break,
            }
            if matches!(self.state, State::Over) {
                break;
            }
        }
        self.state = State::Over;
        true
    }

    fn step(&mut self, now: u64, text: &mut impl FnMut() -> Arc<Vec<u8>>) -> Result<()> {
        let mut buffer = [0; 512];
        match &mut self.state {
            State::Asking(request) => {
                let room = (request::LIMIT - request.len()).min(buffer.len());
                let length = self.stream.receive(&mut buffer[..room])?;
                if length == 0 {
                    self.state = State::Over;
                    return Ok(());
                }
                request.try_reserve(length).map_err(|_| Errno::ENOMEM)?;
                request.extend_from_slice(&buffer[..length]);
                if let Some(answer) = request::judge(request) {
                    let (head, body) = respond(answer, text);
                    self.state = State::Taking(head, body, 0);
                    self.deadline = now.saturating_add(TAKE);
                }
            }
            State::Taking(head, body, sent) => {
                let rest = match head.get(*sent..) {
                    Some(rest) if !rest.is_empty() => rest,
                    _ => body.get(*sent - head.len()..).unwrap_or_default(),
                };
                if rest.is_empty() {
                    self.stream.end();
                    self.state = State::Leaving;
                    self.deadline = now.saturating_add(LEAVE);
                    return Ok(());
                }
                *sent += self.stream.send(rest)?;
            }
            State::Leaving => {
                if self.stream.receive(&mut buffer)? == 0 {
                    self.state = State::Over;
                }
            }
            State::Over => {}
        }
        Ok(())
    }
}

/// The head of the answer, and what follows it.
fn respond(answer: Answer, text: impl FnOnce() -> Arc<Vec<u8>>) -> (Vec<u8>, Arc<Vec<u8>>) {
    let (status, body, with_body) = match answer {
        Answer::Metrics { body } => ("200 OK", text(), body),
        Answer::Refuse(status) => (status, Arc::new(format!("{status}\n").into_bytes()), true),
    };
    let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\n{allow}Connection: close\r\n\r\n",
        body.len()
    );
    (head.into_bytes(), if with_body { body } else { Arc::new(Vec::new()) })
}

#[cfg(test)]
mod tests {
    use alloc::{collections::VecDeque, string::String};
    use core::cell::RefCell;

    use super::*;

    /// A client's side: what it sends, and how much it takes.
    #[derive(Default)]
    struct Client {
        sends: RefCell<VecDeque<u8>>,
        closed: bool,
        broken: bool,
        window: RefCell<usize>,
        took: RefCell<Vec<u8>>,
        ended: RefCell<bool>,
    }

    impl Stream for &Client {
        fn receive(&self, buffer: &mut [u8]) -> Result<usize> {
            let mut sends = self.sends.borrow_mut();
            if self.broken {
                return Err(Errno::ECONNRESET);
            }
            if sends.is_empty() && !self.closed {
                return Err(Errno::EAGAIN);
            }
            // In small pieces.
            let length = buffer.len().min(sends.len()).min(3);
            buffer.iter_mut().zip(sends.drain(..length)).for_each(|(slot, byte)| *slot = byte);
            Ok(length)
        }

        fn send(&self, bytes: &[u8]) -> Result<usize> {
            assert!(!*self.ended.borrow());
            let mut window = self.window.borrow_mut();
            let length = bytes.len().min(*window);
            if length == 0 {
                return Err(Errno::EAGAIN);
            }
            *window -= length;
            self.took.borrow_mut().extend_from_slice(&bytes[..length]);
            Ok(length)
        }

        fn end(&self) {
            *self.ended.borrow_mut() = true;
        }
    }

    fn client(text: &[u8], window: usize, closed: bool) -> Client {
        Client {
            sends: RefCell::new(text.iter().copied().collect()),
            window: RefCell::new(window),
            closed,
            ..Default::default()
        }
    }

    fn text() -> Arc<Vec<u8>> {
        Arc::new(b"metric 1\n".to_vec())
    }

    fn took(client: &Client) -> String {
        String::from_utf8(client.took.borrow().clone()).expect("text")
    }

    #[test]
    fn a_client_gets_the_metrics() {
        let client = client(b"GET /metrics HTTP/1.1\r\n\r\n", 1 << 20, true);
        assert!(Conversation::new(&client, 0).go_on(0, text));
        assert_eq!(
            took(&client),
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
             Content-Length: 9\r\nConnection: close\r\n\r\nmetric 1\n"
        );
        assert!(*client.ended.borrow());
    }

    #[test]
    fn the_length_without_the_text_answers_head() {
        let client = client(b"HEAD /metrics HTTP/1.1\r\n\r\n", 1 << 20, true);
        assert!(Conversation::new(&client, 0).go_on(0, text));
        assert!(took(&client).contains("Content-Length: 9\r\n") && took(&client).ends_with("\r\n\r\n"));
    }

    #[test]
    fn a_client_that_takes_a_byte_at_a_time_gets_all() {
        let client = client(b"GET /metrics HTTP/1.1\r\n\r\n", 0, true);
        let mut conversation = Conversation::new(&client, 0);
        let mut turns = 0;
        while !conversation.go_on(0, text) {
            *client.window.borrow_mut() += 1;
            turns += 1;
        }
        assert!(turns > 100 && took(&client).ends_with("\r\n\r\nmetric 1\n"));
    }

    #[test]
    fn a_client_that_says_nothing_or_reads_nothing_is_left() {
        for request in [&b""[..], b"GET /metr", b"GET /metrics HTTP/1.1\r\n\r\n"] {
            let client = client(request, 10, false);
            let mut conversation = Conversation::new(&client, 0);
            assert!(!conversation.go_on(1, text));
            assert!(!conversation.go_on(conversation.deadline() - 1, text));
            assert!(conversation.go_on(conversation.deadline(), text));
        }
    }

    #[test]
    fn a_request_without_an_end_is_refused() {
        let client = client(&[b'x'; 100_000], 1 << 20, true);
        assert!(Conversation::new(&client, 0).go_on(0, text));
        assert!(took(&client).starts_with("HTTP/1.1 431 "));
        let broken = Client { broken: true, ..Default::default() };
        assert!(Conversation::new(&broken, 0).go_on(0, text));
        assert_eq!(took(&broken), "");
    }
}
