//! Operations at random, compared with a model, `e2fsck` and `debugfs`.

mod support;

use ext4::{BlockDevice, Error, Ext4, NewFile, Options, Owner, ROOT, Replace};
use support::{
    Disk, Random, assert_clean, clock, debugfs_cat, have_e2fsprogs, make_image,
    model::{Model, Node},
    mount, options,
};

fn random_operations(arguments: &[&str], mebibytes: u64, steps: usize, seed: u64) {
    if !have_e2fsprogs() {
        return;
    }
    let disk = Disk::new(make_image(mebibytes, arguments));
    let mut random = Random::new(seed);
    let mut model = Model::new();
    for round in 0..3 {
        let fs = mount(&disk).expect("mount");
        model.assert_equals(&fs);
        for step in 0..steps {
            model.step(&fs, &mut random);
            if step % 97 == 96 {
                fs.sync().expect("sync");
            }
        }
        model.assert_equals(&fs);
        if round < 2 {
            fs.unmount().expect("unmount");
            assert_clean(&disk.image());
        }
        // The last round is cut short: what was synced is in the journal only.
        fs.sync().expect("sync or no-op");
    }
    let fs = mount(&disk).expect("mount after a crash");
    model.assert_equals(&fs);
    fs.unmount().expect("unmount");
    let image = disk.image();
    assert_clean(&image);
    let files = model.paths().into_iter().filter_map(|(path, inode)| match &model.nodes[&inode] {
        Node::File(data) if !path.contains("aaaa") => Some((path, data.clone())),
        _ => None,
    });
    for (path, data) in files.take(5) {
        assert!(debugfs_cat(&image, &path) == data, "{path} as debugfs sees it");
    }
}

#[test]
fn defaults() {
    // By default, small file systems have small blocks; large ones are like this.
    random_operations(&["-b", "4096"], 64, 400, 1);
}

#[test]
fn blocks_of_1_kib() {
    random_operations(&["-b", "1024"], 64, 400, 2);
}

#[test]
fn blocks_of_2_kib() {
    random_operations(&["-b", "2048"], 64, 400, 3);
}

#[test]
fn without_checksums() {
    random_operations(&["-O", "^metadata_csum,uninit_bg"], 64, 300, 4);
}

#[test]
fn without_64bit_and_flex_bg() {
    random_operations(&["-O", "^64bit,^flex_bg", "-I", "128"], 64, 300, 5);
}

#[test]
fn with_checksum_seed() {
    random_operations(&["-O", "metadata_csum_seed"], 64, 200, 6);
}

#[test]
fn without_journal() {
    if !have_e2fsprogs() {
        return;
    }
    let disk = Disk::new(make_image(32, &["-O", "^has_journal"]));
    let fs = mount(&disk).expect("mount");
    let (mut model, mut random) = (Model::new(), Random::new(7));
    for _ in 0..300 {
        model.step(&fs, &mut random);
    }
    model.assert_equals(&fs);
    fs.unmount().expect("unmount");
    assert_clean(&disk.image());
}

#[test]
fn many_entries_in_a_directory() {
    if !have_e2fsprogs() {
        return;
    }
    let disk = Disk::new(make_image(64, &["-N", "8000"]));
    let fs = mount(&disk).expect("mount");
    let directory = fs.create(ROOT, b"d", NewFile::Directory, Owner::default()).expect("mkdir");
    for number in 0..3000 {
        let name = format!("a name that is rather long, number {number}");
        fs.create(directory, name.as_bytes(), NewFile::Regular, Owner::default()).expect("create");
    }
    for number in (0..3000).step_by(2) {
        let name = format!("a name that is rather long, number {number}");
        let removed = fs.unlink(directory, name.as_bytes()).expect("unlink");
        fs.evict(removed.inode).expect("evict");
    }
    let mut count = 0;
    fs.read_directory(directory, 0, &mut |_| {
        count += 1;
        true
    })
    .expect("list");
    assert_eq!(count, 1502);
    fs.unmount().expect("unmount");
    assert_clean(&disk.image());
}

