//! Name lookup, mounts, and what programs do with names, with the errors of Linux.

mod common;

use std::sync::Arc;

use common::{Caller, Random, failed, file, get, link_to, put};
use image::tree::Tree;
use rumpkern::Errno::*;
use rumpvfs::{
    file::OpenFlags,
    mount::{MountFlags, MountOptions},
    namei::Resolve,
    tmpfs::{Limits, TmpFs},
};

const CREATE: OpenFlags = OpenFlags::CREATE.union(OpenFlags::READ_WRITE);

#[test]
fn paths_resolve_as_posix_says() {
    let caller = Caller::tmpfs();
    caller.mkdir("/d").expect("mkdir");
    caller.mkdir("/d/e/").expect("mkdir with a slash");
    caller.write("/d/f", b"text").expect("write");
    caller.symlink("d/e", "/link").expect("symlink");
    caller.symlink("/d/f", "/file").expect("symlink");
    caller.symlink("loop", "/loop").expect("symlink");
    caller.symlink("missing", "/dangling").expect("symlink");
    assert_eq!(caller.read("//d/../d/./e/../f").expect("read"), b"text");
    assert_eq!(caller.read("/link/../f").expect("read"), b"text");
    assert_eq!(caller.path_of("/link").expect("path"), "/d/e");
    assert_eq!(caller.path_of("/../..").expect("path"), "/");
    assert_eq!(failed(caller.stat("")), ENOENT);
    assert_eq!(failed(caller.stat("/d/f/")), ENOTDIR);
    assert_eq!(failed(caller.stat("/d/f/x")), ENOTDIR);
    assert_eq!(failed(caller.stat("/file/")), ENOTDIR);
    assert_eq!(failed(caller.stat("/nothing/x")), ENOENT);
    assert_eq!(failed(caller.stat("/loop")), ELOOP);
    assert_eq!(failed(caller.stat(&format!("/{}", "n".repeat(256)))), ENAMETOOLONG);
    assert_eq!(failed(caller.stat(&"/d/..".repeat(900))), ENAMETOOLONG);
    assert_eq!(caller.lstat("/loop").expect("lstat").size, 4);
    assert_eq!(caller.lookup().read_link(b"/file").expect("readlink"), b"/d/f");
    assert_eq!(failed(caller.lookup().read_link(b"/d")), EINVAL);
    // 40 links are followed, 41 are not.
    caller.symlink("d", "/l0").expect("symlink");
    for number in 1..42 {
        caller.symlink(&format!("l{}", number - 1), &format!("/l{number}")).expect("symlink");
    }
    caller.stat("/l39").expect("40 links");
    assert_eq!(failed(caller.stat("/l40")), ELOOP);
}

#[test]
fn open_checks_its_flags() {
    let caller = Caller::tmpfs();
    caller.mkdir("/d").expect("mkdir");
    caller.write("/f", b"text").expect("write");
    caller.symlink("f", "/link").expect("symlink");
    caller.symlink("new", "/dangling").expect("symlink");
    let open = |path, flags| caller.open(path, flags).map(|_| ());
    assert_eq!(open("/d", OpenFlags::READ_WRITE), Err(EISDIR));
    assert_eq!(open("/d", CREATE), Err(EISDIR));
    assert_eq!(open("/x/", CREATE), Err(EISDIR));
    assert_eq!(open("/f", OpenFlags::DIRECTORY), Err(ENOTDIR));
    assert_eq!(open("/f", CREATE | OpenFlags::EXCLUSIVE), Err(EEXIST));
    assert_eq!(open("/dangling", CREATE | OpenFlags::EXCLUSIVE), Err(EEXIST));
    assert_eq!(open("/link", OpenFlags::NO_FOLLOW), Err(ELOOP));
    assert_eq!(open("/link", OpenFlags::NO_FOLLOW | OpenFlags::PATH), Ok(()));
    assert_eq!(open("/new", OpenFlags::empty()), Err(ENOENT));
    assert_eq!(open("/dangling", CREATE), Ok(()));
    assert_eq!(caller.stat("/new").expect("made through the link").size, 0);
    assert_eq!(open("/f", OpenFlags::TRUNCATE | OpenFlags::READ_WRITE), Ok(()));
    assert_eq!(caller.stat("/f").expect("stat").size, 0);
    assert_eq!(open("/d", OpenFlags::DIRECTORY), Ok(()));
    // A file without a name gets one.
    let unnamed = OpenFlags::TEMPORARY | OpenFlags::DIRECTORY | OpenFlags::READ_WRITE;
    let opened = caller.open("/d", unnamed).expect("O_TMPFILE");
    put(&*opened.file, 0, b"later").expect("write");
    caller.lookup().link(&opened.location, b"/named").expect("link");
    assert_eq!(caller.read("/named").expect("read"), b"later");
    assert_eq!(caller.stat("/named").expect("stat").links, 1);
}

