//! Power cuts: everything written to the disk is recorded, and cut off anywhere. Of the writes after the
//! last flush an arbitrary part arrives. What was synced before must be there afterwards, what was not
//! must be there as a whole or not at all, and `e2fsck` must find nothing wrong.

mod support;

use std::collections::BTreeSet;

use ext4::{DeviceError, Error, FormatOptions, NewFile, Owner, ROOT, Replace, format};
use support::{
    Disk, Event, Random, assert_clean, have_e2fsprogs, make_image, model::Model, mount, run_e2fsck,
};

/// The state at a sync, and where in the log of writes it was complete.
struct Snapshot {
    position: usize,
    model: Model,
    /// Files whose contents changed between this sync and the next.
    touched_after: BTreeSet<u32>,
}

/// The disk after a cut behind `cut` events: what was flushed, and some of the rest.
fn cut_image(base: &[u8], log: &[Event], cut: usize, random: &mut Random) -> Vec<u8> {
    let mut image = base.to_vec();
    let flushed =
        log[..cut].iter().rposition(|event| matches!(event, Event::Flush)).map_or(0, |index| index + 1);
    // Sometimes none, sometimes all of the unflushed writes arrive, mostly some.
    let chance = random.below(5);
    for (index, event) in log[..cut].iter().enumerate() {
        let Event::Write { offset, data } = event else { continue };
        if index < flushed || random.below(4) < chance {
            // Writes are not atomic: a sector is, what reaches the disk of a longer one is anyone's guess.
            let torn = index >= flushed && random.below(3) == 0;
            for (number, sector) in data.chunks(512).enumerate() {
                if !torn || random.below(2) == 0 {
                    let start = offset + number * 512;
                    image[start..start + sector.len()].copy_from_slice(sector);
                }
            }
        }
    }
    image
}

fn check_recovered(image: Vec<u8>, done: &Snapshot, next: Option<&Snapshot>, cut: usize) {
    let disk = Disk::new(image.clone());
    let fs = mount(&disk).unwrap_or_else(|error| panic!("cut {cut}: {error}"));
    let compare = |snapshot: &Snapshot, except: &BTreeSet<u32>| {
        snapshot.model.compare_names(&fs)?;
        snapshot.model.compare_contents(&fs, except)
    };
    // A transaction that was being committed is there, or not.
    let newer = next.map(|next| compare(next, &BTreeSet::new()));
    if newer != Some(Ok(())) {
        let older = compare(done, &done.touched_after);
        assert!(older.is_ok(), "cut {cut}: {older:?}, and {newer:?}");
    }
    fs.unmount().expect("unmount");
    assert_clean(&disk.image());
    if cut.is_multiple_of(4) {
        // e2fsprogs read the same from the journal.
        let (status, text, mended) = run_e2fsck(&image, &["-fp"]);
        if text.contains("Superblock checksum does not match") {
            // Torn while it was written to its place. We take it from the journal; e2fsck asks for `-b`.
            return;
        }
        assert!(status <= 1, "cut {cut}: e2fsck {status}\n{text}");
        let fs = mount(&Disk::new(mended)).expect("mount after e2fsck");
        let newer = next.map(|next| next.model.compare_names(&fs));
        if newer != Some(Ok(())) {
            done.model.compare_names(&fs).expect("names after e2fsck");
        }
    }
}

fn random_cuts(arguments: &[&str], seed: u64, syncs: usize, cuts: usize) {
    if !have_e2fsprogs() {
        return;
    }
    let base = make_image(16, arguments);
    let disk = Disk::new(base.clone());
    let mut random = Random::new(seed);
    let mut model = Model::new();
    let fs = mount(&disk).expect("mount");
    let mut snapshots: Vec<Snapshot> = Vec::new();
    for sync in 0..=syncs {
        let position = disk.log_length();
        if let Some(last) = snapshots.last_mut() {
            last.touched_after = model.touched.clone();
        }
        model.mark();
        snapshots.push(Snapshot { position, model: model.clone(), touched_after: BTreeSet::new() });
        if sync < syncs {
            for _ in 0..1 + random.below(40) {
                model.step(&fs, &mut random);
            }
            fs.sync().expect("sync");
        }
    }
    let log = disk.log();
    for _ in 0..cuts {
        let cut = snapshots[0].position + random.below(log.len() - snapshots[0].position);
        let image = cut_image(&base, &log, cut, &mut random);
        let done = snapshots.iter().rposition(|snapshot| snapshot.position <= cut).expect("first snapshot");
        check_recovered(image, &snapshots[done], snapshots.get(done + 1), cut);
    }
}

#[test]
fn random_operations_4_kib() {
    random_cuts(&["-b", "4096"], 1, 40, 60);
}

