//! /proc/PID/fd and /proc/PID/fdinfo.

use alloc::{format, sync::Arc, vec::Vec};
use core::any::Any;

use rumpkern::{Errno, Result};
use rumpvfs::{
    file::{File, OpenFlags},
    generated::{Directory, Entry},
    mount::Location,
    vnode::{Attributes, Kind, Statistics, Vnode},
};

use crate::files::open_file::OpenFile;

use super::{current, identifier, process::Subject};

/// `fd/`.
pub(super) fn directory(subject: Subject) -> Entry {
    Entry::directory(Descriptors { subject, information: false })
}

/// `fdinfo/`.
pub(super) fn information(subject: Subject) -> Entry {
    Entry::directory(Descriptors { subject, information: true })
}

struct Descriptors {
    subject: Subject,
    information: bool,
}

fn open_file(subject: &Subject, descriptor: i32) -> Result<Arc<OpenFile>> {
    let files = subject.task()?.shared_files().ok_or(Errno::ENOENT)?;
    files.get(descriptor).map_err(|_| Errno::ENOENT)
}

impl Directory for Descriptors {
    fn lookup(&self, name: &[u8]) -> Option<Entry> {
        let number = if name == b"0" { 0 } else { identifier(name)? };
        open_file(&self.subject, number).ok()?;
        let (one, other) = (self.subject.clone(), self.subject.clone());
        if self.information {
            return Some(Entry::fallible(0o444, move || Ok(information_of(&*open_file(&one, number)?))));
        }
        Some(Entry::Jump {
            text: Arc::new(move || shown(&*open_file(&one, number)?)),
            target: Arc::new(move || Ok(location(&open_file(&other, number)?))),
        })
    }

    fn names(&self) -> Vec<(u64, Vec<u8>, Kind)> {
        let kind = if self.information { Kind::Regular } else { Kind::Symlink };
        let files = self.subject.task().ok().and_then(|task| task.shared_files());
        let numbers = files.map(|files| files.descriptors(0, usize::MAX)).unwrap_or_default();
        numbers.into_iter().map(|number| (number as u64, format!("{number}").into_bytes(), kind)).collect()
    }

    fn permissions(&self) -> u32 {
        0o500
    }
}

fn shown(file: &OpenFile) -> Result<Vec<u8>> {
    match file.location() {
        Some(location) => Ok(location.path(&current()?.filesystem().root()?)),
        None => Ok(file.file().description().into_bytes()),
    }
}

fn location(file: &Arc<OpenFile>) -> Location {
    match (file.location(), file.vnode()) {
        (Some(location), _) => location.clone(),
        (None, Some(vnode)) => Location::anonymous(vnode.clone(), file.file().description().as_bytes()),
        (None, None) => {
            let vnode = Arc::new(WithoutVnode(file.clone()));
            Location::anonymous(vnode, file.file().description().as_bytes())
        }
    }
}

fn information_of(file: &OpenFile) -> Vec<u8> {
    // A read that waits holds the position.
    let position = file.position().try_lock().map_or(0, |position| *position);
    let inode = file.attributes().map_or(0, |attributes| attributes.inode);
    let mount = file.location().map_or(0, |location| location.mount.id());
    let flags = file.flags().bits();
    format!("pos:\t{position}\nflags:\t0{flags:o}\nmnt_id:\t{mount}\nino:\t{inode}\n").into_bytes()
}

/// An open file that is in no file system, as stat(2) sees it through /proc/self/fd.
struct WithoutVnode(Arc<OpenFile>);

impl Vnode for WithoutVnode {
    fn attributes(&self) -> Result<Attributes> {
        self.0.attributes()
    }

    fn kind(&self) -> Kind {
        self.0.attributes().map_or(Kind::Regular, |attributes| attributes.kind)
    }

    fn open(self: Arc<Self>, _flags: OpenFlags) -> Result<Arc<dyn File>> {
        Err(Errno::ENXIO)
    }

    fn statistics(&self) -> Result<Statistics> {
        Ok(Statistics { magic: 0x0904_1934, block_size: 4096, name_length: 255, ..Default::default() })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
