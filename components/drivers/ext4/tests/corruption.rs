//! Images with bytes flipped: every operation must end, with whatever result, without a panic.

mod support;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use ext4::{AttributeChange, Ext4, NewFile, Owner, ROOT, Replace};
use support::{Disk, Random, debugfs_write, have_e2fsprogs, make_image, model::Model, mount};

/// Does a bit of everything to everything that can be reached.
fn use_everything(fs: &Ext4, random: &mut Random) {
    let mut seen = BTreeSet::new();
    let mut pending = vec![ROOT];
    let mut buffer = vec![0; 70_000];
    while let Some(directory) = pending.pop() {
        if !seen.insert(directory) || seen.len() > 40 {
            continue;
        }
        let mut entries = Vec::new();
        let _ = fs.read_directory(directory, 0, &mut |entry| {
            entries.push((entry.name.to_vec(), entry.inode));
            entries.len() < 60
        });
        for (name, inode) in entries {
            let _ = fs.lookup(directory, &name);
            let Ok(attributes) = fs.attributes(inode) else { continue };
            let _ = fs.extended_attributes(inode);
            if attributes.mode & 0o170_000 == 0o040_000 && name != b"." && name != b".." {
                pending.push(inode);
            }
            let _ = fs.read(inode, random.next() % 100_000, &mut buffer);
            let _ = fs.read_link(inode);
            let _ = fs.seek_data(inode, 0);
            let _ = fs.seek_hole(inode, 0);
            let _ =
                fs.set_attributes(inode, &AttributeChange { permissions: Some(0o777), ..Default::default() });
            match random.below(8) {
                0 | 1 => drop(fs.write(inode, random.next() % 200_000, &buffer[..9000])),
                2 => drop(fs.truncate(inode, random.next() % 100_000)),
                3 => drop(fs.punch_hole(inode, random.next() % 50_000, 30_000)),
                4 => drop(fs.allocate(inode, random.next() % 300_000, 50_000, true)),
                5 => drop(fs.link(inode, ROOT, format!("link {}", random.below(99)).as_bytes())),
                6 => {
                    let new = format!("new {}", random.below(99));
                    if let Ok(Some(removed)) = fs.rename(directory, &name, ROOT, new.as_bytes(), Replace::Yes)
                    {
                        let _ = fs.evict(removed.inode);
                    }
                }
                _ => {
                    for removed in [fs.unlink(directory, &name), fs.remove_directory(directory, &name)] {
                        let _ = removed.map(|removed| fs.evict(removed.inode));
                    }
                }
            }
        }
        for number in 0..5 {
            let name = format!("made {number} {}", "x".repeat(150));
            let _ = fs.create(directory, name.as_bytes(), NewFile::Regular, Owner::default());
            let _ = fs.create(directory, b"directory", NewFile::Directory, Owner::default());
            let _ = fs.create(directory, b"link", NewFile::Symlink(&[b'l'; 300]), Owner::default());
        }
        let _ = fs.sync();
    }
    let _ = fs.statistics();
    let _ = fs.unmount();
}

/// An image with something in it; `crashed`: and in its journal.
fn populated(arguments: &[&str], crashed: bool) -> Vec<u8> {
    let image = make_image(4, arguments);
    let disk = Disk::new(image);
    let fs = mount(&disk).expect("mount");
    let (mut model, mut random) = (Model::new(), Random::new(99));
    model.largest_file = 60_000;
    for _ in 0..120 {
        model.step(&fs, &mut random);
    }
    let holes = fs.create(ROOT, b"holes", NewFile::Regular, Owner::default()).expect("create");
    for number in 0..150 {
        fs.write(holes, number * 4096, b"x").expect("write");
    }
    let orphan = fs.create(ROOT, b"orphan", NewFile::Regular, Owner::default()).expect("create");
    fs.write(orphan, 0, &[1; 5000]).expect("write");
    fs.unlink(ROOT, b"orphan").expect("unlink");
    fs.sync().expect("sync");
    if !crashed {
        fs.unmount().expect("unmount");
    }
    disk.image()
}

fn flip_bytes(image: &[u8], rounds: usize, seed: u64) {
    let mut random = Random::new(seed);
    // Blocks with something in them, so that most flips hit something; half of them near the start.
    let blocks: Vec<usize> = (0..image.len() / 1024)
        .filter(|block| image[block * 1024..][..1024].iter().any(|&byte| byte != 0))
        .collect();
    for round in 0..rounds {
        let mut damaged = image.to_vec();
        for _ in 0..1 + random.below(12) {
            let limit = if random.below(2) == 0 { blocks.len().min(60) } else { blocks.len() };
            let block = blocks[random.below(limit)];
            let used = if random.below(2) == 0 { 64 } else { 1024 };
            let position = block * 1024 + random.below(used);
            damaged[position] = match random.below(4) {
                0 => 0,
                1 => 0xff,
                2 => damaged[position] ^ 1 << random.below(8),
                _ => random.next() as u8,
            };
        }
        let start = Instant::now();
        if let Ok(fs) = mount(&Disk::new(damaged)) {
            use_everything(&fs, &mut random);
        }
        assert!(start.elapsed() < Duration::from_secs(20), "round {round} took {:?}", start.elapsed());
    }
}

#[test]
fn without_checksums() {
    if have_e2fsprogs() {
        flip_bytes(&populated(&["-b", "1024", "-O", "^metadata_csum"], false), 500, 1);
    }
}

#[test]
fn with_checksums() {
    if have_e2fsprogs() {
        flip_bytes(&populated(&["-b", "1024"], false), 200, 2);
    }
}

#[test]
fn with_a_journal_to_replay() {
    if have_e2fsprogs() {
        flip_bytes(&populated(&["-b", "1024", "-O", "^metadata_csum"], true), 300, 3);
    }
}

#[test]
fn superblock_fields() {
    if !have_e2fsprogs() {
        return;
    }
    let image = populated(&["-b", "1024", "-O", "^metadata_csum"], false);
    let mut random = Random::new(4);
    for offset in (0..1024).step_by(2) {
        for value in [0u16, 1, 0x7fff, 0xffff] {
            let mut damaged = image.clone();
            damaged[1024 + offset..1024 + offset + 2].copy_from_slice(&value.to_le_bytes());
            if let Ok(fs) = mount(&Disk::new(damaged))
                && random.below(8) == 0
            {
                use_everything(&fs, &mut random);
            }
        }
    }
}

/// Extended attributes and directory indexes, which this driver does not make itself.
#[test]
fn foreign_structures() {
    if !have_e2fsprogs() {
        return;
    }
    let long = "v".repeat(300);
    let image = debugfs_write(
        &populated(&["-b", "1024", "-O", "^metadata_csum"], false),
        &["ea_set /holes user.short value", &format!("ea_set /holes user.long {long}")],
    );
    let (_, _, image) = support::run_e2fsck(&image, &["-fyD"]);
    flip_bytes(&image, 200, 5);
}
