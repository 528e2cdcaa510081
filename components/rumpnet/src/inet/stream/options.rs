//! The options of stream sockets: those of tcp(7), and what others mean for TCP.

use core::sync::atomic::Ordering::Relaxed;

use rumpkern::{Errno, Result};

use super::{StreamSocket, information};
use crate::{
    base::{Switches, name},
    inet::{
        message::unknown_level,
        options::{interface_name, set_interface},
    },
    option::{Value, int, level},
    tcp::{Algorithm, Settings, tunables},
};

/// Names of options at the level SOL_TCP (linux/tcp.h).
mod tcp {
    pub const NODELAY: i32 = 1;
    pub const MAXSEG: i32 = 2;
    pub const CORK: i32 = 3;
    pub const KEEPIDLE: i32 = 4;
    pub const KEEPINTVL: i32 = 5;
    pub const KEEPCNT: i32 = 6;
    pub const SYNCNT: i32 = 7;
    pub const LINGER2: i32 = 8;
    pub const DEFER_ACCEPT: i32 = 9;
    pub const WINDOW_CLAMP: i32 = 10;
    pub const INFO: i32 = 11;
    pub const QUICKACK: i32 = 12;
    pub const CONGESTION: i32 = 13;
    pub const THIN_LINEAR_TIMEOUTS: i32 = 16;
    pub const THIN_DUPACK: i32 = 17;
    pub const USER_TIMEOUT: i32 = 18;
    pub const REPAIR: i32 = 19;
    pub const FASTOPEN: i32 = 23;
    pub const TIMESTAMP: i32 = 24;
    pub const NOTSENT_LOWAT: i32 = 25;
    pub const CC_INFO: i32 = 26;
    pub const SAVE_SYN: i32 = 27;
    pub const FASTOPEN_CONNECT: i32 = 30;
    pub const ULP: i32 = 31;
    pub const INQ: i32 = 36;
}

/// The segment size of a socket without a connection.
const DEFAULT_SEGMENT: i32 = 536;

fn between(value: i32, least: i32, most: i32) -> Result<u32> {
    if (least..=most).contains(&value) { Ok(value as u32) } else { Err(Errno::EINVAL) }
}

/// The time in which `count` SYN-ACKs are sent: 1 s before the second, then twice as long each, at most 120 s.
fn seconds_of(count: u8) -> u32 {
    (0..u32::from(count)).map(|index| (1 << index.min(7)).min(120)).sum()
}

impl StreamSocket {
    /// What the options of SOL_SOCKET mean for TCP.
    pub(super) fn apply_base(&self, settings: &mut Settings) {
        let base = &self.base;
        settings.keep_alive = base.is_on(Switches::KEEP_ALIVE);
        settings.urgent_inline = base.is_on(Switches::URGENT_INLINE);
        let set = |switch, size: usize| base.is_on(switch).then_some(size.min(u32::MAX as usize) as u32);
        settings.send_buffer = set(Switches::SEND_BUFFER_SET, base.send_buffer());
        settings.receive_buffer = set(Switches::RECEIVE_BUFFER_SET, base.receive_buffer());
    }

    /// Changes settings, wherever they count now.
    fn change(&self, change: impl Fn(&mut Settings)) {
        change(&mut self.settings.lock());
        if let Some(connection) = self.connection() {
            connection.set(|settings| change(settings));
        } else if let Some(listener) = self.listener() {
            listener.set(|settings, _| change(settings));
        }
    }

    fn settings_now(&self) -> Settings {
        match self.connection() {
            Some(connection) => connection.settings(),
            None => *self.settings.lock(),
        }
    }