#[test]
fn names_come_and_go_with_the_right_errors() {
    let caller = Caller::tmpfs();
    caller.mkdir("/d").expect("mkdir");
    caller.write("/d/f", b"text").expect("write");
    assert_eq!(failed(caller.mkdir("/d")), EEXIST);
    assert_eq!(failed(caller.mkdir("/")), EEXIST);
    assert_eq!(failed(caller.mkdir("/x/y")), ENOENT);
    assert_eq!(failed(caller.symlink("a", "/s/")), ENOENT);
    assert_eq!(failed(caller.symlink("", "/s")), ENOENT);
    assert_eq!(failed(caller.rmdir("/d")), ENOTEMPTY);
    assert_eq!(failed(caller.rmdir("/d/f")), ENOTDIR);
    assert_eq!(failed(caller.rmdir("/d/.")), EINVAL);
    assert_eq!(failed(caller.rmdir("/d/..")), ENOTEMPTY);
    assert_eq!(failed(caller.rmdir("/")), EBUSY);
    assert_eq!(failed(caller.unlink("/d")), EISDIR);
    assert_eq!(failed(caller.unlink("/d/f/")), ENOTDIR);
    assert_eq!(failed(caller.unlink("/nothing")), ENOENT);
    assert_eq!(failed(caller.link("/d", "/d2")), EPERM);
    caller.link("/d/f", "/f2").expect("link");
    assert_eq!(failed(caller.link("/d/f", "/f2")), EEXIST);
    assert_eq!(caller.stat("/f2").expect("stat").links, 2);
    assert_eq!(caller.stat("/d").expect("stat").links, 2);
    assert_eq!(caller.stat("/").expect("stat").links, 3);
    let opened = caller.open("/d/f", OpenFlags::empty()).expect("open");
    caller.unlink("/d/f").expect("unlink");
    assert_eq!(opened.location.path(&caller.root), b"/d/f (deleted)");
    assert_eq!(get(&*opened.file, 0, 9).expect("still there"), b"text");
    let directory = caller.open("/d", OpenFlags::DIRECTORY).expect("open");
    caller.rmdir("/d").expect("rmdir");
    let mut inside = caller.user(0, 0);
    inside.directory = directory.location;
    inside.credentials.privileged = true;
    assert_eq!(failed(inside.write("x", b"")), ENOENT);
    assert_eq!(inside.directory.working_directory(&caller.root), Err(ENOENT));
}

