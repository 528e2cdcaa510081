//! The deadlines of all connections. A connection is entered for its earliest deadline of late: that a deadline moves
//! away changes nothing here, and is found out when the entry is due.

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};

use rumpuser::{NEVER, sync::SpinLock};

use super::{connection::Connection, listener, table};
use crate::service::{self, Task};

const SHARDS: usize = 16;
/// So many connections are looked after before others get the shard's lock.
const BATCH: usize = 64;

type Shard = SpinLock<BTreeMap<(u64, usize), Arc<Connection>>>;

static QUEUE: [Shard; SHARDS] = [const { SpinLock::new(BTreeMap::new()) }; SHARDS];

fn identity(connection: &Connection) -> usize {
    core::ptr::from_ref(connection) as usize
}

fn shard(connection: &Connection) -> &'static Shard {
    &QUEUE[connection.hash as usize % SHARDS]
}

/// Enters a connection for `deadline`, instead of `before` ([`NEVER`] if it was not entered). Called with the
/// connection locked.
#[cold]
pub fn schedule(connection: &Arc<Connection>, before: u64, deadline: u64) {
    let mut queue = shard(connection).lock();
    if before != NEVER {
        queue.remove(&(before, identity(connection)));
    }
    queue.insert((deadline, identity(connection)), connection.clone());
    drop(queue);
    service::at(Task::Tcp, deadline);
}

/// Takes a connection out that was entered for `deadline`. Called with the connection locked.
#[cold]
pub fn cancel(connection: &Connection, deadline: u64) {
    let gone = shard(connection).lock().remove(&(deadline, identity(connection)));
    drop(gone);
}

/// Does what is due; returns when the next is.
pub fn run(now: u64) -> u64 {
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
    next.min(table::expire(now)).min(listener::run(now))
}