    pub(super) fn value_of(&self, level: i32, option: i32) -> Result<Value> {
        match (level, option) {
            (level::SOCKET, name::ACCEPTCONN) => Ok(Value::switch(self.listener().is_some())),
            (level::SOCKET, name::ERROR) => {
                if let Some(error) = self.connection().and_then(|connection| connection.take_error()) {
                    return Ok(Value::int(error.code()));
                }
                self.base.option(option)
            }
            (level::SOCKET, name::SNDBUF) if !self.base.is_on(Switches::SEND_BUFFER_SET) => {
                let buffers = self.connection().map(|connection| connection.info().buffers);
                Ok(Value::size(buffers.map_or(16_384, |(send, _)| send as usize)))
            }
            (level::SOCKET, name::RCVBUF) if !self.base.is_on(Switches::RECEIVE_BUFFER_SET) => {
                let buffers = self.connection().map(|connection| connection.info().buffers);
                Ok(Value::size(buffers.map_or(131_072, |(_, receive)| receive as usize)))
            }
            (level::SOCKET, name::BINDTODEVICE) => Ok(interface_name(&self.base)),
            (level::SOCKET, option) => self.base.option(option),
            (level::IP | level::IPV6, option) => {
                let mtu = self.connection().and_then(|connection| connection.mtu());
                self.options.option(level, option, mtu)
            }
            (level::TCP, option) => self.tcp_value(option),
            _ => Err(unknown_level(self.base.domain())),
        }
    }

    fn tcp_value(&self, option: i32) -> Result<Value> {
        let settings = self.settings_now();
        let number = |value: u32| Value::int(i32::try_from(value).unwrap_or(i32::MAX));
        Ok(match option {
            tcp::NODELAY => Value::switch(settings.no_delay),
            tcp::CORK => Value::switch(settings.cork),
            tcp::QUICKACK => Value::switch(settings.quick_acknowledge),
            tcp::MAXSEG => match self.connection() {
                Some(connection) => number(connection.info().segments.0),
                None if settings.maximum_segment > 0 => number(settings.maximum_segment.into()),
                None => Value::int(DEFAULT_SEGMENT),
            },
            tcp::KEEPIDLE => number(settings.keep_idle),
            tcp::KEEPINTVL => number(settings.keep_interval),
            tcp::KEEPCNT => number(settings.keep_count.into()),
            tcp::SYNCNT => number(settings.syn_retries.into()),
            tcp::LINGER2 => number(settings.fin_timeout),
            tcp::DEFER_ACCEPT => number(seconds_of(settings.defer_accept)),
            tcp::WINDOW_CLAMP => number(settings.window_clamp),
            tcp::INFO => Value::bytes(&information::of(self)),
            tcp::CONGESTION => {
                let mut bytes = [0; 16];
                let name = settings.algorithm.name().as_bytes();
                bytes[..name.len()].copy_from_slice(name);
                Value::bytes(&bytes)
            }
            tcp::USER_TIMEOUT => number(settings.user_timeout),
            tcp::FASTOPEN => number(self.fast_open.load(Relaxed)),
            tcp::TIMESTAMP => number((rumpuser::rumpuser_clock_monotonic() / 1_000_000) as u32),
            tcp::NOTSENT_LOWAT => Value::int(settings.unsent_low_water as i32),
            tcp::INQ => Value::switch(self.tells_available.load(Relaxed)),
            tcp::THIN_LINEAR_TIMEOUTS
            | tcp::THIN_DUPACK
            | tcp::REPAIR
            | tcp::SAVE_SYN
            | tcp::FASTOPEN_CONNECT => Value::int(0),
            tcp::CC_INFO => Value::bytes(&[]),
            tcp::ULP => Value::bytes(&[]),
            _ => return Err(Errno::ENOPROTOOPT),
        })
    }

