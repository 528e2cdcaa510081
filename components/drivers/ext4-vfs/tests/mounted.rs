//! A mounted ext4 on a disk in memory, used as programs use it.

use std::sync::Arc;

use ext4_vfs::{Ext4Fs, MountError, Settings, mount};
use rumpdev::{block::SECTOR_SIZE, model::Memory};
use rumpkern::{
    Errno, Result,
    uio::{Sink, Source},
};
use rumpuser::{memory::PAGE_SIZE, rumpuser_frame_release};
use rumpvfs::{
    access::Credentials,
    file::{File, OpenFlags},
    mount::{Location, Mount, MountOptions},
    namei::Lookup,
    tmpfs::{Limits, TmpFs},
    vnode::{AttributeChanges, Creation, FileSystem, Handle, Kind},
};

fn ram_disk(size: usize) -> Arc<Memory> {
    Arc::new(Memory::new(vec![0; size], SECTOR_SIZE))
}

fn mounted(disk: &Arc<Memory>) -> Arc<Ext4Fs> {
    mount(disk.clone(), Settings { read_only: false, format: true }).expect("mounted")
}

fn root(system: &Arc<Ext4Fs>) -> Location {
    Mount::root(system.clone(), MountOptions::default())
}

fn open(root: &Location, path: &str, flags: OpenFlags) -> Result<Arc<dyn File>> {
    let credentials = Credentials::root();
    Lookup::new(root, root, &credentials).open(path.as_bytes(), flags, 0o644).map(|opened| opened.file)
}

const CREATE: OpenFlags = OpenFlags::CREATE.union(OpenFlags::READ_WRITE);

fn put(file: &dyn File, mut offset: u64, data: &[u8]) -> Result<usize> {
    file.write(&mut Source::kernel(data), &mut offset, OpenFlags::empty())
}

fn get(file: &dyn File, offset: u64, length: usize) -> Result<Vec<u8>> {
    let mut data = vec![0; length];
    let done = file.read(&mut Sink::kernel(&mut data), offset, OpenFlags::empty())?;
    data.truncate(done);
    Ok(data)
}

struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

#[test]
fn a_file_behaves_as_an_array_of_bytes_and_survives() {
    for seed in 1..4 {
        let disk = ram_disk(16 << 20);
        let mut model: Vec<u8> = Vec::new();
        let mut random = Random(seed * 7919);
        for _round in 0..3 {
            let system = mounted(&disk);
            {
                let file = open(&root(&system), "/file", CREATE).expect("open");
                let vnode = file.vnode().expect("a vnode").clone();
                let pager = vnode.pager().expect("a pager");
                assert_eq!(get(&*file, 0, 1 << 20).expect("read"), model);
                for step in 0..400 {
                    let offset = random.next(200_000);
                    let length = random.next(if step % 10 == 0 { 50_000 } else { 300 }) as usize;
                    match random.next(8) {
                        0..=2 => {
                            let data: Vec<u8> = (0..length).map(|_| random.next(256) as u8).collect();
                            assert_eq!(put(&*file, offset, &data), Ok(length));
                            if length > 0 {
                                let end = offset as usize + length;
                                model.resize(model.len().max(end), 0);
                                model[offset as usize..end].copy_from_slice(&data);
                            }
                        }
                        3..=4 => {
                            let end = model.len().min(offset as usize + length);
                            let expected = model.get(offset as usize..end).unwrap_or_default();
                            assert_eq!(get(&*file, offset, length).expect("read"), expected);
                        }
                        5 if step % 5 == 0 => {
                            let changes = AttributeChanges { size: Some(offset), ..Default::default() };
                            vnode.set_attributes(&changes).expect("truncate");
                            model.resize(offset as usize, 0);
                        }
                        6 => {
                            let index = offset / PAGE_SIZE as u64;
                            let start = index as usize * PAGE_SIZE;
                            match pager.page(index, true) {
                                Ok(frame) => {
                                    let mut page = [0; PAGE_SIZE];
                                    frame.read(0, &mut page);
                                    let end = model.len().min(start + PAGE_SIZE);
                                    assert_eq!(&page[..end - start], &model[start..end]);
                                    frame.write(0, b"!");
                                    model[start] = b'!';
                                    rumpuser_frame_release(frame);
                                }
                                Err(error) => {
                                    assert_eq!(error, Errno::ENXIO);
                                    assert!(start >= model.len());
                                }
                            }
                        }
                        7 if step % 3 == 0 && length > 0 => {
                            vnode.allocate(offset, length as u64, true, true).expect("punch");
                            let end = model.len().min(offset as usize + length);
                            if let Some(part) = model.get_mut(offset as usize..end) {
                                part.fill(0);
                            }
                        }
                        7 if step % 7 == 0 => file.sync(false).expect("fsync"),
                        _ => {}
                    }
                    assert_eq!(vnode.attributes().expect("stat").size, model.len() as u64);
                }
                assert_eq!(get(&*file, 0, 1 << 20).expect("read"), model);
            }
            system.unmount().expect("unmount");
        }
        let system = mounted(&disk);
        let file = open(&root(&system), "/file", OpenFlags::empty()).expect("open");
        assert!(get(&*file, 0, 1 << 20).expect("read") == model);
    }
}

