//! How stream sockets come to be bound, listening, connected.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use rumpkern::{Errno, Result};

use super::{Bound, State, StreamSocket, information};
use crate::{
    base::{Switches, limits},
    inet::{self, message::check_bind, options::InetSwitches, unspecified},
    interface,
    ports::{self, Binding, Protocol, Request},
    socket::{Address, Socket},
    tcp::{Connection, ListenOptions, Listener, PathSettings, Settings},
};

impl StreamSocket {
    fn request(&self, local: core::net::SocketAddr) -> Request {
        Request {
            interface: if self.base.interface() != 0 { self.base.interface() } else { inet::scope(local) },
            version6_only: self.is_version6_only(),
            reuse_address: self.base.is_on(Switches::REUSE_ADDRESS),
            reuse_port: self.base.is_on(Switches::REUSE_PORT),
            user: self.base.creator().uid,
            ..Request::new(Protocol::Tcp, local)
        }
    }

    fn is_version6_only(&self) -> bool {
        self.options.is_on(InetSwitches::VERSION6_ONLY)
    }

    pub(super) fn bind_to(&self, address: &Address) -> Result<()> {
        let local = check_bind(&self.base, &self.options, address)?;
        if local.ip().is_multicast() {
            return Err(Errno::EADDRNOTAVAIL);
        }
        let mut bound = self.changing.lock();
        let idle = matches!(&*self.state.lock(), State::Idle);
        if bound.binding.is_some() || bound.source.is_some() || !idle || self.accepted.is_some() {
            return Err(Errno::EINVAL);
        }
        if local.port() == 0 && self.options.is_on(InetSwitches::BIND_WITHOUT_PORT) {
            bound.source = Some(local.ip());
            return Ok(());
        }
        bound.binding = Some(ports::bind(&self.request(local))?);
        Ok(())
    }

    /// What IP is told of packets to a destination.
    pub(super) fn path_settings(&self, destination: core::net::IpAddr, scope: u32) -> PathSettings {
        PathSettings {
            hop_limit: self.options.hop_limit(destination),
            traffic_class: self.options.traffic_class(destination) & !3,
            interface: if self.base.interface() != 0 { self.base.interface() } else { scope },
            ..PathSettings::default()
        }
    }

    /// The settings that connections begin with, the socket's own options among them.
    fn first_settings(&self) -> Settings {
        let mut settings = *self.settings.lock();
        self.apply_base(&mut settings);
        settings
    }

    pub(super) fn start_listening(&self, backlog: usize) -> Result<()> {
        let backlog = backlog.min(limits::BACKLOG_MOST.load(Relaxed));
        if let Some(listener) = self.listener() {
            listener.set_backlog(backlog);
            return Ok(());
        }
        let mut bound = self.changing.lock();
        if self.connection().is_some() {
            return Err(Errno::EINVAL);
        }
        let binding: Arc<Binding> = match &bound.binding {
            Some(binding) => binding.clone(),
            None => {
                let mut local = unspecified(self.base.domain());
                if let Some(source) = bound.source {
                    local.set_ip(source);
                }
                let binding = ports::bind(&self.request(local))?;
                bound.binding = Some(binding.clone());
                binding
            }
        };
        let local = binding.address();
        let options = ListenOptions {
            backlog,
            reuse_port: self.base.is_on(Switches::REUSE_PORT),
            version6_only: self.is_version6_only(),
            settings: self.first_settings(),
            path: self.path_settings(local, 0),
        };
        let listener = Listener::new(binding, &options)?;
        information::remember(&listener.owner, &self.base);
        self.become_state(State::Listening(listener));
        Ok(())
    }