/// A file whose every second block is a hole needs a deep extent tree.
#[test]
fn deep_extent_tree() {
    if !have_e2fsprogs() {
        return;
    }
    let disk = Disk::new(make_image(64, &["-b", "1024"]));
    let fs = mount(&disk).expect("mount");
    let free = fs.statistics().expect("statistics").free_blocks;
    let inode = fs.create(ROOT, b"holes", NewFile::Regular, Owner::default()).expect("create");
    const BLOCKS: u64 = 9000;
    for number in 0..BLOCKS {
        // From both ends towards the middle, so that nodes split in all ways.
        let block = if number % 2 == 0 { number } else { 2 * BLOCKS - number };
        assert_eq!(fs.write(inode, block * 2048, &[number as u8; 1024]), Ok(1024));
    }
    for number in 0..BLOCKS {
        let block = if number % 2 == 0 { number } else { 2 * BLOCKS - number };
        let mut buffer = [0; 2048];
        let length = fs.read(inode, block * 2048, &mut buffer).expect("read");
        assert!(buffer[..1024].iter().all(|&byte| byte == number as u8));
        assert!(buffer[1024..length].iter().all(|&byte| byte == 0));
    }
    fs.sync().expect("sync");
    let again = mount(&Disk::new(disk.image())).expect("mount of a copy");
    again.unmount().expect("unmount");
    fs.truncate(inode, 7_000_001).expect("truncate");
    fs.punch_hole(inode, 1_000_000, 3_000_000).expect("punch");
    fs.sync().expect("sync");
    fs.unmount().expect("unmount");
    assert_clean(&disk.image());
    let fs = mount(&disk).expect("mount");
    let removed = fs.unlink(ROOT, b"holes").expect("unlink");
    fs.evict(removed.inode).expect("evict");
    fs.sync().expect("sync");
    assert_eq!(fs.statistics().expect("statistics").free_blocks, free);
    fs.unmount().expect("unmount");
    assert_clean(&disk.image());
}

