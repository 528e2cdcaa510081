//! Which driver opens a device node: drivers register a major number, or one minor of it.

use alloc::{collections::BTreeMap, sync::Arc};

use rumpkern::{Errno, Result};
use rumpuser::sync::RwLock;

use crate::{
    file::{File, OpenFlags},
    vnode::{Kind, Vnode, device_parts},
};

/// Opens a device: gets the node and its minor number.
pub type Opener = Arc<dyn Fn(&Arc<dyn Vnode>, u32, OpenFlags) -> Result<Arc<dyn File>> + Send + Sync>;

/// Character or block, major, minor (`None`: all that have no entry of their own).
type Key = (bool, u32, Option<u32>);

static OPENERS: RwLock<BTreeMap<Key, Opener>> = RwLock::new(BTreeMap::new());

/// Says who opens the device nodes of this kind with these numbers; `minor: None` stands for all others of
/// the major number. A later registration replaces an earlier one.
pub fn register(kind: Kind, major: u32, minor: Option<u32>, opener: Opener) {
    OPENERS.write().insert((kind == Kind::Block, major, minor), opener);
}

/// Takes a registration back.
pub fn unregister(kind: Kind, major: u32, minor: Option<u32>) {
    OPENERS.write().remove(&(kind == Kind::Block, major, minor));
}

/// Opens a device node. ENXIO if no driver has it.
pub fn open(node: &Arc<dyn Vnode>, flags: OpenFlags) -> Result<Arc<dyn File>> {
    let (major, minor) = device_parts(node.attributes()?.rdev);
    let block = node.kind() == Kind::Block;
    let openers = OPENERS.read();
    let opener =
        openers.get(&(block, major, Some(minor))).or_else(|| openers.get(&(block, major, None))).cloned();
    drop(openers);
    opener.ok_or(Errno::ENXIO)?(node, minor, flags)
}