#[test]
fn rename_moves_replaces_and_swaps() {
    let caller = Caller::tmpfs();
    for path in ["/a", "/a/b", "/c", "/empty"] {
        caller.mkdir(path).expect("mkdir");
    }
    caller.write("/a/f", b"one").expect("write");
    caller.write("/c/g", b"two").expect("write");
    let opened = caller.open("/a/f", OpenFlags::empty()).expect("open");
    assert_eq!(failed(caller.rename("/a", "/a/b/x")), EINVAL);
    assert_eq!(failed(caller.rename("/a/b", "/a")), ENOTEMPTY);
    assert_eq!(failed(caller.rename("/a/f", "/c")), EISDIR);
    assert_eq!(failed(caller.rename("/c", "/a/f")), ENOTDIR);
    assert_eq!(failed(caller.rename("/a", "/c")), ENOTEMPTY);
    assert_eq!(failed(caller.rename("/a/.", "/x")), EBUSY);
    assert_eq!(failed(caller.rename("/nothing", "/x")), ENOENT);
    assert_eq!(failed(caller.rename("/a/f/", "/x")), ENOTDIR);
    caller.rename("/a", "/empty").expect("over an empty directory");
    assert_eq!(opened.location.path(&caller.root), b"/empty/f");
    assert_eq!(failed(caller.stat("/a")), ENOENT);
    caller.rename("/empty/f", "/c/g").expect("over a file");
    assert_eq!(caller.read("/c/g").expect("read"), b"one");
    caller.rename("/empty/b", "/c/b").expect("to another directory");
    assert_eq!(caller.path_of("/c/b/..").expect("path"), "/c");
    assert_eq!(caller.stat("/c").expect("stat").links, 3);
    assert_eq!(caller.stat("/empty").expect("stat").links, 2);
    let swap = |one: &str, other: &str| {
        caller.lookup().rename(one.as_bytes(), &caller.lookup(), other.as_bytes(), false, true)
    };
    assert_eq!(swap("/c/g", "/nothing"), Err(ENOENT));
    swap("/c/g", "/empty").expect("swap");
    assert_eq!(caller.read("/empty").expect("read"), b"one");
    assert!(caller.list("/c/g").expect("list").is_empty());
    let keep = caller.lookup().rename(b"/c/g", &caller.lookup(), b"/empty", true, false);
    assert_eq!(keep, Err(EEXIST));
    caller.link("/empty", "/same").expect("link");
    caller.rename("/empty", "/same").expect("nothing happens");
    assert_eq!(caller.list("/").expect("list"), ["c", "empty", "same"]);
}

#[test]
fn permissions_are_checked() {
    let root = Caller::tmpfs();
    let user = root.user(1000, 1000);
    root.mkdir("/closed").expect("mkdir");
    root.write("/closed/f", b"secret").expect("write");
    root.mkdir("/tmp").expect("mkdir");
    let at = |path: &str| root.lookup().resolve(path.as_bytes(), true).expect("resolve");
    at("/closed").change_mode(&root.credentials, 0o700).expect("chmod");
    at("/tmp").change_mode(&root.credentials, 0o1777).expect("chmod");
    assert_eq!(failed(user.read("/closed/f")), EACCES);
    assert_eq!(failed(user.write("/x", b"")), EACCES);
    user.write("/tmp/mine", b"x").expect("write");
    root.write("/tmp/roots", b"x").expect("write");
    assert_eq!(failed(user.unlink("/tmp/roots")), EPERM);
    assert_eq!(failed(user.rename("/tmp/roots", "/tmp/x")), EPERM);
    assert_eq!(failed(user.write("/tmp/roots", b"")), EACCES);
    assert_eq!(at("/tmp/roots").change_mode(&user.credentials, 0o777), Err(EPERM));
    assert_eq!(at("/tmp/mine").change_owner(&user.credentials, Some(1), None), Err(EPERM));
    at("/tmp/mine").change_mode(&user.credentials, 0o4755).expect("chmod");
    at("/tmp/mine").change_owner(&root.credentials, Some(1), Some(2)).expect("chown");
    assert_eq!(root.stat("/tmp/mine").expect("stat").permissions, 0o755);
    assert_eq!(failed(user.open("/tmp/mine", OpenFlags::NO_ACCESS_TIME)), EPERM);
    let creation = rumpvfs::vnode::Creation {
        kind: rumpvfs::vnode::Kind::Character,
        permissions: 0o666,
        uid: 0,
        gid: 0,
        target: b"",
        rdev: 0x103,
    };
    assert_eq!(failed(user.lookup().create(b"/tmp/null", &creation)), EPERM);
    root.lookup().create(b"/tmp/null", &creation).expect("mknod");
    assert_eq!(failed(root.open("/tmp/null", OpenFlags::empty())), ENXIO);
}