#[test]
fn full_disk() {
    if !have_e2fsprogs() {
        return;
    }
    let disk = Disk::new(make_image(16, &["-N", "64"]));
    let fs = mount(&disk).expect("mount");
    let inode = fs.create(ROOT, b"big", NewFile::Regular, Owner::default()).expect("create");
    let chunk = vec![7; 1 << 20];
    let mut size = 0;
    let mut short = 0;
    while short < 3 {
        match fs.write(inode, size, &chunk) {
            Ok(length) => {
                size += length as u64;
                short += u32::from(length < chunk.len());
            }
            Err(error) => {
                assert_eq!(error, Error::NoSpace);
                short += 1;
            }
        }
    }
    assert!(size > 8 << 20);
    assert_eq!(fs.attributes(inode).expect("attributes").size, size);
    // Space that was freed, but not committed, can be used again at once.
    fs.truncate(inode, 0).expect("truncate");
    assert_eq!(fs.write(inode, 0, &chunk), Ok(chunk.len()));
    let mut made = 0;
    let error = loop {
        match fs.create(ROOT, format!("f{made}").as_bytes(), NewFile::Regular, Owner::default()) {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error, Error::NoSpace);
    assert!(made > 40);
    fs.unmount().expect("unmount");
    assert_clean(&disk.image());
}

#[test]
fn unlinked_files_live_until_evicted() {
    if !have_e2fsprogs() {
        return;
    }
    let disk = Disk::new(make_image(32, &[]));
    let fs = mount(&disk).expect("mount");
    let mut inodes = Vec::new();
    for number in 0..5 {
        let name = format!("open {number}");
        let inode = fs.create(ROOT, name.as_bytes(), NewFile::Regular, Owner::default()).expect("create");
        fs.write(inode, 0, &vec![number; 100_000]).expect("write");
        assert_eq!(fs.unlink(ROOT, name.as_bytes()).expect("unlink").links, 0);
        inodes.push(inode);
    }
    let unnamed = fs.create_unnamed(ROOT, Owner::default()).expect("unnamed");
    fs.write(unnamed, 0, b"now it has one").expect("write");
    fs.link(unnamed, ROOT, b"named").expect("link");
    fs.evict(inodes[2]).expect("evict from the middle");
    let mut buffer = vec![0; 100_000];
    assert_eq!(fs.read(inodes[3], 0, &mut buffer), Ok(100_000));
    assert!(buffer.iter().all(|&byte| byte == 3));
    assert_eq!(fs.link(inodes[3], ROOT, b"again"), Ok(()));
    fs.sync().expect("sync");
    // A crash: the next mount frees what has no name.
    let copy = Disk::new(disk.image());
    let recovered = mount(&copy).expect("mount");
    assert_eq!(recovered.lookup(ROOT, b"named"), Ok(unnamed));
    assert_eq!(recovered.lookup(ROOT, b"again"), Ok(inodes[3]));
    assert!(
        recovered.attributes(inodes[0]).is_err()
            || recovered.attributes(inodes[0]).is_ok_and(|found| found.links == 0)
    );
    recovered.unmount().expect("unmount");
    assert_clean(&copy.image());
}

#[test]
fn large_sparse_file() {
    if !have_e2fsprogs() {
        return;
    }
    let disk = Disk::with_sectors(make_image(32, &["-b", "4096"]), 4096);
    let fs = mount(&disk).expect("mount");
    let inode = fs.create(ROOT, b"sparse", NewFile::Regular, Owner::default()).expect("create");
    let far = 1u64 << 40;
    fs.write(inode, far, b"far away").expect("write");
    assert_eq!(fs.attributes(inode).expect("attributes").size, far + 8);
    assert_eq!(fs.seek_data(inode, 5), Ok(Some(far)));
    assert_eq!(fs.seek_hole(inode, far), Ok(Some(far + 8)));
    let mut buffer = [1; 16];
    assert_eq!(fs.read(inode, far - 8, &mut buffer), Ok(16));
    assert_eq!(&buffer, b"\0\0\0\0\0\0\0\0far away");
    assert_eq!(fs.write(inode, 1 << 44, b"x"), Err(Error::FileTooLarge));
    fs.unmount().expect("unmount");
    assert_clean(&disk.image());
    assert_eq!(disk.block_size(), 4096);
}

#[test]
fn refusals() {
    if !have_e2fsprogs() {
        return;
    }
    let disk = Disk::new(vec![0; 1 << 20]);
    assert_eq!(mount(&disk).err(), Some(Error::NotExt4));
    let disk = Disk::new(make_image(32, &["-O", "inline_data"]));
    assert_eq!(mount(&disk).err(), Some(Error::UnsupportedFeatures("inline_data".into())));
    let disk = Disk::new(make_image(64, &["-O", "bigalloc,quota"]));
    assert_eq!(mount(&disk).err(), Some(Error::UnsupportedFeatures("quota, bigalloc".into())));
    let disk = Disk::new(make_image(32, &[]));
    let fs = Ext4::mount(disk.clone(), Options { read_only: true, ..options() }).expect("read-only mount");
    assert_eq!(fs.create(ROOT, b"f", NewFile::Regular, Owner::default()), Err(Error::ReadOnly));
    assert_eq!(disk.log_length(), 0);
    let fs = mount(&disk).expect("mount");
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0b"] {
        assert!(matches!(fs.create(ROOT, name, NewFile::Fifo, Owner::default()), Err(Error::Invalid(_))));
    }
    assert_eq!(fs.create(ROOT, &[b'x'; 256], NewFile::Fifo, Owner::default()), Err(Error::NameTooLong));
    assert!(fs.rename(ROOT, b"lost+found", 999_999, b"x", Replace::Yes).is_err());
    fs.unmount().expect("unmount");
    assert_eq!(fs.create(ROOT, b"f", NewFile::Regular, Owner::default()), Err(Error::ReadOnly));
    assert_clean(&disk.image());
    assert_eq!(clock().nanoseconds, 42);
}

/// Linux leaves the superblock's counts behind after a crash.
#[test]
fn stale_counts() {
    if !have_e2fsprogs() {
        return;
    }
    let mut image = make_image(32, &["-O", "^metadata_csum"]);
    image[1024 + 0x0c..1024 + 0x14].fill(7);
    let disk = Disk::new(image);
    mount(&disk).and_then(|fs| fs.unmount()).expect("mount");
    assert_clean(&disk.image());
}