#[test]
fn what_was_synced_survives_a_power_cut() {
    let disk = ram_disk(16 << 20);
    let system = mounted(&disk);
    let root_directory = root(&system);
    let file = open(&root_directory, "/synced", CREATE).expect("open");
    put(&*file, 0, &[7; 100_000]).expect("write");
    file.sync(true).expect("fsync");
    let later = open(&root_directory, "/later", CREATE).expect("open");
    put(&*later, 0, b"not synced").expect("write");

    let cut = mounted(&Arc::new(disk.copy()));
    let file = open(&root(&cut), "/synced", OpenFlags::empty()).expect("open");
    assert!(get(&*file, 0, 1 << 20).expect("read") == [7; 100_000]);
    later.sync(false).expect("fsync");
    let cut = mounted(&Arc::new(disk.copy()));
    let file = open(&root(&cut), "/later", OpenFlags::empty()).expect("open");
    assert_eq!(get(&*file, 0, 100).expect("read"), b"not synced");
}

#[test]
fn names_links_and_unlinked_files_work() {
    let disk = ram_disk(16 << 20);
    let system = mounted(&disk);
    let root_directory = root(&system);
    let credentials = Credentials::root();
    let lookup = Lookup::new(&root_directory, &root_directory, &credentials);
    let free = || system.root().statistics().expect("statfs").blocks_free;
    let before = free();
    let file = open(&root_directory, "/a", CREATE).expect("open");
    put(&*file, 0, &[1; 50_000]).expect("write");
    file.sync(false).expect("fsync");
    assert!(free() < before);
    lookup.rename(b"/a", &lookup, b"/b", false, false).expect("rename");
    let at = lookup.resolve(b"/b", true).expect("resolve");
    lookup.link(&at, b"/c").expect("link");
    assert_eq!(at.vnode().attributes().expect("stat").links, 2);
    lookup.remove(b"/b", false).expect("unlink");
    lookup.remove(b"/c", false).expect("unlink");
    drop(at);
    assert_eq!(get(&*file, 49_999, 9).expect("still there"), [1]);
    put(&*file, 0, b"changed").expect("write");
    assert!(free() < before);
    drop(file);
    system.sync().expect("sync");
    assert_eq!(free(), before);
    let mut names = Vec::new();
    root_directory
        .vnode()
        .entries(0, &mut |entry| {
            names.push(String::from_utf8_lossy(entry.name).into_owned());
            true
        })
        .expect("list");
    names.sort();
    assert_eq!(names, [".", "..", "lost+found"]);
}

#[test]
fn a_full_disk_is_told_by_the_write() {
    let disk = ram_disk(16 << 20);
    let system = mounted(&disk);
    let root_directory = root(&system);
    let file = open(&root_directory, "/file", CREATE).expect("open");
    let chunk = vec![3; 1 << 20];
    let mut total = 0;
    let error = loop {
        match put(&*file, total, &chunk) {
            Ok(done) => total += done as u64,
            Err(error) => break error,
        }
    };
    assert_eq!(error, Errno::ENOSPC);
    file.sync(false).expect("everything that was taken fits");
    assert_eq!(file.attributes().expect("stat").size, total);
    drop(file);
    system.unmount().expect("unmount");
    drop((root_directory, system));
    let system = mounted(&disk);
    let file = open(&root(&system), "/file", OpenFlags::empty()).expect("open");
    assert_eq!(get(&*file, total - 5, 10).expect("read"), [3; 5]);
}

