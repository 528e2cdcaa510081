//! Advisory locks, with threads that wait for each other.

mod common;

use std::{sync::Arc, thread, time::Duration};

use common::Caller;
use rumpkern::Errno;
use rumpvfs::{
    locks::{Lock, Mode, Owner, all, conflict, flock, release, set},
    vnode::Vnode,
};

fn files() -> (Arc<dyn Vnode>, Arc<dyn Vnode>) {
    let caller = Caller::tmpfs();
    caller.write("/a", b"").expect("write");
    caller.write("/b", b"").expect("write");
    let vnode = |path: &str| caller.lookup().resolve(path.as_bytes(), true).expect("resolve").vnode().clone();
    (vnode("/a"), vnode("/b"))
}

fn held(vnode: &Arc<dyn Vnode>) -> Vec<(u64, u64, bool)> {
    let attributes = vnode.attributes().expect("stat");
    let mine = all()
        .into_iter()
        .filter(|&(device, inode, _)| (device, inode) == (attributes.device, attributes.inode));
    let mut list: Vec<_> = mine.map(|(_, _, lock)| (lock.start, lock.end, lock.exclusive)).collect();
    list.sort();
    list
}

#[test]
fn ranges_split_and_merge() {
    let (file, _) = files();
    let me = Owner::Process(1);
    let lock = |start, end, mode| set(&file, me, start, end, mode, false).expect("lock");
    lock(0, 99, Mode::Exclusive);
    lock(20, 29, Mode::Unlocked);
    assert_eq!(held(&file), [(0, 19, true), (30, 99, true)]);
    lock(10, 39, Mode::Shared);
    assert_eq!(held(&file), [(0, 9, true), (10, 39, false), (40, 99, true)]);
    lock(0, u64::MAX, Mode::Exclusive);
    assert_eq!(held(&file), [(0, u64::MAX, true)]);
    let wanted = Lock { owner: Owner::Process(2), start: 5, end: 6, exclusive: false };
    assert_eq!(conflict(&file, &wanted).expect("a lock").expect("in the way").owner, me);
    assert_eq!(set(&file, wanted.owner, 5, 6, Mode::Shared, false), Err(Errno::EAGAIN));
    assert_eq!(flock(&file, 7, Mode::Exclusive, false), Ok(()), "another set of locks");
    assert_eq!(flock(&file, 8, Mode::Shared, false), Err(Errno::EAGAIN));
    release(&file, me);
    release(&file, Owner::Whole(7));
    assert_eq!(held(&file), []);
}

#[test]
fn a_waiter_gets_the_lock() {
    let (file, _) = files();
    flock(&file, 101, Mode::Exclusive, false).expect("lock");
    let other = file.clone();
    let thread = thread::spawn(move || flock(&other, 102, Mode::Exclusive, true));
    while held(&file).len() != 1 {
        thread::yield_now();
    }
    release(&file, Owner::Whole(101));
    assert_eq!(thread.join().expect("a thread"), Ok(()));
    assert_eq!(flock(&file, 101, Mode::Shared, false), Err(Errno::EAGAIN));
    release(&file, Owner::Whole(102));
}

#[test]
fn a_deadlock_is_refused() {
    let (a, b) = files();
    let (one, two) = (Owner::Process(11), Owner::Process(12));
    set(&a, one, 0, 0, Mode::Exclusive, false).expect("lock");
    set(&b, two, 0, 0, Mode::Exclusive, false).expect("lock");
    let other = b.clone();
    let thread = thread::spawn(move || set(&other, one, 0, 0, Mode::Exclusive, true));
    // Either this thread finds that the other waits for it, or it tries again.
    loop {
        match set(&a, two, 0, 0, Mode::Exclusive, false) {
            Err(Errno::EAGAIN) => thread::sleep(Duration::from_millis(20)),
            result => panic!("{result:?}"),
        }
        if set(&a, two, 0, 0, Mode::Exclusive, true) == Err(Errno::EDEADLK) {
            break;
        }
    }
    release(&b, two);
    assert_eq!(thread.join().expect("a thread"), Ok(()));
    release(&a, one);
    release(&b, one);
}
