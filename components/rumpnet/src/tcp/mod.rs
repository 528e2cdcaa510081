//! TCP (RFC 9293).
//!
//! [`control`] is the state machine, which knows nothing of locks, tables or clocks and is tested by itself. Around it:
//! [`connection`] and [`listener`] are what sockets hold; [`receive`] finds whom a segment is for in the [`table`];
//! [`path`] puts segments into packets; [`timers`] has the deadlines.

pub mod congestion;
pub mod connection;
pub mod control;
pub mod counters;
pub mod estimator;
#[cfg(any(test, feature = "host"))]
#[doc(hidden)]
pub mod fuzz;
pub mod half_open;
pub mod hash;
pub mod info;
pub mod listener;
pub mod memory;
pub mod owner;
pub mod path;
pub mod queue;
pub mod reassembly;
mod receive;
pub mod scoreboard;
pub mod segment;
pub mod sequence;
pub mod table;
pub mod time_wait;
pub(crate) mod timers;
pub mod transfer;
pub mod tunables;

pub(crate) use self::timers::path_returned;
pub use self::{
    congestion::Algorithm,
    connection::Connection,
    control::{Settings, State},
    info::Info,
    listener::{ListenOptions, Listener},
    path::PathSettings,
    receive::{error, input},
    transfer::{ReceiveFlags, SendFlags},
};

/// Gets ready, before the first connection or listener.
fn start() {
    counters::register();
    crate::service::start();
}

#[cfg(test)]
mod tests;
