//! Access to a space from outside: other processes' memory, arguments of a program that is being started.

use rumpuser::{
    Frame, Protection,
    memory::{PAGE_SIZE, USER_END},
    rumpuser_frame_release, rumpuser_frame_retain,
};

use super::{FaultError, Space};

impl Space {
    /// The frame at `address`, with one reference for the caller, after the fault that an access would cause.
    pub fn hold_frame(&self, address: usize, write: bool) -> Result<Frame, FaultError> {
        if address >= USER_END {
            return Err(FaultError::NotMapped);
        }
        loop {
            {
                let _map = self.map.read();
                let _stripe = self.stripe(address).lock();
                if let Some((frame, protection)) = self.pmap.query(address) {
                    let needed = if write { Protection::WRITE } else { Protection::READ };
                    if protection.contains(needed) || !write && !protection.is_empty() {
                        rumpuser_frame_retain(frame);
                        return Ok(frame);
                    }
                }
            }
            self.fault(address, write, false)?;
        }
    }

    /// Copies out of the space; returns how much could be copied, and the fault if that is not all.
    pub fn read(&self, address: usize, bytes: &mut [u8]) -> (usize, Result<(), FaultError>) {
        let mut done = 0;
        while done < bytes.len() {
            let at = address.saturating_add(done);
            let offset = at % PAGE_SIZE;
            let part = (bytes.len() - done).min(PAGE_SIZE - offset);
            match self.hold_frame(at, false) {
                Ok(frame) => {
                    frame.read(offset, &mut bytes[done..done + part]);
                    rumpuser_frame_release(frame);
                }
                Err(error) => return (done, Err(error)),
            }
            done += part;
        }
        (done, Ok(()))
    }

    /// Copies into the space; returns how much could be copied, and the fault if that is not all.
    pub fn write(&self, address: usize, bytes: &[u8]) -> (usize, Result<(), FaultError>) {
        let mut done = 0;
        while done < bytes.len() {
            let at = address.saturating_add(done);
            let offset = at % PAGE_SIZE;
            let part = (bytes.len() - done).min(PAGE_SIZE - offset);
            match self.hold_frame(at, true) {
                Ok(frame) => {
                    frame.write(offset, &bytes[done..done + part]);
                    rumpuser_frame_release(frame);
                }
                Err(error) => return (done, Err(error)),
            }
            done += part;
        }
        (done, Ok(()))
    }
}
