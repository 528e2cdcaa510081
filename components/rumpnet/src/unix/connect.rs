//! How Unix sockets come to be connected.

use alloc::sync::{Arc, Weak};

use rumpkern::{Errno, Result, poll::Events};

use super::{UnixSocket, names};
use crate::socket::{Address, Credentials, Socket};

impl UnixSocket {
    pub(super) fn accept_connection(&self, no_wait: bool) -> Result<Arc<dyn Socket>> {
        if self.is_datagram() {
            return Err(Errno::EOPNOTSUPP);
        }
        let deadline = self.base.receive_deadline(no_wait);
        let connection = self.base.wait(deadline, || {
            let mut state = self.state.lock();
            let shut = state.shut_receive;
            match &mut state.listener {
                None => Some(Err(Errno::EINVAL)),
                Some(listener) => match listener.pending.pop_front() {
                    Some(connection) => Some(Ok(connection)),
                    None => shut.then_some(Err(Errno::EINVAL)),
                },
            }
        })??;
        // There is room for another one.
        self.base.changes.wake_all();
        Ok(connection)
    }

    /// Connects a stream or a sequence of packets to a listener.
    pub(super) fn connect_stream(&self, address: &Address, no_wait: bool, caller: Credentials) -> Result<()> {
        let listener = names::find(address)?;
        if listener.base.style() != self.base.style() {
            return Err(Errno::EPROTOTYPE);
        }
        {
            let state = self.state.lock();
            if state.listener.is_some() {
                return Err(Errno::EINVAL);
            }
            if state.connected {
                return Err(Errno::EISCONN);
            }
        }
        let connection = UnixSocket::new(self.base.style(), listener.base.creator());
        let deadline = self.base.send_deadline(no_wait);
        listener
            .base
            .wait(deadline, || {
                let mut state = listener.state.lock();
                let shut = state.shut_receive;
                let (name, credentials) = (state.name.clone(), state.own_credentials);
                let Some(queue) = state.listener.as_mut().filter(|_| !shut) else {
                    return Some(Err(Errno::ECONNREFUSED));
                };
                if queue.pending.len() > queue.backlog {
                    return None;
                }
                {
                    let mut new = connection.state.lock();
                    new.name = name;
                    new.peer = Some(self.myself.clone());
                    new.connected = true;
                    new.peer_credentials = Some(caller);
                }
                queue.pending.push_back(connection.clone());
                Some(Ok(credentials))
            })?
            .and_then(|credentials| {
                let mut state = self.state.lock();
                if state.connected {
                    return Err(Errno::EISCONN);
                }
                state.connected = true;
                state.peer = Some(Arc::downgrade(&connection));
                state.peer_credentials = Some(credentials);
                Ok(())
            })?;
        listener.base.changes.notify(Events::IN | Events::RDNORM);
        self.base.changes.notify(Events::OUT | Events::WRNORM);
        if connection.is_closed() {
            // The listener was closed meanwhile.
            self.peer_closed(true);
        }
        Ok(())
    }

    /// Connects a datagram socket, or dissolves its connection.
    pub(super) fn connect_datagram(&self, address: &Address) -> Result<()> {
        let target = match address {
            Address::Unnamed => None,
            address => Some(names::find(address)?),
        };
        if let Some(target) = &target {
            if !target.is_datagram() {
                return Err(Errno::EPROTOTYPE);
            }
            if !target.accepts_from(self) {
                return Err(Errno::EPERM);
            }
        }
        let old = {
            let mut state = self.state.lock();
            state.connected = target.is_some();
            state.peer_credentials = None;
            core::mem::replace(&mut state.peer, target.as_ref().map(Arc::downgrade))
        };
        if let Some(old) = old.and_then(|old| old.upgrade()) {
            old.state.lock().senders.retain(|sender| !Weak::ptr_eq(sender, &self.myself));
        }
        if let Some(target) = target {
            let mut state = target.state.lock();
            state.senders.retain(|sender| sender.strong_count() > 0);
            state.senders.push(self.myself.clone());
        }
        self.base.changes.notify(Events::OUT);
        Ok(())
    }

    /// A connected datagram socket takes datagrams of its peer only.
    pub(super) fn accepts_from(&self, sender: &UnixSocket) -> bool {
        match &self.state.lock().peer {
            None => true,
            Some(peer) => core::ptr::eq(peer.as_ptr(), sender),
        }
    }
}