#[test]
fn a_failing_disk_is_told_by_fsync() {
    let disk = ram_disk(16 << 20);
    let system = mounted(&disk);
    let file = open(&root(&system), "/file", CREATE).expect("open");
    disk.fail();
    let written = put(&*file, 0, b"lost");
    assert!(written.is_err() || file.sync(false).is_err());
    drop(file);
    // What is lost keeps neither the file system nor its disk.
    assert!(system.unmount().is_err());
    rumpvfs::dentry::forget(&system.root(), b"file");
    drop(system);
    let began = std::time::Instant::now();
    while Arc::strong_count(&disk) > 1 {
        assert!(began.elapsed().as_secs() < 60, "somebody keeps the disk");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

#[test]
fn a_failing_disk_can_be_unmounted() {
    let memory = TmpFs::new(Limits::default(), 0o755).expect("a tmpfs");
    let tree = Mount::root(memory, MountOptions::default());
    let credentials = Credentials::root();
    let lookup = Lookup::new(&tree, &tree, &credentials);
    let directory =
        Creation { kind: Kind::Directory, permissions: 0o755, uid: 0, gid: 0, target: b"", rdev: 0 };
    lookup.create(b"/m", &directory).expect("mkdir");
    let point = || lookup.resolve(b"/m", true).expect("resolve");
    // Before or after the program was told by fsync, at once or when the last user is gone.
    for (told, lazy) in [(false, false), (true, false), (false, true)] {
        let disk = ram_disk(16 << 20);
        drop(point().mount(mounted(&disk), MountOptions::default()).expect("mounted"));
        let file = open(&tree, "/m/file", CREATE).expect("open");
        assert_eq!(put(&*file, 0, b"lost"), Ok(4));
        disk.fail();
        assert!(!told || file.sync(false).is_err());
        let user = lookup.resolve(b"/m/file", true).expect("resolve");
        assert_eq!(point().unmount(false), Err(Errno::EBUSY));
        if !lazy {
            drop(user);
        }
        assert_eq!(point().unmount(lazy), Ok(()));
        assert_eq!(open(&tree, "/m/file", OpenFlags::empty()).err(), Some(Errno::ENOENT));
        assert_eq!(point().unmount(false), Err(Errno::EINVAL));
    }
}

#[test]
fn only_blank_disks_are_formatted() {
    let disk = ram_disk(16 << 20);
    let no_format = mount(disk.clone(), Settings::default());
    assert!(matches!(no_format, Err(MountError::NotExt4 { blank: true })));
    disk.bytes.lock()[1000] = 1;
    let other = mount(disk, Settings { read_only: false, format: true });
    assert!(matches!(other, Err(MountError::NotExt4 { blank: false })));
}

#[test]
fn threads_share_files() {
    let disk = ram_disk(32 << 20);
    let system = mounted(&disk);
    let root_directory = Arc::new(root(&system));
    let threads: Vec<_> = (0..4u64)
        .map(|number| {
            let root_directory = root_directory.clone();
            std::thread::spawn(move || {
                let mut random = Random(number + 1);
                for step in 0..150 {
                    let path = format!("/{}", random.next(3));
                    let Ok(file) = open(&root_directory, &path, CREATE) else { continue };
                    match random.next(4) {
                        0 => drop(put(&*file, random.next(100_000), &[number as u8; 5000])),
                        1 => drop(get(&*file, random.next(100_000), 5000)),
                        2 => drop(file.vnode().expect("a vnode").set_attributes(&AttributeChanges {
                            size: Some(random.next(100_000)),
                            ..Default::default()
                        })),
                        _ if step % 5 == 0 => drop(file.sync(false)),
                        _ => {
                            let credentials = Credentials::root();
                            let lookup = Lookup::new(&root_directory, &root_directory, &credentials);
                            let _ = lookup.remove(path.as_bytes(), false);
                        }
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
    system.sync().expect("sync");
}

#[test]
fn files_are_found_by_handle_until_they_are_removed() {
    let disk = ram_disk(16 << 20);
    let credentials = Credentials::root();
    let directory =
        Creation { kind: Kind::Directory, permissions: 0o755, uid: 0, gid: 0, target: b"", rdev: 0 };
    let (of_file, of_directory);
    {
        let system = mounted(&disk);
        let root = root(&system);
        let names = Lookup::new(&root, &root, &credentials);
        names.create(b"/a", &directory).expect("mkdir");
        names.create(b"/a/b", &directory).expect("mkdir");
        let file = open(&root, "/a/b/file", CREATE).expect("open");
        put(&*file, 0, b"data").expect("write");
        of_file = file.vnode().expect("a vnode").handle().expect("a handle");
        of_directory = names.resolve(b"/a/b", true).expect("there").vnode().handle().expect("a handle");
        system.unmount().expect("unmount");
    }
    let system = mounted(&disk);
    let root = root(&system);
    let names = Lookup::new(&root, &root, &credentials);
    let found = root.mount.by_handle(of_directory).expect("there");
    assert_eq!(found.path(&root), b"/a/b");
    assert!(found.same(&names.resolve(b"/a/b", true).expect("there")), "one entry for a directory");
    let found = root.mount.by_handle(of_file).expect("there");
    let mut data = [0; 4];
    assert_eq!(found.vnode().read_at(0, &mut Sink::kernel(&mut data)), Ok(4));
    assert_eq!(&data, b"data");
    drop(found);
    let other = Handle { generation: of_file.generation ^ 1, ..of_file };
    assert_eq!(root.mount.by_handle(other).map(|_| ()), Err(Errno::ESTALE));
    names.remove(b"/a/b/file", false).expect("unlink");
    assert_eq!(root.mount.by_handle(of_file).map(|_| ()), Err(Errno::ESTALE));
    for inode in [0, 11, 12, 500, u32::MAX] {
        let found = root.mount.by_handle(Handle { inode, generation: 0 });
        assert!(matches!(found.map(|_| ()), Ok(()) | Err(Errno::ESTALE)), "{inode}");
    }
    names.remove(b"/a/b", true).expect("rmdir");
    assert_eq!(root.mount.by_handle(of_directory).map(|_| ()), Err(Errno::ESTALE));
    system.unmount().expect("unmount");
}