#[test]
fn mounts_cover_and_uncover() {
    let caller = Caller::tmpfs();
    caller.mkdir("/m").expect("mkdir");
    caller.write("/m/below", b"").expect("write");
    let inner = TmpFs::new(Limits::default(), 0o755).expect("tmpfs");
    let point = caller.lookup().resolve(b"/m", true).expect("resolve");
    let options = MountOptions { source: b"none".to_vec(), ..Default::default() };
    drop(point.mount(inner, options).expect("mount"));
    drop(point);
    assert!(caller.list("/m").expect("list").is_empty());
    caller.mkdir("/m/d").expect("mkdir");
    assert_eq!(caller.path_of("/m/d/../..").expect("path"), "/");
    assert_eq!(caller.path_of("/m/d").expect("path"), "/m/d");
    assert_eq!(failed(caller.rename("/m/d", "/d")), EXDEV);
    assert_eq!(failed(caller.rmdir("/m")), EBUSY);
    caller.write("/f", b"").expect("write");
    assert_eq!(failed(caller.link("/f", "/m/f")), EXDEV);
    let restricted = |path: &str, resolve| {
        let lookup = rumpvfs::namei::Lookup { resolve, ..caller.lookup() };
        lookup.resolve(path.as_bytes(), true).map(|_| ())
    };
    assert_eq!(restricted("m/d", Resolve::NO_XDEV), Err(EXDEV));
    assert_eq!(restricted("/m", Resolve::BENEATH), Err(EXDEV));
    assert_eq!(restricted("m/../..", Resolve::BENEATH), Err(EXDEV));
    assert_eq!(restricted("m/../m", Resolve::BENEATH), Ok(()));
    let rows = caller.root.mount_rows();
    assert_eq!(rows.len(), 2);
    assert_eq!((&rows[1].point[..], rows[1].kind, &rows[1].flags[..]), (&b"/m"[..], "tmpfs", "rw,relatime"));
    let opened = caller.open("/m/d", OpenFlags::empty()).expect("open");
    let mounted = || caller.lookup().resolve(b"/m", true).expect("resolve");
    assert_eq!(mounted().unmount(false), Err(EBUSY));
    drop(opened);
    mounted().mount.set_flags(MountFlags::READ_ONLY);
    assert_eq!(failed(caller.mkdir("/m/x")), EROFS);
    assert_eq!(failed(caller.open("/m/d", OpenFlags::CREATE | OpenFlags::WRITE_ONLY)), EISDIR);
    // Bind mounts show the same files elsewhere.
    caller.mkdir("/n").expect("mkdir");
    drop(caller.lookup().resolve(b"/n", true).expect("resolve").bind(&mounted()).expect("bind"));
    assert_eq!(caller.list("/n").expect("list"), ["d"]);
    assert_eq!(caller.path_of("/n/d").expect("path"), "/n/d");
    caller.lookup().resolve(b"/n", true).expect("resolve").unmount(false).expect("unmount");
    mounted().unmount(false).expect("unmount");
    assert_eq!(caller.list("/m").expect("list"), ["below"]);
    assert_eq!(mounted().unmount(false), Err(EINVAL));
    caller.rmdir("/n").expect("no longer busy");
}

fn tree() -> Tree {
    let mut tree = Tree::new();
    for (path, text) in
        [("/etc/passwd", "root"), ("/usr/bin/sh", "shell"), ("/usr/lib/a", "a"), ("/usr/lib/b", "b")]
    {
        tree.insert_at(path.as_bytes(), file(text.as_bytes())).expect("insert");
    }
    tree.insert_at(b"/bin", link_to("usr/bin")).expect("insert");
    tree
}

