//! Sending and receiving on stream sockets.

use core::sync::atomic::Ordering::Relaxed;

use rumpkern::{
    Errno, Result,
    poll::Events,
    uio::{Sink, Source},
};

use super::StreamSocket;
use crate::{
    base::Switches,
    interface,
    option::level,
    packet::Chain,
    socket::{Control, MessageFlags},
    tcp::{Connection, ReceiveFlags, SendFlags},
};

/// TCP_CM_INQ.
const AVAILABLE: i32 = 36;

impl StreamSocket {
    /// Waits until `events` may have come. EAGAIN when the time is up.
    fn wait_for(connection: &Connection, events: Events, deadline: u64) -> Result<()> {
        let wanted = events | Events::ERR | Events::HUP;
        let look = || connection.poll().intersects(wanted).then_some(());
        interface::wait(connection.queue(), deadline, look).map_err(|error| match error.into() {
            Errno::ETIMEDOUT => Errno::EAGAIN,
            other => other,
        })
    }

    /// Calls `attempt` until it needs no more waiting: it returns whether everything was done.
    fn repeat(
        &self,
        connection: &Connection,
        (events, deadline): (Events, u64),
        mut attempt: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let mut polled = false;
        loop {
            match attempt() {
                Ok(true) => return Ok(()),
                Ok(false) | Err(Errno::EAGAIN) => {}
                Err(error) => return Err(error),
            }
            if deadline != 0 {
                Self::wait_for(connection, events, deadline)?;
            } else if polled || !self.dry.swap(true, Relaxed) || !interface::poll() {
                // Most programs wait after the first try that found nothing, and that polls. Only who tries on and
                // on needs a poll here.
                return Err(Errno::EAGAIN);
            } else {
                polled = true;
            }
        }
    }

    #[inline]
    pub(super) fn send_bytes(&self, source: &mut Source<'_>, flags: MessageFlags) -> Result<usize> {
        let Some(connection) = self.connection() else { return Err(self.unconnected()) };
        let how = SendFlags {
            more: flags.contains(MessageFlags::MORE),
            urgent: flags.contains(MessageFlags::OUT_OF_BAND),
        };
        let mut done = 0;
        // The usual case: there is room for everything.
        let first = connection.send(source, how);
        let result = match first {
            Ok(size) => {
                done = size;
                if source.remaining() > 0 { Err(Errno::EAGAIN) } else { Ok(()) }
            }
            Err(error) => Err(error),
        };
        let result = match result {
            Err(Errno::EAGAIN) => {
                let deadline = self.base.send_deadline(flags.contains(MessageFlags::DONT_WAIT));
                self.repeat(&connection, (Events::OUT, deadline), || {
                    done += connection.send(source, how)?;
                    Ok(source.remaining() == 0)
                })
            }
            result => result,
        };
        match result {
            Err(error) if done == 0 => return Err(error),
            _ => {}
        }
        if flags.contains(MessageFlags::ZERO_COPY) && self.base.is_on(Switches::ZERO_COPY) {
            // It was copied: the program may have its pages back at once.
            self.errors.complete(self.zero_copies.fetch_add(1, Relaxed), true);
            connection.queue().notify(Events::ERR);
        }
        Ok(done)
    }

    /// Why a socket without a connection can't send: its error, or EPIPE.
    fn unconnected(&self) -> Errno {
        self.base.take_error().err().unwrap_or(Errno::EPIPE)
    }

    pub(super) fn send_pages(&self, chain: &mut Chain, flags: MessageFlags) -> Result<usize> {
        let Some(connection) = self.connection() else { return Err(self.unconnected()) };
        let more = flags.contains(MessageFlags::MORE);
        let deadline = self.base.send_deadline(flags.contains(MessageFlags::DONT_WAIT));
        let mut done = 0;
        let result = self.repeat(&connection, (Events::OUT, deadline), || {
            done += connection.give_chain(chain, more)?;
            Ok(chain.is_empty())
        });
        match result {
            Err(error) if done == 0 => Err(error),
            _ => Ok(done),
        }
    }

    pub(super) fn take_pages(&self, most: usize, flags: MessageFlags) -> Result<Chain> {
        let connection = self.connection().ok_or(Errno::ENOTCONN)?;
        let deadline = self.base.receive_deadline(flags.contains(MessageFlags::DONT_WAIT));
        let mut taken = Chain::new();
        self.repeat(&connection, (Events::IN, deadline), || {
            taken = connection.take_chain(most)?;
            Ok(true)
        })?;
        Ok(taken)
    }

