//! File systems of our own making.

mod support;

use ext4::{Error, FormatOptions, NewFile, Owner, ROOT, format, is_ext4};
use support::{Disk, Random, assert_clean, clock, have_e2fsprogs, model::Model, mount};

fn options() -> FormatOptions<'static> {
    FormatOptions { uuid: *b"0123456789abcdef", label: "data", clock }
}

fn check(mebibytes: usize, steps: usize) {
    // What an earlier use of the disk left behind must not matter.
    let mut data = vec![0xa5; mebibytes << 20];
    for (index, byte) in data.iter_mut().enumerate().step_by(31) {
        *byte = index as u8;
    }
    let disk = Disk::new(data);
    assert_eq!(is_ext4(&*disk), Ok(false));
    format(disk.clone(), &options()).expect("format");
    assert_eq!(is_ext4(&*disk), Ok(true));
    let have_judge = have_e2fsprogs();
    if have_judge {
        assert_clean(&disk.image());
    }
    let (mut model, mut random) = (Model::new(), Random::new(mebibytes as u64));
    let fs = mount(&disk).expect("mount");
    for _ in 0..steps {
        model.step(&fs, &mut random);
    }
    for number in 0..200 {
        let name = format!("directory {number}");
        let inode = fs.create(ROOT, name.as_bytes(), NewFile::Directory, Owner::default()).expect("mkdir");
        fs.create(inode, b"file", NewFile::Regular, Owner::default()).expect("create");
        fs.unlink(inode, b"file").map(|removed| fs.evict(removed.inode)).expect("unlink").expect("evict");
        fs.remove_directory(ROOT, name.as_bytes())
            .map(|removed| fs.evict(removed.inode))
            .expect("rmdir")
            .expect("evict");
    }
    fs.sync().expect("sync");
    drop(fs);
    let fs = mount(&disk).expect("mount after a crash");
    model.assert_equals(&fs);
    fs.unmount().expect("unmount");
    if have_judge {
        assert_clean(&disk.image());
    }
}

#[test]
fn smallest() {
    check(8, 100);
    let disk = Disk::new(vec![0; 7 << 20]);
    assert_eq!(format(disk, &options()), Err(Error::NoSpace));
}

#[test]
fn one_group() {
    check(100, 300);
}

#[test]
fn several_groups() {
    check(300, 300);
}

/// A last group with a few blocks is left out.
#[test]
fn a_bit_more_than_a_group() {
    check(129, 100);
}

#[test]
fn formatting_again() {
    let disk = Disk::with_sectors(vec![0; 20 << 20], 4096);
    for _ in 0..2 {
        format(disk.clone(), &options()).expect("format");
        let fs = mount(&disk).expect("mount");
        assert_eq!(fs.lookup(ROOT, b"f"), Err(Error::NotFound));
        fs.create(ROOT, b"f", NewFile::Regular, Owner::default()).expect("create");
        fs.sync().expect("sync");
    }
}
