//! FIFOs: which pipe an open named pipe stands for.

use alloc::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use rumpkern::Result;
use rumpuser::sync::Mutex;

use crate::{
    file::{File, OpenFlags},
    pipe::Pipe,
    vnode::Vnode,
};

/// The pipes of open FIFOs, by device and inode number. A pipe lives as long as an end of it is open.
static OPEN: Mutex<BTreeMap<(u64, u64), Weak<Pipe>>> = Mutex::new(BTreeMap::new());

/// Opens an end of the FIFO that `vnode` is; waits for the other end as open(2) says.
pub fn open(vnode: &Arc<dyn Vnode>, flags: OpenFlags) -> Result<Arc<dyn File>> {
    let attributes = vnode.attributes()?;
    let key = (attributes.device, attributes.inode);
    let pipe = {
        let mut open = OPEN.lock();
        match open.get(&key).and_then(Weak::upgrade) {
            Some(pipe) => pipe,
            None => {
                open.retain(|_, pipe| pipe.strong_count() > 0);
                let pipe = Arc::new(Pipe::new());
                open.insert(key, Arc::downgrade(&pipe));
                pipe
            }
        }
    };
    pipe.open(vnode.clone(), flags)
}