    pub(super) fn receive_bytes(
        &self,
        sink: &mut Sink<'_>,
        flags: MessageFlags,
    ) -> Result<(usize, MessageFlags)> {
        let (size, result) = self.receive_at_offset(sink, flags)?;
        // What is read is no longer before the place to look at; what was looked at is.
        if self.base.peek_offset() >= 0 && !flags.contains(MessageFlags::OUT_OF_BAND) {
            let size = i32::try_from(size).unwrap_or(i32::MAX);
            self.base.move_peek_offset(if flags.contains(MessageFlags::PEEK) { size } else { -size });
        }
        Ok((size, result))
    }

    #[inline]
    fn receive_at_offset(&self, sink: &mut Sink<'_>, flags: MessageFlags) -> Result<(usize, MessageFlags)> {
        let Some(connection) = self.connection().or_else(|| self.connection_to_be()) else {
            self.base.take_error()?;
            return Err(Errno::ENOTCONN);
        };
        if flags.contains(MessageFlags::OUT_OF_BAND) {
            return self.receive_urgent(&connection, sink, flags);
        }
        let wanted = sink.remaining();
        let how = ReceiveFlags {
            peek: flags.contains(MessageFlags::PEEK),
            discard: flags.contains(MessageFlags::TRUNCATED),
            offset: self.base.peek_offset().max(0) as usize,
        };
        if wanted == 0 {
            return Ok((0, MessageFlags::default()));
        }
        let least = if flags.contains(MessageFlags::WAIT_ALL) {
            wanted
        } else {
            self.base.receive_least().min(wanted)
        };
        if how.discard || how.peek && least + how.offset > 1 {
            return self.receive_rarely(&connection, sink, (how, least), flags);
        }
        // The usual case: there is enough.
        let mut done = 0;
        match connection.receive(sink, how) {
            Ok(size) if size >= least || size == 0 => {
                self.dry.store(false, Relaxed);
                return Ok((size, MessageFlags::default()));
            }
            Ok(size) => done = size,
            Err(Errno::EAGAIN) => {}
            Err(error) => return Err(error),
        }
        let deadline = self.base.receive_deadline(flags.contains(MessageFlags::DONT_WAIT));
        let result = self.repeat(&connection, (Events::IN, deadline), || {
            let size = connection.receive(sink, how)?;
            done += size;
            Ok(size == 0 || done >= least)
        });
        match result {
            Err(error) if done == 0 => Err(error),
            _ => Ok((done, MessageFlags::default())),
        }
    }

    /// Throws data away (MSG_TRUNC), or looks at it once there is enough.
    #[cold]
    fn receive_rarely(
        &self,
        connection: &alloc::sync::Arc<Connection>,
        sink: &mut Sink<'_>,
        (how, least): (ReceiveFlags, usize),
        flags: MessageFlags,
    ) -> Result<(usize, MessageFlags)> {
        let deadline = self.base.receive_deadline(flags.contains(MessageFlags::DONT_WAIT));
        let mut done = 0;
        if how.peek && deadline != 0 {
            let look = || {
                let over = connection.poll().intersects(Events::RDHUP | Events::HUP | Events::ERR);
                (over || connection.available() >= least.saturating_add(how.offset)).then_some(())
            };
            // When the time is up, what there is will do.
            match interface::wait(connection.queue(), deadline, look).map_err(Errno::from) {
                Ok(()) | Err(Errno::ETIMEDOUT) => {}
                Err(error) => return Err(error),
            }
            return connection.receive(sink, how).map(|size| (size, MessageFlags::default()));
        }
        let result = self.repeat(connection, (Events::IN, deadline), || {
            let size = if how.discard && !how.peek {
                let chain = connection.take_chain(sink.remaining().saturating_sub(done))?;
                chain.len()
            } else {
                connection.receive(sink, how)?
            };
            done += size;
            Ok(size == 0 || how.peek || done >= least)
        });
        match result {
            Err(error) if done == 0 => Err(error),
            _ => Ok((done, MessageFlags::default())),
        }
    }

    fn receive_urgent(
        &self,
        connection: &Connection,
        sink: &mut Sink<'_>,
        flags: MessageFlags,
    ) -> Result<(usize, MessageFlags)> {
        let byte = connection.receive_urgent(flags.contains(MessageFlags::PEEK))?;
        if sink.remaining() == 0 {
            return Ok((0, MessageFlags::OUT_OF_BAND | MessageFlags::TRUNCATED));
        }
        Ok((sink.put(&[byte])?, MessageFlags::OUT_OF_BAND))
    }

    /// How much more there is (TCP_INQ).
    pub(super) fn available_control(&self) -> Control {
        let available = self.connection().map_or(0, |connection| connection.available());
        let available = i32::try_from(available).unwrap_or(i32::MAX);
        Control { level: level::TCP, kind: AVAILABLE, data: available.to_ne_bytes().as_slice().into() }
    }
}