    pub(super) fn set_value(&self, level: i32, option: i32, value: &[u8]) -> Result<()> {
        match level {
            level::SOCKET => {
                if let Some(result) = set_interface(&self.base, option, value) {
                    result?;
                    self.apply_path();
                    return Ok(());
                }
                self.base.set_option(option, value)?;
                match option {
                    name::KEEPALIVE
                    | name::OOBINLINE
                    | name::SNDBUF
                    | name::SNDBUFFORCE
                    | name::RCVBUF
                    | name::RCVBUFFORCE
                    | name::BUF_LOCK => self.change(|settings| self.apply_base(settings)),
                    name::REUSEADDR | name::REUSEPORT => {
                        if let Some(binding) = &self.changing.lock().binding {
                            binding.set_reuse(
                                self.base.is_on(Switches::REUSE_ADDRESS),
                                self.base.is_on(Switches::REUSE_PORT),
                            );
                        }
                    }
                    _ => {}
                }
                Ok(())
            }
            level::IP | level::IPV6 => {
                let bound = self.local().port() != 0;
                self.options.set_option(level, option, value, bound)?;
                self.apply_path();
                Ok(())
            }
            level::TCP => self.set_tcp_value(option, value),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    /// What the options of IP mean for packets from now on.
    fn apply_path(&self) {
        if let Some(connection) = self.connection() {
            let scope = connection.path_settings().interface;
            let path = self.path_settings(connection.remote().ip(), scope);
            connection.set_path(|settings| *settings = path);
        } else if let Some(listener) = self.listener() {
            let path = self.path_settings(listener.local().ip(), 0);
            listener.set(|_, settings| *settings = path);
        }
    }

    fn set_tcp_value(&self, option: i32, value: &[u8]) -> Result<()> {
        match option {
            tcp::CONGESTION => {
                let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
                let algorithm = Algorithm::from_name(&value[..end]).ok_or(Errno::ENOENT)?;
                self.change(|settings| settings.algorithm = algorithm);
                return Ok(());
            }
            // No protocol sits on top of TCP: "tls" and others are not there.
            tcp::ULP => return Err(Errno::ENOENT),
            _ => {}
        }
        let value = int(value)?;
        let on = value != 0;
        match option {
            tcp::NODELAY => self.change(|settings| settings.no_delay = on),
            tcp::CORK => self.change(|settings| settings.cork = on),
            tcp::QUICKACK => self.change(|settings| settings.quick_acknowledge = on),
            tcp::MAXSEG => {
                let segment = if value == 0 { 0 } else { between(value, 88, 32_767)? };
                self.change(|settings| settings.maximum_segment = segment as u16);
            }
            tcp::KEEPIDLE => {
                let seconds = between(value, 1, 32_767)?;
                self.change(|settings| settings.keep_idle = seconds);
            }
            tcp::KEEPINTVL => {
                let seconds = between(value, 1, 32_767)?;
                self.change(|settings| settings.keep_interval = seconds);
            }
            tcp::KEEPCNT => {
                let count = between(value, 1, 127)?;
                self.change(|settings| settings.keep_count = count as u8);
            }
            tcp::SYNCNT => {
                let count = between(value, 1, 127)?;
                self.change(|settings| settings.syn_retries = count as u8);
            }
            tcp::LINGER2 => {
                let usual = tunables::FIN_TIMEOUT.get();
                let seconds = u32::try_from(value).unwrap_or(0).min(60);
                self.change(|settings| settings.fin_timeout = if value == 0 { usual } else { seconds });
            }
            tcp::DEFER_ACCEPT => {
                let wanted = u32::try_from(value).unwrap_or(0);
                // As many SYN-ACKs as are sent in that time.
                let count = (0..=u8::MAX).find(|&count| seconds_of(count) >= wanted).unwrap_or(u8::MAX);
                self.change(|settings| settings.defer_accept = count);
            }
            tcp::WINDOW_CLAMP => {
                if value == 0 && self.connection().is_some() {
                    return Err(Errno::EINVAL);
                }
                let clamp = u32::try_from(value).map_err(|_| Errno::EINVAL)?;
                self.change(|settings| settings.window_clamp = if clamp == 0 { 0 } else { clamp.max(1152) });
            }
            tcp::USER_TIMEOUT => {
                let timeout = u32::try_from(value).map_err(|_| Errno::EINVAL)?;
                self.change(|settings| settings.user_timeout = timeout);
            }
            tcp::FASTOPEN => self.fast_open.store(u32::try_from(value).map_err(|_| Errno::EINVAL)?, Relaxed),
            tcp::NOTSENT_LOWAT => {
                let low_water = if value == 0 { u32::MAX } else { value as u32 };
                self.change(|settings| settings.unsent_low_water = low_water);
            }
            tcp::INQ => self.tells_available.store(between(value, 0, 1)? != 0, Relaxed),
            // Hints about loss recovery, which is the same for all; no SYN is kept.
            tcp::THIN_LINEAR_TIMEOUTS | tcp::THIN_DUPACK | tcp::SAVE_SYN => {
                between(value, 0, 2)?;
            }
            tcp::FASTOPEN_CONNECT => return Err(Errno::EOPNOTSUPP),
            tcp::REPAIR => return Err(Errno::EPERM),
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }
}
