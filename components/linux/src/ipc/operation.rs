//! A set of semaphores, and operations on several of them that happen all at once or not at all.

use alloc::{collections::BTreeMap, vec::Vec};

use rumpkern::{Errno, Result, wait::WaitQueue};
use rumpuser::sync::SpinLock;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{IPC_NOWAIT, Permissions};

/// The largest value (SEMVMX), and the largest adjustment at exit (SEMAEM).
pub const VALUE_MAX: i32 = 32767;
/// Undone when the process ends.
pub const SEM_UNDO: u16 = 0x1000;

/// `struct sembuf`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Operation {
    /// Which semaphore of the set.
    pub index: u16,
    /// What is added; 0 waits for the value 0.
    pub change: i16,
    /// IPC_NOWAIT, SEM_UNDO.
    pub flags: u16,
}

/// One semaphore.
#[derive(Debug, Clone, Copy, Default)]
pub struct Semaphore {
    /// Its value.
    pub value: u16,
    /// The process that changed it last.
    pub last: i32,
    /// Tasks that wait for more.
    pub wait_more: u32,
    /// Tasks that wait for 0.
    pub wait_zero: u32,
}

impl Semaphore {
    /// The tasks that wait: for 0, or for more.
    pub fn waiting(&mut self, for_zero: bool) -> &mut u32 {
        if for_zero { &mut self.wait_zero } else { &mut self.wait_more }
    }
}

/// What the lock of a set protects.
pub struct State {
    /// Owner and mode.
    pub permissions: Permissions,
    /// The last operation, seconds.
    pub operated_at: i64,
    /// The last change by semctl, seconds.
    pub changed_at: i64,
    /// It was removed; those that wait go.
    pub removed: bool,
    /// The semaphores.
    pub semaphores: Vec<Semaphore>,
    /// What is added when a process ends.
    pub adjustments: BTreeMap<i32, Vec<i16>>,
}

/// A set.
pub struct Set {
    /// See [`State`].
    pub state: SpinLock<State>,
    /// Woken when a value changes, and when the set is removed.
    pub changed: WaitQueue,
}

/// Why operations have to wait: a semaphore, and whether for its value to become 0 (otherwise: larger).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Obstacle {
    /// Which semaphore.
    pub index: usize,
    /// Whether it must become 0.
    pub zero: bool,
}

impl State {
    /// Does all operations, or none: then says what stands in the way. EAGAIN if the one in the way must not wait.
    pub fn attempt(&mut self, operations: &[Operation], pid: i32) -> Result<Option<Obstacle>> {
        let mut done = 0;
        let mut outcome = Ok(None);
        for operation in operations {
            let index = usize::from(operation.index);
            let semaphore = self.semaphores.get_mut(index).ok_or(Errno::EFBIG)?;
            let value = i32::from(semaphore.value) + i32::from(operation.change);
            if value > VALUE_MAX {
                outcome = Err(Errno::ERANGE);
            } else if value < 0 || operation.change == 0 && semaphore.value != 0 {
                outcome = match operation.flags & IPC_NOWAIT {
                    0 => Ok(Some(Obstacle { index, zero: operation.change == 0 })),
                    _ => Err(Errno::EAGAIN),
                };
            } else {
                semaphore.value = value as u16;
                done += 1;
                continue;
            }
            break;
        }
        if outcome == Ok(None) {
            outcome = self.adjust(operations, pid).map(|()| None);
        }
        if outcome != Ok(None) {
            for operation in &operations[..done] {
                let semaphore = &mut self.semaphores[usize::from(operation.index)];
                semaphore.value = semaphore.value.wrapping_sub(operation.change as u16);
            }
            return outcome;
        }
        for operation in operations {
            self.semaphores[usize::from(operation.index)].last = pid;
        }
        Ok(None)
    }