#[test]
fn random_operations_1_kib() {
    random_cuts(&["-b", "1024"], 2, 40, 60);
}

#[test]
fn random_operations_without_checksums() {
    random_cuts(&["-b", "2048", "-O", "^metadata_csum,^64bit"], 3, 30, 40);
}

/// The log is so small that it wraps and checkpoints often.
#[test]
fn small_journal() {
    random_cuts(&["-b", "1024", "-J", "size=1"], 4, 150, 60);
}

/// Overwriting and `sync_data` leave the transaction alone; growing commits it.
#[test]
fn data_only() {
    let disk = Disk::new(vec![0; 16 << 20]);
    let options = FormatOptions { uuid: [3; 16], label: "", clock: support::clock };
    format(disk.clone(), &options).expect("format");
    let fs = mount(&disk).expect("mount");
    let inode = fs.create(ROOT, b"database", NewFile::Regular, Owner::default()).expect("create");
    let mut random = Random::new(9);
    let mut contents = Vec::new();
    let mut cheap = 0;
    for round in 0..60 {
        let offset = random.below(20) * 4096;
        let data = random.bytes(4096);
        let before = disk.log_length();
        assert_eq!(fs.write(inode, offset as u64, &data), Ok(4096));
        fs.sync_data(inode).expect("sync");
        cheap += usize::from(disk.log_length() - before == 2);
        contents.resize(contents.len().max(offset + 4096), 0);
        contents[offset..offset + 4096].copy_from_slice(&data);
        if round % 5 == 4 {
            let again = mount(&Disk::new(disk.image())).expect("mount");
            let mut found = vec![0; contents.len()];
            assert_eq!(again.read(inode, 0, &mut found), Ok(contents.len()));
            assert!(found == contents);
        }
    }
    assert!(cheap > 20, "{cheap}");
}

/// Recovery itself may be cut, again and again.
#[test]
fn cut_while_recovering() {
    if !have_e2fsprogs() {
        return;
    }
    let base = make_image(32, &["-b", "4096"]);
    let disk = Disk::new(base.clone());
    let (mut random, mut model) = (Random::new(5), Model::new());
    let fs = mount(&disk).expect("mount");
    for _ in 0..60 {
        model.step(&fs, &mut random);
    }
    fs.sync().expect("sync");
    let mut image = disk.image();
    for _ in 0..25 {
        let disk = Disk::new(image.clone());
        let fs = mount(&disk).expect("mount");
        model.assert_equals(&fs);
        let log = disk.log();
        let cut = random.below(log.len() + 1);
        image = cut_image(&image, &log, cut, &mut random);
    }
    let disk = Disk::new(image);
    let fs = mount(&disk).expect("mount");
    model.assert_equals(&fs);
    fs.unmount().expect("unmount");
    assert_clean(&disk.image());
}

/// The way editors and databases replace a file: at every point either the old contents or the new ones.
#[test]
fn replacing_by_rename_is_atomic() {
    if !have_e2fsprogs() {
        return;
    }
    let base = make_image(32, &["-b", "4096"]);
    let disk = Disk::new(base.clone());
    let fs = mount(&disk).expect("mount");
    let mut positions = Vec::new();
    for version in 0..30u8 {
        let inode = fs.create(ROOT, b"new", NewFile::Regular, Owner::default()).expect("create");
        fs.write(inode, 0, &[version; 50_000]).expect("write");
        fs.fsync(inode).expect("fsync");
        if let Some(removed) = fs.rename(ROOT, b"new", ROOT, b"config", Replace::Yes).expect("rename") {
            fs.evict(removed.inode).expect("evict");
        }
        positions.push(disk.log_length());
        // Reuses what was freed, if that were allowed already.
        let other =
            fs.create(ROOT, format!("other {version}").as_bytes(), NewFile::Regular, Owner::default());
        fs.write(other.expect("create"), 0, &[0xff; 60_000]).expect("write");
    }
    let log = disk.log();
    let mut random = Random::new(6);
    for _ in 0..100 {
        let cut = positions[1] + random.below(log.len() - positions[1]);
        let recovered = Disk::new(cut_image(&base, &log, cut, &mut random));
        let fs = mount(&recovered).expect("mount");
        let inode = fs.lookup(ROOT, b"config").expect("the file is always there");
        let mut contents = vec![0; 60_000];
        let length = fs.read(inode, 0, &mut contents).expect("read");
        assert_eq!(length, 50_000);
        assert!(contents[..length].iter().all(|&byte| byte == contents[0]), "cut {cut}: a mixture");
        let least = positions.iter().filter(|&&position| position <= cut).count() as u8;
        // The last rename may not be committed; the one before it was, by the fsync of the next version.
        assert!(contents[0] + 2 >= least, "cut {cut}: version {} after {least} renames", contents[0]);
    }
}