#[test]
fn the_image_can_be_changed_without_being_copied() {
    let caller = Caller::over(&tree());
    assert_eq!(caller.read("/bin/sh").expect("read"), b"shell");
    let inode = caller.stat("/etc/passwd").expect("stat").inode;
    let opened = caller.open("/etc/passwd", OpenFlags::WRITE_ONLY | OpenFlags::APPEND).expect("open");
    let mut offset = 0;
    let mut source = rumpkern::uio::Source::kernel(b" user");
    assert_eq!(opened.file.write(&mut source, &mut offset, OpenFlags::APPEND), Ok(5));
    assert_eq!(offset, 9);
    assert_eq!(caller.read("/etc/passwd").expect("read"), b"root user");
    assert_eq!(caller.stat("/etc/passwd").expect("stat").inode, inode);
    // Directories of the image move with what is in them.
    caller.rename("/usr/lib", "/lib").expect("rename");
    assert_eq!(caller.list("/lib").expect("list"), ["a", "b"]);
    assert_eq!(caller.list("/usr").expect("list"), ["bin"]);
    assert_eq!(caller.path_of("/lib/a").expect("path"), "/lib/a");
    caller.unlink("/lib/a").expect("unlink");
    assert_eq!(failed(caller.rmdir("/lib")), ENOTEMPTY);
    caller.write("/lib/a", b"again").expect("write");
    assert_eq!(caller.read("/lib/a").expect("read"), b"again");
    caller.unlink("/lib/a").expect("unlink");
    caller.unlink("/lib/b").expect("unlink");
    caller.rmdir("/lib").expect("rmdir");
    caller.mkdir("/lib").expect("mkdir");
    assert!(caller.list("/lib").expect("an empty directory").is_empty());
    caller.link("/etc/passwd", "/etc/copy").expect("link");
    assert_eq!(caller.stat("/etc/copy").expect("stat").inode, inode);
}

#[test]
fn a_read_only_image_refuses_changes() {
    let caller = Caller::new(TmpFs::image(common::image(&tree())).expect("a root"));
    assert_eq!(caller.read("/bin/sh").expect("read"), b"shell");
    assert_eq!(failed(caller.write("/etc/new", b"")), EROFS);
    assert_eq!(failed(caller.write("/etc/passwd", b"")), EROFS);
    assert_eq!(failed(caller.unlink("/etc/passwd")), EROFS);
}

#[test]
fn listing_survives_changes() {
    let caller = Caller::over(&tree());
    for number in 0..200 {
        caller.write(&format!("/usr/lib/n{number}"), b"").expect("write");
    }
    let directory = caller.lookup().resolve(b"/usr/lib", true).expect("resolve");
    let mut seen = Vec::new();
    let mut position = 0;
    loop {
        let mut count = 0;
        let start = position;
        let visit = &mut |entry: rumpvfs::vnode::DirectoryEntry<'_>| {
            seen.push(String::from_utf8_lossy(entry.name).into_owned());
            position = entry.next;
            count += 1;
            count < 3
        };
        directory.vnode().entries(start, visit).expect("list");
        if count == 0 {
            break;
        }
        // Each name that was seen is removed; the others must still come, once.
        for name in seen.iter().filter(|name| !name.starts_with('.')) {
            let _ = caller.unlink(&format!("/usr/lib/{name}"));
        }
    }
    assert_eq!(seen.len(), 204);
    assert!(caller.list("/usr/lib").expect("list").is_empty());
}