    /// Notes what is to be undone, all or nothing.
    fn adjust(&mut self, operations: &[Operation], pid: i32) -> Result<()> {
        let undone = || operations.iter().filter(|operation| operation.flags & SEM_UNDO != 0);
        if undone().next().is_none() {
            return Ok(());
        }
        let count = self.semaphores.len();
        let own = self.adjustments.entry(pid).or_insert_with(|| alloc::vec![0; count]);
        let mut changed = own.clone();
        for operation in undone() {
            let place = &mut changed[usize::from(operation.index)];
            let value = i32::from(*place) - i32::from(operation.change);
            if value.abs() > VALUE_MAX {
                return Err(Errno::ERANGE);
            }
            *place = value as i16;
        }
        *own = changed;
        Ok(())
    }

    /// A process ended: undoes what it asked for. Returns whether there was anything.
    pub fn undo(&mut self, pid: i32) -> bool {
        let Some(adjustments) = self.adjustments.remove(&pid) else { return false };
        for (semaphore, adjustment) in self.semaphores.iter_mut().zip(adjustments) {
            if adjustment != 0 {
                let value = i32::from(semaphore.value) + i32::from(adjustment);
                semaphore.value = value.clamp(0, VALUE_MAX) as u16;
                semaphore.last = pid;
            }
        }
        true
    }

    /// Sets a value; nothing of it is undone at any exit.
    pub fn set(&mut self, index: usize, value: u16, pid: i32) {
        let Some(semaphore) = self.semaphores.get_mut(index) else { return };
        (semaphore.value, semaphore.last) = (value, pid);
        for adjustments in self.adjustments.values_mut() {
            adjustments[index] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(values: &[u16]) -> State {
        State {
            permissions: Permissions::default(),
            operated_at: 0,
            changed_at: 0,
            removed: false,
            semaphores: values.iter().map(|&value| Semaphore { value, ..Default::default() }).collect(),
            adjustments: BTreeMap::new(),
        }
    }

    fn values(state: &State) -> Vec<u16> {
        state.semaphores.iter().map(|semaphore| semaphore.value).collect()
    }

    fn operation(index: u16, change: i16, flags: u16) -> Operation {
        Operation { index, change, flags }
    }

    #[test]
    fn all_operations_or_none() {
        let mut state = state(&[2, 0]);
        let both = [operation(0, -2, 0), operation(1, -1, 0)];
        assert_eq!(state.attempt(&both, 1), Ok(Some(Obstacle { index: 1, zero: false })));
        assert_eq!(values(&state), [2, 0]);
        assert_eq!(state.attempt(&[operation(1, 1, 0)], 1), Ok(None));
        assert_eq!(state.attempt(&both, 1), Ok(None));
        assert_eq!(values(&state), [0, 0]);
        assert_eq!(state.attempt(&[operation(0, 0, 0), operation(0, 3, 0)], 1), Ok(None));
        assert_eq!(state.attempt(&[operation(0, 0, 0)], 1), Ok(Some(Obstacle { index: 0, zero: true })));
        assert_eq!(state.attempt(&[operation(1, -1, IPC_NOWAIT)], 1), Err(Errno::EAGAIN));
        assert_eq!(state.attempt(&[operation(0, i16::MAX, 0)], 1), Err(Errno::ERANGE));
        assert_eq!(values(&state), [3, 0]);
    }

    #[test]
    fn an_end_undoes() {
        let mut state = state(&[5, 0]);
        assert_eq!(state.attempt(&[operation(0, -2, SEM_UNDO), operation(1, 4, SEM_UNDO)], 7), Ok(None));
        assert_eq!(state.attempt(&[operation(1, -3, 0)], 8), Ok(None));
        assert_eq!(values(&state), [3, 1]);
        assert!(state.undo(7));
        assert_eq!(values(&state), [5, 0]);
        assert!(!state.undo(7));
        assert_eq!(state.attempt(&[operation(0, -5, SEM_UNDO)], 7), Ok(None));
        state.set(0, 9, 8);
        assert!(state.undo(7));
        assert_eq!(values(&state), [9, 0]);
    }
}