/// Freeing a file of many pieces takes several transactions; the orphan list carries it through.
#[test]
fn cut_while_freeing_a_large_file() {
    if !have_e2fsprogs() {
        return;
    }
    let base = make_image(24, &["-b", "1024", "-J", "size=1"]);
    let disk = Disk::new(base.clone());
    let fs = mount(&disk).expect("mount");
    let free = fs.statistics().expect("statistics").free_blocks;
    let make = |name: &[u8]| {
        let inode = fs.create(ROOT, name, NewFile::Regular, Owner::default()).expect("create");
        for block in 0..2500 {
            fs.write(inode, block * 2048, &[7; 1024]).expect("write");
        }
        inode
    };
    let (cut_short, removed) = (make(b"truncated"), make(b"removed"));
    fs.sync().expect("sync");
    let start = disk.log_length();
    fs.truncate(cut_short, 100_000).expect("truncate");
    fs.unlink(ROOT, b"removed").expect("unlink");
    fs.evict(removed).expect("evict");
    fs.sync().expect("sync");
    let log = disk.log();
    let mut random = Random::new(8);
    let mut sizes = BTreeSet::new();
    for _ in 0..60 {
        let cut = start + random.below(log.len() - start);
        let recovered = Disk::new(cut_image(&base, &log, cut, &mut random));
        let fs = mount(&recovered).unwrap_or_else(|error| panic!("cut {cut}: {error}"));
        sizes.insert(fs.attributes(cut_short).expect("attributes").size);
        if let Ok(inode) = fs.lookup(ROOT, b"removed") {
            let mut buffer = vec![0; 1024];
            assert_eq!(fs.read(inode, 2499 * 2048, &mut buffer), Ok(1024), "cut {cut}");
            assert!(buffer.iter().all(|&byte| byte == 7), "cut {cut}");
            fs.unlink(ROOT, b"removed").and_then(|removed| fs.evict(removed.inode)).expect("removed now");
        }
        fs.unlink(ROOT, b"truncated").and_then(|removed| fs.evict(removed.inode)).expect("removed now");
        fs.sync().expect("sync");
        assert_eq!(fs.statistics().expect("statistics").free_blocks, free, "cut {cut}");
        fs.unmount().expect("unmount");
        assert_clean(&recovered.image());
    }
    assert_eq!(sizes.into_iter().collect::<Vec<_>>(), [100_000, 2499 * 2048 + 1024]);
}

/// A disk that fails takes no half of a change with it, and what was synced stays.
#[test]
fn failing_disk() {
    let disk = Disk::new(vec![0; 16 << 20]);
    let options = FormatOptions { uuid: [4; 16], label: "", clock: support::clock };
    format(disk.clone(), &options).expect("format");
    let fs = mount(&disk).expect("mount");
    let (mut model, mut random) = (Model::new(), Random::new(10));
    for _ in 0..60 {
        model.step(&fs, &mut random);
    }
    let inode = fs.create(ROOT, b"data", NewFile::Regular, Owner::default()).expect("create");
    fs.sync().expect("sync");
    disk.break_writes(true);
    assert_eq!(fs.write(inode, 0, &[1; 100]), Err(Error::Device(DeviceError::Failed)));
    assert_eq!(fs.attributes(inode).map(|found| (found.size, found.sectors)), Ok((0, 0)));
    // Nothing of the journal is lost yet: when the disk works again, so does the file system.
    disk.break_writes(false);
    assert_eq!(fs.write(inode, 0, &[2; 100]), Ok(100));
    fs.sync().expect("sync");
    disk.break_writes(true);
    fs.create(ROOT, b"lost", NewFile::Fifo, Owner::default()).expect("create");
    assert_eq!(fs.sync(), Err(Error::Device(DeviceError::Failed)));
    disk.break_writes(false);
    assert_eq!(fs.sync(), Err(Error::Aborted));
    assert_eq!(fs.create(ROOT, b"late", NewFile::Fifo, Owner::default()), Err(Error::Aborted));
    assert_eq!(fs.unmount(), Err(Error::Aborted));
    let mut buffer = [0; 100];
    assert_eq!(fs.read(inode, 0, &mut buffer), Ok(100));
    let again = mount(&disk).expect("mount");
    assert_eq!(again.lookup(ROOT, b"lost"), Err(Error::NotFound));
    assert_eq!(again.lookup(ROOT, b"data"), Ok(inode));
    again.unlink(ROOT, b"data").and_then(|removed| again.evict(removed.inode)).expect("unlink");
    model.assert_equals(&again);
    again.unmount().expect("unmount");
    if have_e2fsprogs() {
        assert_clean(&disk.image());
    }
}