    pub(super) fn accept_connection(&self, no_wait: bool) -> Result<Arc<dyn Socket>> {
        let listener = self.listener().ok_or(Errno::EINVAL)?;
        let connection = match listener.accept() {
            Err(Errno::EAGAIN) if no_wait => {
                if !interface::poll() {
                    return Err(Errno::EAGAIN);
                }
                listener.accept()?
            }
            Err(Errno::EAGAIN) => {
                let look = || match listener.accept() {
                    Err(Errno::EAGAIN) => None,
                    result => Some(result),
                };
                let deadline = self.base.receive_deadline(false);
                interface::wait(listener.queue(), deadline, look).map_err(|error| match error.into() {
                    Errno::ETIMEDOUT => Errno::EAGAIN,
                    other => other,
                })??
            }
            result => result?,
        };
        let socket = StreamSocket::with(self.base.domain(), self.base.creator(), Some(connection.clone()));
        socket.base.inherit(&self.base);
        socket.options.inherit(&self.options);
        information::remember(&connection.owner, &socket.base);
        Ok(Arc::new(socket))
    }

    /// Begins, waits for, or asks about a connection.
    pub(super) fn connect_to(&self, address: &Address, no_wait: bool) -> Result<()> {
        if matches!(address, Address::Unnamed) {
            return self.disconnect();
        }
        let connection = match self.connection() {
            Some(connection) => connection.clone(),
            None => {
                let connection = self.begin_connection(address)?;
                if no_wait {
                    return Err(Errno::EINPROGRESS);
                }
                return self.finish_connection(&connection);
            }
        };
        if self.announced.load(Relaxed) {
            return Err(Errno::EISCONN);
        }
        match connection.established() {
            Ok(true) => {
                self.announced.store(true, Relaxed);
                Ok(())
            }
            Ok(false) if no_wait => Err(Errno::EALREADY),
            Ok(false) => self.finish_connection(&connection),
            Err(error) => {
                self.connection_failed();
                Err(error)
            }
        }
    }

    fn begin_connection(&self, address: &Address) -> Result<Arc<Connection>> {
        let remote = inet::destination(self.base.domain(), self.is_version6_only(), address)?;
        if remote.ip().is_multicast() {
            return Err(Errno::ENETUNREACH);
        }
        let bound: rumpuser::sync::MutexGuard<'_, Bound> = self.changing.lock();
        match &*self.state.lock() {
            State::Idle => {}
            State::Listening(_) => return Err(Errno::EISCONN),
            State::Connected(_) => return Err(Errno::EALREADY),
        }
        let local = bound.binding.as_ref().map(|binding| binding.address()).or(bound.source);
        if local.is_some_and(|local| !local.is_unspecified() && local.is_ipv4() != remote.is_ipv4()) {
            return Err(Errno::EINVAL);
        }
        let path = self.path_settings(remote.ip(), inet::scope(remote));
        let connection =
            Connection::connect(bound.binding.clone(), bound.source, remote, self.first_settings(), path)?;
        information::remember(&connection.owner, &self.base);
        self.announced.store(false, Relaxed);
        self.become_state(State::Connected(connection.clone()));
        Ok(connection)
    }

    /// Waits until a connection is there. EINPROGRESS when SO_SNDTIMEO is over.
    fn finish_connection(&self, connection: &Connection) -> Result<()> {
        let look = || match connection.established() {
            Ok(false) => None,
            Ok(true) => Some(Ok(())),
            Err(error) => Some(Err(error)),
        };
        let deadline = self.base.send_deadline(false);
        let result = interface::wait(connection.queue(), deadline, look);
        match result {
            Ok(Ok(())) => {
                self.announced.store(true, Relaxed);
                Ok(())
            }
            Ok(Err(error)) => {
                self.connection_failed();
                Err(error)
            }
            Err(error) => Err(match error.into() {
                Errno::ETIMEDOUT => Errno::EINPROGRESS,
                other => other,
            }),
        }
    }

    /// Back to what it was before: another connect may follow.
    fn connection_failed(&self) {
        let _bound = self.changing.lock();
        if let Some(connection) = self.connection() {
            information::forget(&connection);
            connection.close(true);
        }
        self.become_state(State::Idle);
    }

    /// connect(2) to AF_UNSPEC: the connection is reset, and the socket as new.
    fn disconnect(&self) -> Result<()> {
        let _bound = self.changing.lock();
        if let Some(listener) = self.listener() {
            listener.close();
        }
        if let Some(connection) = self.connection() {
            information::forget(&connection);
            connection.close(true);
        }
        self.announced.store(false, Relaxed);
        self.become_state(State::Idle);
        Ok(())
    }
}
