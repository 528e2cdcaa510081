//! tmpfs against a model: random operations on a file, on an empty one and on one of the image.

mod common;

use common::{Caller, Random, baked, failed, file, get, leak, put};
use image::{compressed::CLUSTER, tree::Tree, writer::Layout};
use rumpkern::Errno;
use rumpuser::{memory::PAGE_SIZE, rumpuser_frame_release};
use rumpvfs::{
    access::Credentials,
    file::OpenFlags,
    tmpfs::{Limits, TmpFs, seal},
    vnode::AttributeChanges,
};

fn hammer(caller: &Caller, mut model: Vec<u8>, seed: u64) {
    let flags = OpenFlags::READ_WRITE | OpenFlags::CREATE;
    let opened = caller.open("/file", flags).expect("open");
    let vnode = opened.file.vnode().expect("a vnode").clone();
    let pager = vnode.pager().expect("a pager");
    let mut random = Random(seed);
    for step in 0..3000 {
        let offset = random.next(100_000);
        let length = random.next(if step % 10 == 0 { 40_000 } else { 300 }) as usize;
        match random.next(8) {
            0..=1 => {
                let data: Vec<u8> = (0..length).map(|_| random.next(256) as u8).collect();
                assert_eq!(put(&*opened.file, offset, &data), Ok(length));
                if length > 0 {
                    let end = offset as usize + length;
                    model.resize(model.len().max(end), 0);
                    model[offset as usize..end].copy_from_slice(&data);
                }
            }
            2..=4 => {
                let end = model.len().min(offset as usize + length);
                let expected = model.get(offset as usize..end).unwrap_or_default();
                assert_eq!(get(&*opened.file, offset, length).expect("read"), expected);
            }
            5 if step % 5 == 0 => {
                let changes = AttributeChanges { size: Some(offset), ..Default::default() };
                vnode.set_attributes(&changes).expect("truncate");
                model.resize(offset as usize, 0);
            }
            6 => {
                let index = offset / PAGE_SIZE as u64;
                let start = index as usize * PAGE_SIZE;
                match pager.page(index, step % 2 == 0) {
                    Ok(frame) => {
                        let mut page = [0; PAGE_SIZE];
                        frame.read(0, &mut page);
                        let end = model.len().min(start + PAGE_SIZE);
                        assert_eq!(&page[..end - start], &model[start..end]);
                        if step % 2 == 0 && end > start {
                            frame.write(0, b"!");
                            model[start] = b'!';
                        }
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
            _ => {}
        }
        assert_eq!(vnode.attributes().expect("stat").size, model.len() as u64);
    }
    assert_eq!(get(&*opened.file, 0, 1 << 20).expect("read"), model);
}

#[test]
fn a_file_behaves_as_an_array_of_bytes() {
    for seed in 1..6 {
        hammer(&Caller::tmpfs(), Vec::new(), seed * 7919);
    }
}

#[test]
fn a_file_of_the_image_does_too() {
    for (seed, length) in [(1, 50_001usize), (2, 8192), (3, 1), (4, 90_000)] {
        let data: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
        let mut tree = Tree::new();
        tree.insert_at(b"/file", file(&data)).expect("insert");
        tree.insert_at(b"/other", file(b"other")).expect("insert");
        let caller = Caller::over(&tree);
        hammer(&caller, data, seed * 104_729);
        assert_eq!(caller.read("/other").expect("read"), b"other");
    }
}

/// Numbers as text: they compress well, and no two pages are alike.
fn text(length: usize) -> Vec<u8> {
    (0..).flat_map(|number: u32| format!("line {number} of the file\n").into_bytes()).take(length).collect()
}

fn compressed(data: &[u8]) -> Vec<u8> {
    let mut tree = Tree::new();
    tree.insert_at(b"/file", file(data)).expect("insert");
    baked(&Layout::compressed(&tree).expect("a layout"))
}

fn over(image: &[u8]) -> Caller {
    let limits = Limits { bytes: 64 << 20, files: 10_000 };
    Caller::new(TmpFs::over(leak(image), limits).expect("a root directory"))
}

#[test]
fn so_does_a_compressed_file_of_the_image() {
    for (seed, length) in [(1, 50_001usize), (2, 2 * CLUSTER), (3, 5000), (4, 90_000), (5, 98_305)] {
        let data = text(length);
        let image = compressed(&data);
        assert!(image.len() < length.next_multiple_of(PAGE_SIZE) + PAGE_SIZE);
        hammer(&over(&image), data, seed * 15_485_863);
    }
}

#[test]
fn a_compressed_file_is_decompressed_where_it_is_used() {
    let data = text(4 * CLUSTER + 100);
    let caller = over(&compressed(&data));
    let opened = caller.open("/file", OpenFlags::READ_WRITE).expect("open");
    let pager = opened.file.pager().expect("a pager");
    let used = || 64 * 1024 * 1024 / PAGE_SIZE as u64 - caller.root.statistics().expect("statfs").blocks_free;
    let cluster = (CLUSTER / PAGE_SIZE) as u64;
    assert_eq!(used(), 0);
    assert_eq!(get(&*opened.file, CLUSTER as u64 + 10, 5).expect("read"), data[CLUSTER + 10..CLUSTER + 15]);
    assert_eq!(used(), cluster);
    // In one piece, for large pages and few faults.
    assert_eq!(pager.contiguous(cluster), cluster);
    assert_eq!(pager.contiguous(0), 1);
    let frame = pager.page(4 * cluster, false).expect("the last page");
    let mut page = [1; PAGE_SIZE];
    frame.read(0, &mut page);
    rumpuser_frame_release(frame);
    assert_eq!(page[..100], data[4 * CLUSTER..]);
    assert!(page[100..].iter().all(|&byte| byte == 0));
    assert_eq!(used(), cluster + 1);
}

#[test]
fn a_damaged_compressed_file_fails_alone() {
    let data = text(3 * CLUSTER);
    let mut image = compressed(&data);
    let end = image.len();
    // In the last cluster.
    image[end - 2 * PAGE_SIZE..].fill(0xff);
    let caller = over(&image);
    let opened = caller.open("/file", OpenFlags::READ_WRITE).expect("open");
    assert_eq!(get(&*opened.file, 0, CLUSTER).expect("read"), data[..CLUSTER]);
    let last = 2 * CLUSTER as u64;
    assert_eq!(get(&*opened.file, last, 10), Err(Errno::EIO));
    let pager = opened.file.pager().expect("a pager");
    assert_eq!(pager.page(last / PAGE_SIZE as u64, false).err(), Some(Errno::EIO));
}

#[test]
fn unmodified_pages_stay_in_the_image() {
    let mut tree = Tree::new();
    tree.insert_at(b"/file", file(&[7; 40_000])).expect("insert");
    let caller = Caller::over(&tree);
    let opened = caller.open("/file", OpenFlags::READ_WRITE).expect("open");
    let before = caller.root.statistics().expect("statfs").blocks_free;
    let pager = opened.file.pager().expect("a pager");
    assert_eq!(pager.contiguous(0), 10);
    assert_eq!(put(&*opened.file, 5000, b"changed"), Ok(7));
    assert_eq!(caller.root.statistics().expect("statfs").blocks_free, before - 1);
    assert_eq!(pager.contiguous(0), 1);
    assert_eq!(pager.contiguous(2), 8);
    assert_eq!(&get(&*opened.file, 4999, 9).expect("read"), b"\x07changed\x07");
}

#[test]
fn size_and_file_limits_are_kept() {
    let file_system = TmpFs::new(Limits { bytes: 4 * PAGE_SIZE as u64, files: 3 }, 0o755).expect("tmpfs");
    let caller = Caller::new(file_system);
    let opened = caller.open("/a", OpenFlags::CREATE | OpenFlags::READ_WRITE).expect("open");
    assert_eq!(put(&*opened.file, 0, &[1; 5 * PAGE_SIZE]), Ok(4 * PAGE_SIZE));
    assert_eq!(put(&*opened.file, 4 * PAGE_SIZE as u64, b"x"), Err(Errno::ENOSPC));
    caller.write("/b", b"").expect("the third file");
    assert_eq!(failed(caller.write("/c", b"")), Errno::ENOSPC);
    caller.unlink("/a").expect("unlink");
    assert_eq!(failed(caller.write("/b", b"x")), Errno::ENOSPC, "the file is still open");
    drop(opened);
    caller.lookup().resolve(b"/a", true).err().expect("gone");
    caller.write("/b", b"x").expect("room again");
}

#[test]
fn memory_files_can_be_sealed() {
    let file_system = TmpFs::new(Limits::default(), 0o755).expect("tmpfs");
    let opened = file_system.memory_file(b"name", &Credentials::root(), 0o777, true).expect("memfd");
    let caller = Caller::new(file_system);
    assert_eq!(opened.location.path(&caller.root), b"/memfd:name (deleted)");
    assert_eq!(put(&*opened.file, 0, b"data"), Ok(4));
    let vnode = opened.file.vnode().expect("a vnode");
    vnode.add_seals(seal::WRITE | seal::SHRINK).expect("seal");
    assert_eq!(put(&*opened.file, 0, b"data"), Err(Errno::EPERM));
    let shrink = AttributeChanges { size: Some(1), ..Default::default() };
    assert_eq!(vnode.set_attributes(&shrink), Err(Errno::EPERM));
    vnode.add_seals(seal::SEAL).expect("seal");
    assert_eq!(vnode.add_seals(seal::GROW), Err(Errno::EPERM));
    assert_eq!(vnode.seals(), Ok(seal::WRITE | seal::SHRINK | seal::SEAL));
}

#[test]
fn holes_are_found() {
    let caller = Caller::tmpfs();
    let opened = caller.open("/file", OpenFlags::CREATE | OpenFlags::READ_WRITE).expect("open");
    put(&*opened.file, 1 << 40, b"far").expect("write");
    put(&*opened.file, 4096, b"near").expect("write");
    let seek = |offset, hole| opened.file.seek_data(offset, hole);
    assert_eq!(seek(0, false), Ok(4096));
    assert_eq!(seek(0, true), Ok(0));
    assert_eq!(seek(4097, true), Ok(8192));
    assert_eq!(seek(8192, false), Ok(1 << 40));
    assert_eq!(seek((1 << 40) + 3, false), Err(Errno::ENXIO));
    assert_eq!(opened.file.attributes().expect("stat").blocks, 16);
}
