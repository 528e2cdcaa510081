//! Data between the user and a connection: copied once on the way out, and once on the way in; spliced not at all.

use alloc::sync::Arc;

use rumpkern::{
    Errno, Result,
    uio::{Sink, Source},
};
use rumpuser::{memory::PAGE_SIZE, rumpuser_cpu, sync::SpinLock};

use super::{connection::Connection, control::Changes};
use crate::packet::{Chain, Fragment};

/// So much is copied at a time.
const BATCH: usize = 64 << 10;
/// What is shorter shares a page with what other connections send.
const SMALL: usize = 1024;
const CPUS: usize = 64;

/// A page of each CPU that is filled by short sends.
static PAGES: [SpinLock<Option<Fragment>>; CPUS] = [const { SpinLock::new(None) }; CPUS];

/// How to send.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SendFlags {
    /// MSG_MORE.
    pub more: bool,
    /// MSG_OOB.
    pub urgent: bool,
}

/// How to receive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReceiveFlags {
    /// MSG_PEEK.
    pub peek: bool,
    /// Where to look (SO_PEEK_OFF).
    pub offset: usize,
    /// MSG_TRUNC: throw the data away; the sink's room says how much.
    pub discard: bool,
}

/// A copy of `length` bytes, or fewer at a bad address.
fn copy(source: &mut Source<'_>, length: usize) -> Result<Chain> {
    if length <= SMALL {
        let slot = &PAGES[rumpuser_cpu() % CPUS];
        let kept = slot.lock().take();
        let mut page = match kept {
            Some(page) if page.room() >= length => page,
            _ => Fragment::new(0)?,
        };
        let start = page.len();
        let copied = page.append_from(source, length);
        let mut chain = Chain::new();
        chain.push(page.slice(start..page.len()));
        let old = slot.lock().replace(page);
        drop(old);
        copied?;
        return Ok(chain);
    }
    let mut chain = Chain::with_capacity(length.div_ceil(PAGE_SIZE));
    while chain.len() < length {
        let mut page = Fragment::new(0)?;
        match page.append_from(source, (length - chain.len()).min(PAGE_SIZE)) {
            Ok(0) => break,
            Ok(_) => chain.push(page),
            Err(_) if !chain.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(chain)
}

impl Connection {
    /// Queues as much as there is room for; never waits. EAGAIN if that is nothing, EPIPE after the end, or what
    /// ended the connection.
    pub fn send(self: &Arc<Self>, source: &mut Source<'_>, flags: SendFlags) -> Result<usize> {
        let mut done = 0;
        loop {
            let room = match self.lock().tcb.room() {
                Ok(room) => room,
                Err(_) if done > 0 => return Ok(done),
                Err(error) => return Err(error),
            };
            let left = source.remaining();
            if left == 0 {
                return Ok(done);
            }
            let chain = match copy(source, left.min(room).min(BATCH)) {
                Ok(chain) => chain,
                Err(_) if done > 0 => return Ok(done),
                Err(error) => return Err(error),
            };
            let length = chain.len();
            let last = length == left;
            let more = flags.more || !last;
            self.push(chain, more, flags.urgent && last)?;
            done += length;
            if last || length == 0 {
                return Ok(done);
            }
        }
    }

    fn push(self: &Arc<Self>, chain: Chain, more: bool, urgent: bool) -> Result<()> {
        self.act(|tcb, path, now| {
            if !tcb.state.can_send() {
                return (Err(tcb.take_error().unwrap_or(Errno::EPIPE)), Changes::empty());
            }
            path.follow(tcb.is_drained());
            tcb.push(now, chain, more, urgent, path);
            (Ok(()), Changes::empty())
        })
    }

    /// Queues pages that somebody else has, without a copy (sendfile, splice), as far as there is room; what does not
    /// fit stays in `chain`. Errors as [`Connection::send`].
    pub fn give_chain(self: &Arc<Self>, chain: &mut Chain, more: bool) -> Result<usize> {
        let room = self.lock().tcb.room()?;
        let length = room.min(chain.len());
        let part = chain.slice(0..length);
        let more = more || length < chain.len();
        self.push(part, more, false)?;
        chain.advance(length);
        Ok(length)
    }

    /// Takes what there is, up to the sink's room; never waits. 0 at the end; EAGAIN if there is nothing, or what
    /// ended the connection.
    pub fn receive(self: &Arc<Self>, sink: &mut Sink<'_>, flags: ReceiveFlags) -> Result<usize> {
        if flags.peek {
            return self.look(sink, flags.offset);
        }
        let mut done = 0;
        let wanted = sink.remaining();
        while done < wanted {
            let chain = match self.take_chain((wanted - done).min(BATCH)) {
                Ok(chain) => chain,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            };
            if chain.is_empty() {
                break;
            }
            let length = chain.len();
            if flags.discard {
                done += length;
                continue;
            }
            let copied = match chain.copy_out(sink) {
                Ok(copied) => copied,
                Err(error) => {
                    self.lock().tcb.put_back(chain);
                    if done > 0 {
                        break;
                    }
                    return Err(error);
                }
            };
            done += copied;
            if copied < length {
                self.lock().tcb.put_back(chain.slice(copied..length));
                break;
            }
            if length < BATCH || self.lock().tcb.at_mark() {
                break;
            }
        }
        Ok(done)
    }

    /// MSG_PEEK.
    fn look(&self, sink: &mut Sink<'_>, offset: usize) -> Result<usize> {
        let chain = {
            let mut inner = self.lock();
            let chain = inner.tcb.peek(offset, sink.remaining());
            if chain.is_empty() && sink.remaining() > 0 {
                inner.tcb.nothing_to_read()?;
            }
            chain
        };
        chain.copy_out(sink)
    }

    /// Takes up to `limit` bytes in the pages that they came in (splice). Empty at the end; errors as
    /// [`Connection::receive`].
    pub fn take_chain(self: &Arc<Self>, limit: usize) -> Result<Chain> {
        self.act(|tcb, path, now| {
            path.follow(tcb.is_drained());
            let chain = tcb.take(now, limit, path);
            if chain.is_empty() && limit > 0 {
                return (tcb.nothing_to_read().map(|()| chain), Changes::empty());
            }
            (Ok(chain), Changes::empty())
        })
    }

    /// Puts back what could not be passed on.
    pub fn return_chain(&self, chain: Chain) {
        self.lock().tcb.put_back(chain);
    }

    /// The urgent byte (MSG_OOB).
    pub fn receive_urgent(&self, peek: bool) -> Result<u8> {
        self.lock().tcb.take_urgent(peek)
    }

    /// SIOCATMARK.
    pub fn at_mark(&self) -> bool {
        self.lock().tcb.at_mark()
    }

    /// Bytes that a receive would give (FIONREAD).
    pub fn available(&self) -> usize {
        self.lock().tcb.readable()
    }

    /// Bytes queued and not acknowledged (SIOCOUTQ), and those never sent (SIOCOUTQNSD).
    pub fn unsent(&self) -> (usize, usize) {
        self.lock().tcb.unsent()
    }
}
