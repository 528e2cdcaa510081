//! The deadlines of all connections. A connection is entered for its earliest deadline of late: that a deadline moves
//! away changes nothing here, and is found out when the entry is due.

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicU64, Ordering};

use rumpuser::{NEVER, rumpuser_clock_monotonic, sync::SpinLock};

use super::{connection::Connection, listener, table};
use crate::service::{self, Task};

const SHARDS: usize = 16;
/// So many connections are looked after before others get the shard's lock.
const BATCH: usize = 64;

/// Deadlines of connections are put off to multiples of this many nanoseconds (17 ms), so that those of many connections
/// are met at once.
const TICK: u64 = 1 << 24;
/// The same for TIME-WAIT and half-open connections (0.5 s).
const COARSE_TICK: u64 = 1 << 29;

/// The interfaces whose link came back, or which have an address again.
static RETURNED: SpinLock<Vec<u32>> = SpinLock::new(Vec::new());

type Shard = SpinLock<BTreeMap<(u64, usize), Arc<Connection>>>;

/// When TIME-WAIT and half-open connections are looked after.
static HOUSEKEEPING: AtomicU64 = AtomicU64::new(NEVER);

static QUEUE: [Shard; SHARDS] = [const { SpinLock::new(BTreeMap::new()) }; SHARDS];

fn identity(connection: &Connection) -> usize {
    core::ptr::from_ref(connection) as usize
}

fn shard(connection: &Connection) -> &'static Shard {
    &QUEUE[connection.hash as usize % SHARDS]
}

fn round_up(deadline: u64, tick: u64) -> u64 {
    deadline.saturating_add(tick - 1) & !(tick - 1)
}

/// Has TIME-WAIT and half-open connections looked after at `deadline`.
pub fn keep_house(deadline: u64) {
    let deadline = round_up(deadline, COARSE_TICK);
    if HOUSEKEEPING.fetch_min(deadline, Ordering::AcqRel) > deadline {
        service::at(Task::Tcp, deadline);
    }
}

/// Enters a connection for `deadline`, instead of `before` ([`NEVER`] if it was not entered). Returns for when it is
/// entered now. Called with the connection locked.
#[cold]
pub fn schedule(connection: &Arc<Connection>, before: u64, deadline: u64) -> u64 {
    let deadline = round_up(deadline, TICK);
    if deadline == before {
        return deadline;
    }
    let mut queue = shard(connection).lock();
    if before != NEVER {
        queue.remove(&(before, identity(connection)));
    }
    queue.insert((deadline, identity(connection)), connection.clone());
    drop(queue);
    service::at(Task::Tcp, deadline);
    deadline
}

/// Takes a connection out that was entered for `deadline`. Called with the connection locked.
#[cold]
pub fn cancel(connection: &Connection, deadline: u64) {
    let gone = shard(connection).lock().remove(&(deadline, identity(connection)));
    drop(gone);
}

/// Packets get through again by the interface of this number: connections that have lost some send them soon, however long
/// they would have waited.
pub fn path_returned(interface: u32) {
    let mut returned = RETURNED.lock();
    if !returned.contains(&interface) {
        returned.push(interface);
    }
    drop(returned);
    service::at(Task::Tcp, rumpuser_clock_monotonic());
}

fn resume() {
    let returned = core::mem::take(&mut *RETURNED.lock());
    if !returned.is_empty() {
        table::connections().iter().for_each(|connection| connection.path_returned(&returned));
    }
}

/// Does what is due; returns when the next is.
pub fn run(now: u64) -> u64 {
    resume();
    let mut next = NEVER;
    for shard in &QUEUE {
        loop {
            let mut due = Vec::new();
            let mut queue = shard.lock();
            while let Some((&(deadline, _), _)) = queue.first_key_value() {
                if deadline > now || due.len() == BATCH {
                    next = next.min(deadline);
                    break;
                }
                due.extend(queue.pop_first().map(|((deadline, _), connection)| (deadline, connection)));
            }
            drop(queue);
            let more = due.len() == BATCH;
            due.iter().for_each(|(deadline, connection)| connection.timer(*deadline));
            if !more {
                break;
            }
        }
    }
    if HOUSEKEEPING.load(Ordering::Acquire) <= now {
        HOUSEKEEPING.store(NEVER, Ordering::Release);
        let again = table::expire(now).min(listener::run(now));
        if again != NEVER {
            HOUSEKEEPING.fetch_min(round_up(again, COARSE_TICK), Ordering::AcqRel);
        }
    }
    next.min(HOUSEKEEPING.load(Ordering::Acquire))
}