/// Random operations on a small tree, with a map from paths to contents as the model.
#[test]
fn a_tree_behaves_as_a_map() {
    use std::collections::BTreeMap;
    for seed in 1..6 {
        let mut tree = Tree::new();
        let mut model: BTreeMap<String, Option<Vec<u8>>> = BTreeMap::new();
        for number in 0..4 {
            model.insert(format!("/d{number}"), None);
            let path = format!("/d{number}/f0");
            tree.insert_at(path.as_bytes(), file(path.as_bytes())).expect("insert");
            model.insert(path.clone(), Some(path.into_bytes()));
        }
        let caller = Caller::over(&tree);
        let mut random = Random(seed * 31_337);
        for _ in 0..4000 {
            let directory = format!("/d{}", random.next(4));
            let name = |random: &mut Random| match random.next(2) {
                0 => format!("/f{}", random.next(4)),
                _ => format!("/d{}/f{}", random.next(2), random.next(2)),
            };
            let path = format!("{directory}{}", name(&mut random));
            let other = format!("/d{}{}", random.next(4), name(&mut random));
            let parent = path[..path.rfind('/').expect("a slash")].to_string();
            let parent_is_directory = model.get(&parent) == Some(&None);
            match random.next(5) {
                0 => {
                    let works = parent_is_directory && model.get(&path) != Some(&None);
                    let text = random.next(1000).to_string().into_bytes();
                    assert_eq!(caller.write(&path, &text).is_ok(), works, "{path}");
                    if works {
                        model.insert(path, Some(text));
                    }
                }
                1 => {
                    let above = format!("{directory}/d{}", random.next(2));
                    let works = model.get(&directory) == Some(&None) && !model.contains_key(&above);
                    assert_eq!(caller.mkdir(&above).is_ok(), works);
                    if works {
                        model.insert(above, None);
                    }
                }
                2 => {
                    let works = matches!(model.get(&path), Some(Some(_)));
                    assert_eq!(caller.unlink(&path).is_ok(), works);
                    if works {
                        model.remove(&path);
                    }
                }
                3 => {
                    let from = matches!(model.get(&path), Some(Some(_)));
                    let above = &other[..other.rfind('/').expect("a slash")];
                    let works = from && model.get(above) == Some(&None) && model.get(&other) != Some(&None);
                    assert_eq!(caller.rename(&path, &other).is_ok(), works, "{path} {other}");
                    if works && path != other {
                        let text = model.remove(&path).expect("there");
                        model.insert(other, text);
                    }
                }
                _ => match model.get(&path) {
                    Some(Some(text)) => assert_eq!(&caller.read(&path).expect("read"), text),
                    _ => assert!(caller.read(&path).is_err() || model.get(&path) == Some(&None)),
                },
            }
        }
        for (path, content) in &model {
            match content {
                Some(text) => assert_eq!(&caller.read(path).expect("read"), text),
                None => {
                    let below = format!("{path}/");
                    let children = model
                        .keys()
                        .filter(|key| key.strip_prefix(&below).is_some_and(|rest| !rest.contains('/')));
                    assert_eq!(caller.list(path).expect("list").len(), children.count());
                }
            }
        }
    }
}

#[test]
fn threads_share_a_directory() {
    let caller = Arc::new(Caller::tmpfs());
    caller.mkdir("/d").expect("mkdir");
    let threads: Vec<_> = (0..4u64)
        .map(|number| {
            let caller = caller.clone();
            std::thread::spawn(move || {
                let mut random = Random(number + 1);
                for _ in 0..500 {
                    let (one, other) = (format!("/d/{}", random.next(5)), format!("/d/{}", random.next(5)));
                    match random.next(4) {
                        0 => drop(caller.write(&one, b"x")),
                        1 => drop(caller.rename(&one, &other)),
                        2 => drop(caller.unlink(&one)),
                        _ => drop(caller.read(&other)),
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
    for name in caller.list("/d").expect("list") {
        caller.unlink(&format!("/d/{name}")).expect("unlink");
    }
    caller.rmdir("/d").expect("rmdir");
}

#[test]
fn extended_attributes_are_kept() {
    let caller = Caller::tmpfs();
    caller.write("/f", b"").expect("write");
    let at = caller.lookup().resolve(b"/f", true).expect("resolve");
    let root = &caller.credentials;
    assert_eq!(at.get_xattr(root, b"user.a"), Err(ENODATA));
    at.set_xattr(root, b"user.a", b"1", true, false).expect("set");
    assert_eq!(at.set_xattr(root, b"user.a", b"2", true, false), Err(EEXIST));
    assert_eq!(at.set_xattr(root, b"user.b", b"2", false, true), Err(ENODATA));
    assert_eq!(at.set_xattr(root, b"other.b", b"2", false, false), Err(EOPNOTSUPP));
    assert_eq!(at.get_xattr(root, b"user.a").expect("get"), b"1");
    assert_eq!(at.list_xattrs(root).expect("list"), [b"user.a".to_vec()]);
    at.remove_xattr(root, b"user.a").expect("remove");
    assert_eq!(at.remove_xattr(root, b"user.a"), Err(ENODATA));
}

#[test]
fn deep_trees_are_dropped_without_deep_stacks() {
    let mut caller = Caller::tmpfs();
    for _ in 0..20_000 {
        if caller.mkdir("d").is_err() {
            break;
        }
        caller.directory = caller.lookup().resolve(b"d", true).expect("resolve");
    }
    drop(caller);
}
