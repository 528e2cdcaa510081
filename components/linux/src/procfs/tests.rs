//! /proc and /sys read as a program reads them, for a process that isn't running.

extern crate std;

use alloc::{
    string::{String, ToString},
    sync::{Arc, Weak},
    vec,
    vec::Vec,
};

use rumpkern::{Errno, Result, uio::Sink};
use rumpuser::UserContext;
use rumpvfs::{
    access::Credentials,
    file::OpenFlags,
    mount::{Location, Mount, MountOptions},
    namei::Lookup,
    vnode::{FileSystem, Kind},
};

use crate::{
    files::{DescriptorTable, FsContext},
    limits::Limits,
    process::{Process, ProcessSpec},
    registry,
    signal::{Actions, SignalSet},
    space::Space,
    task::{AlternateStack, Task, TaskSpec, name_from},
};

fn mounted(file_system: Arc<dyn FileSystem>) -> Location {
    Mount::root(file_system, MountOptions::default())
}

fn read(root: &Location, path: &str) -> Result<String> {
    let credentials = Credentials::root();
    let opened = Lookup::new(root, root, &credentials).open(path.as_bytes(), OpenFlags::empty(), 0)?;
    let mut text = Vec::new();
    let mut buffer = vec![0; 1000];
    loop {
        let length =
            opened.file.read(&mut Sink::kernel(&mut buffer), text.len() as u64, OpenFlags::empty())?;
        if length == 0 {
            return Ok(String::from_utf8_lossy(&text).into_owned());
        }
        text.extend_from_slice(&buffer[..length]);
    }
}

/// Reads every file below a directory; returns how many there were.
fn walk(root: &Location, path: &str) -> usize {
    let credentials = Credentials::root();
    let location = Lookup::new(root, root, &credentials).resolve(path.as_bytes(), true).expect("a directory");
    let mut entries = Vec::new();
    location
        .vnode()
        .entries(0, &mut |entry| {
            entries.push((String::from_utf8_lossy(entry.name).into_owned(), entry.kind, entry.inode));
            true
        })
        .expect("a listing");
    let mut count = 0;
    for (name, kind, inode) in entries.iter().skip(2) {
        let inside = alloc::format!("{path}/{name}");
        // Another test's process may go any time.
        if inside == "/./78" {
            continue;
        }
        match kind {
            Kind::Directory => count += walk(root, &inside),
            Kind::Regular => {
                let at =
                    Lookup::new(root, root, &credentials).resolve(inside.as_bytes(), false).expect(&inside);
                assert_eq!(at.vnode().attributes().expect("stat").inode, *inode);
                let expected = match name.as_str() {
                    // Of a process without memory at address 0, as on Linux.
                    "mem" => Err(Errno::EIO),
                    // For writing only.
                    "sysrq-trigger" => Err(Errno::EACCES),
                    _ => Ok(()),
                };
                assert_eq!(read(root, &inside).map(drop), expected, "{inside}");
                count += 1;
            }
            _ => {}
        }
    }
    count
}

fn process(pid: i32, root: &Location) -> (Arc<Process>, Arc<Task>) {
    let process = Process::new(ProcessSpec {
        pid,
        parent: Weak::new(),
        group: pid,
        session: pid,
        space: Space::new(8 << 20).expect("a space"),
        actions: Arc::new(Actions::default()),
        limits: Limits::default(),
        executable: Some(root.clone()),
        exit_signal: 17,
    });
    let task = Task::new(TaskSpec {
        tid: pid,
        process: process.clone(),
        context: UserContext::default(),
        files: DescriptorTable::new(),
        filesystem: FsContext::new(root.clone()),
        credentials: Arc::default(),
        name: name_from(b"program"),
        mask: SignalSet::EMPTY,
        stack: AlternateStack::DISABLED,
    });
    process.tasks.lock().push(task.clone());
    registry::add_process(&process);
    registry::add_task(&task);
    (process, task)
}

#[test]
fn everything_can_be_read() {
    let root = mounted(super::new());
    let (_process, _task) = process(77, &root);
    assert!(walk(&root, "/.") > 150);
    let sys = mounted(crate::sysfs::new());
    assert!(walk(&sys, "/.") > 40);
    assert_eq!(read(&sys, "/devices/system/cpu/online").expect("read"), "0\n");
    registry::remove_process(77);
    registry::remove_task(77);
}

