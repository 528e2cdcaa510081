//! ioctl(2): what concerns every open file; the rest is the file's own.

use alloc::format;

use rumpdev::tty::PtyMaster;
use rumpkern::{Errno, Result};
use rumpvfs::{file::OpenFlags, vnode::Kind};

use crate::{task::Task, user::UserPtr};

use super::{context::Names, fcntl, open::install, open_file::OpenFile, socket};

const FIONREAD: u32 = 0x541b;
const FIONBIO: u32 = 0x5421;
const FIONCLEX: u32 = 0x5450;
const FIOCLEX: u32 = 0x5451;
const FIOASYNC: u32 = 0x5452;
const FIOQSIZE: u32 = 0x5460;
const TIOCGPTPEER: u32 = 0x5441;
const FIOSETOWN: u32 = 0x8901;
const SIOCSPGRP: u32 = 0x8902;
const FIOGETOWN: u32 = 0x8903;
const SIOCGPGRP: u32 = 0x8904;
/// _IO(0, 2), the block size of a file's file system.
const FIGETBSZ: u32 = 2;

/// ioctl(2).
pub fn ioctl(task: &Task, descriptor: i32, request: u32, argument: usize) -> Result<usize> {
    let file = task.files().get_io(descriptor)?;
    let int = UserPtr::<i32>::new(argument);
    match request {
        FIOCLEX | FIONCLEX => task.files().set_close_on_exec(descriptor, request == FIOCLEX)?,
        FIONBIO => file.set_flag(OpenFlags::NON_BLOCKING, int.read()? != 0),
        FIOASYNC => {
            file.set_flag(OpenFlags::ASYNC, int.read()? != 0);
            file.signals.set_flags(&**file.file(), file.flags(), descriptor);
        }
        FIOSETOWN | SIOCSPGRP if is_socket(&file) => fcntl::set_owner(task, &file, int.read()?)?,
        FIOGETOWN | SIOCGPGRP if is_socket(&file) => int.write(&fcntl::owner_number(&file))?,
        TIOCGPTPEER => {
            let master = file.downcast::<PtyMaster>().ok_or(Errno::ENOTTY)?;
            return open_peer(task, master, OpenFlags::from_bits_truncate(argument as u32));
        }
        _ if socket::interface::is_ours(request) && is_socket(&file) => {
            return socket::interface::ioctl(task, request, argument);
        }
        _ if is_kind(&file, Kind::Regular) => return regular(&file, request, argument),
        _ => return file.file().ioctl(request, argument),
    }
    Ok(0)
}

/// Opens the slave of a pseudo-terminal. Its name is looked up for those who ask the descriptor for it.
fn open_peer(task: &Task, master: &PtyMaster, flags: OpenFlags) -> Result<usize> {
    let path = format!("/dev/pts/{}", master.number());
    let location = Names::new(task)?.lookup().resolve(path.as_bytes(), true).ok();
    let peer = OpenFile::new(master.peer(flags)?, flags, location);
    install(task, peer, flags.contains(OpenFlags::CLOSE_ON_EXEC))
}

fn is_socket(file: &OpenFile) -> bool {
    rumpnet::socket::of_file(&**file.file()).is_ok()
}

fn is_kind(file: &OpenFile, kind: Kind) -> bool {
    file.file().vnode().is_some_and(|vnode| vnode.kind() == kind)
}

fn regular(file: &OpenFile, request: u32, argument: usize) -> Result<usize> {
    match request {
        FIONREAD => {
            let left = file.attributes()?.size.saturating_sub(*file.position().lock());
            UserPtr::<i32>::new(argument).write(&i32::try_from(left).unwrap_or(i32::MAX))?;
        }
        FIOQSIZE => UserPtr::<u64>::new(argument).write(&file.attributes()?.size)?,
        FIGETBSZ => UserPtr::<u32>::new(argument).write(&file.attributes()?.block_size)?,
        _ => return file.file().ioctl(request, argument),
    }
    Ok(0)
}
