//! What other programs make and this driver does not: directory indexes, extended attributes, files
//! reserved ahead; and use by several threads.

mod support;

use std::{sync::Arc, thread};

use ext4::{NewFile, Owner, ROOT};
use support::{Disk, assert_clean, debugfs_write, have_e2fsprogs, make_image, mount, run_e2fsck};

fn indexed_directory(arguments: &[&str], count: usize) {
    if !have_e2fsprogs() {
        return;
    }
    let name = |number: usize| format!("an entry whose name takes some space {number}").into_bytes();
    let disk = Disk::new(make_image(64, arguments));
    let fs = mount(&disk).expect("mount");
    let directory = fs.create(ROOT, b"d", NewFile::Directory, Owner::default()).expect("mkdir");
    for number in 0..count {
        fs.create(directory, &name(number), NewFile::Fifo, Owner::default()).expect("create");
    }
    fs.unmount().expect("unmount");
    let (status, text, indexed) = run_e2fsck(&disk.image(), &["-fyD"]);
    assert!(status <= 1, "{text}");
    let disk = Disk::new(indexed);
    let fs = mount(&disk).expect("mount");
    let list = |fs: &ext4::Ext4| {
        let mut found = 0;
        fs.read_directory(directory, 0, &mut |_| {
            found += 1;
            true
        })
        .expect("list");
        found - 2
    };
    assert_eq!(list(&fs), count);
    for number in (0..count).step_by(3) {
        let removed = fs.unlink(directory, &name(number)).expect("unlink");
        fs.evict(removed.inode).expect("evict");
    }
    // Still indexed, and right.
    fs.unmount().expect("unmount");
    assert_clean(&disk.image());
    let fs = mount(&disk).expect("mount");
    for number in (0..count).step_by(3) {
        fs.create(directory, &name(number), NewFile::Fifo, Owner::default()).expect("create");
    }
    assert_eq!(list(&fs), count);
    for number in 0..count {
        fs.lookup(directory, &name(number)).expect("lookup");
    }
    fs.unmount().expect("unmount");
    assert_clean(&disk.image());
}

#[test]
fn index_of_one_level() {
    indexed_directory(&["-b", "4096", "-N", "3000"], 2000);
}

#[test]
fn index_of_two_levels() {
    indexed_directory(&["-b", "1024", "-N", "6000"], 5000);
}

#[test]
fn index_without_checksums() {
    indexed_directory(&["-b", "1024", "-O", "^metadata_csum", "-N", "3000"], 2500);
}

#[test]
fn extended_attributes() {
    if !have_e2fsprogs() {
        return;
    }
    let disk = Disk::new(make_image(16, &[]));
    let fs = mount(&disk).expect("mount");
    let inode = fs.create(ROOT, b"f", NewFile::Regular, Owner::default()).expect("create");
    fs.unmount().expect("unmount");
    let long = "v".repeat(400);
    let image = debugfs_write(
        &disk.image(),
        &["ea_set /f user.short value", &format!("ea_set /f trusted.long {long}")],
    );
    let disk = Disk::new(image);
    let fs = mount(&disk).expect("mount");
    assert_eq!(fs.extended_attribute(inode, b"user.short"), Ok(Some(b"value".to_vec())));
    assert_eq!(fs.extended_attribute(inode, b"trusted.long"), Ok(Some(long.into_bytes())));
    assert_eq!(fs.extended_attribute(inode, b"user.none"), Ok(None));
    assert_eq!(fs.extended_attributes(inode).map(|names| names.len()), Ok(2));
    // The block of attributes goes with the inode.
    let removed = fs.unlink(ROOT, b"f").expect("unlink");
    fs.evict(removed.inode).expect("evict");
    fs.unmount().expect("unmount");
    assert_clean(&disk.image());
}

#[test]
fn threads() {
    if !have_e2fsprogs() {
        return;
    }
    let disk = Disk::new(make_image(64, &["-b", "4096"]));
    let fs = Arc::new(mount(&disk).expect("mount"));
    let workers: Vec<_> = (0..4u8)
        .map(|worker| {
            let fs = fs.clone();
            thread::spawn(move || {
                let name = format!("of thread {worker}");
                let file =
                    fs.create(ROOT, name.as_bytes(), NewFile::Regular, Owner::default()).expect("create");
                let mut buffer = vec![0; 40_000];
                for round in 0..40u8 {
                    let data = vec![worker * 50 + round; 40_000];
                    assert_eq!(fs.write(file, u64::from(round % 7) * 40_000, &data), Ok(data.len()));
                    let path = format!("{worker} {round}");
                    let other = fs.create(ROOT, path.as_bytes(), NewFile::Directory, Owner::default());
                    let removed = fs.remove_directory(ROOT, path.as_bytes()).expect("rmdir");
                    assert_eq!(other, Ok(removed.inode));
                    fs.evict(removed.inode).expect("evict");
                    assert_eq!(fs.read(file, u64::from(round % 7) * 40_000, &mut buffer), Ok(data.len()));
                    assert!(buffer == data);
                    if round % 5 == 0 {
                        fs.fsync(file).expect("fsync");
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().expect("worker");
    }
    fs.unmount().expect("unmount");
    assert_clean(&disk.image());
}