#[test]
fn the_activity_of_cpus_is_shown() {
    let root = mounted(super::new());
    let stat = read(&root, "/stat").expect("stat");
    assert!(stat.contains("\nctxt 3\n") && stat.contains("\nintr 2\n"), "{stat}");
    assert!(stat.contains("\nprocs_running 1\n"), "{stat}");
    let interrupts = read(&root, "/interrupts").expect("interrupts");
    assert!(interrupts.contains(" LOC:          2   Local timer interrupts\n"), "{interrupts}");
    assert_eq!(read(&root, "/schedstat").expect("schedstat").lines().count(), 3);
    crate::statistics::count(1, &Err(Errno::EPIPE));
    let calls = read(&root, "/rumprun/syscalls").expect("calls");
    let write = calls.lines().find(|line| line.starts_with("write ")).expect("write was made");
    assert_eq!(write.split_whitespace().collect::<Vec<_>>(), ["write", "1", "1"]);
}

#[test]
fn a_process_tells_about_itself() {
    let root = mounted(super::new());
    let (_process, task) = process(78, &root);
    let stat = read(&root, "/78/stat").expect("stat");
    assert!(stat.starts_with("78 (program) S 0 78 78 0 -1 "), "{stat}");
    assert_eq!(stat.split_whitespace().count(), 52);
    let status = read(&root, "/78/status").expect("status");
    for line in ["Name:\tprogram", "Pid:\t78", "Threads:\t1", "CapEff:\t000001ffffffffff"] {
        assert!(status.contains(line), "{line} in {status}");
    }
    assert_eq!(read(&root, "/78/comm").expect("comm"), "program\n");
    assert_eq!(read(&root, "/78/task/78/comm").expect("comm"), "program\n");
    assert_eq!(read(&root, "/78/statm").expect("statm").split(' ').count(), 7);
    assert_eq!(read(&root, "/78/mounts").expect("mounts"), "none / proc rw,relatime 0 0\n");
    assert_eq!(read(&root, "/79/stat"), Err(Errno::ENOENT));
    assert_eq!(read(&root, "/078/stat"), Err(Errno::ENOENT));
    let limits = read(&root, "/78/limits").expect("limits");
    assert!(limits.contains("Max open files            1024                 1048576              files"));

    let reader = rumpvfs::pipe::pipe(0, 0).0;
    let file = crate::files::open_file::OpenFile::new(reader, OpenFlags::empty(), None);
    let number = task.shared_files().expect("files").insert(file, 0, 10, false).expect("a descriptor");
    let credentials = Credentials::root();
    let lookup = Lookup::new(&root, &root, &credentials);
    let path = alloc::format!("/78/fd/{number}");
    let link = lookup.read_link(path.as_bytes()).expect("readlink");
    assert!(link.starts_with(b"pipe:["), "{}", String::from_utf8_lossy(&link));
    let target = lookup.resolve(path.as_bytes(), true).expect("the pipe");
    assert_eq!(target.vnode().kind(), Kind::Fifo);
    assert!(read(&root, &alloc::format!("/78/fdinfo/{number}")).expect("fdinfo").starts_with("pos:\t0\n"));
    registry::remove_process(78);
    registry::remove_task(78);
}

#[test]
fn settings_take_new_values() {
    let root = mounted(super::new());
    let credentials = Credentials::root();
    let lookup = Lookup::new(&root, &root, &credentials);
    let flags = OpenFlags::WRITE_ONLY | OpenFlags::TRUNCATE;
    let write = |path: &str, text: &str| {
        let opened = lookup.open(path.as_bytes(), flags, 0)?;
        opened.file.write(&mut rumpkern::uio::Source::kernel(text.as_bytes()), &mut 0, flags)
    };
    assert_eq!(write("/sys/kernel/hostname", "baked\n"), Ok(6));
    assert_eq!(read(&root, "/sys/kernel/hostname").expect("read"), "baked\n");
    assert_eq!(write("/sys/vm/swappiness", "lots\n"), Err(Errno::EINVAL));
    assert_eq!(write("/sys/kernel/ostype", "x"), Err(Errno::EACCES));
    assert_eq!(read(&root, "/sys/kernel/random/uuid").expect("read").len(), 37);
    assert_eq!(super::status::list(0b1011_0111), "0-2,4-5,7".to_string());
}
