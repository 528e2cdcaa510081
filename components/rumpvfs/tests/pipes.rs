//! Pipes and FIFOs, with threads at both ends.

mod common;

use std::{sync::Arc, thread};

use common::{Caller, Random, failed, get, put};
use rumpkern::{
    Errno,
    poll::Events,
    uio::{Sink, Source},
};
use rumpvfs::{
    file::{File, OpenFlags},
    pipe::{PIPE_BUF, PipeEnd, pipe},
};

const NEVER_WAIT: OpenFlags = OpenFlags::NON_BLOCKING;

fn try_put(file: &dyn File, data: &[u8]) -> Result<usize, Errno> {
    file.write(&mut Source::kernel(data), &mut 0, NEVER_WAIT)
}

fn try_get(file: &dyn File, length: usize) -> Result<Vec<u8>, Errno> {
    let mut data = vec![0; length];
    let done = file.read(&mut Sink::kernel(&mut data), 0, NEVER_WAIT)?;
    data.truncate(done);
    Ok(data)
}

#[test]
fn everything_arrives_in_order() {
    let (reader, writer) = pipe(0, 0);
    let thread = thread::spawn(move || {
        let mut random = Random(5);
        let mut next = 0u32;
        while next < 200_000 {
            let count = random.next(9000) as u32;
            let data: Vec<u8> = (next..next + count).flat_map(|number| number.to_le_bytes()).collect();
            assert_eq!(put(&*writer, 0, &data), Ok(data.len()));
            next += count;
        }
        writer.close();
    });
    let mut random = Random(9);
    let mut data = Vec::new();
    loop {
        let part = get(&*reader, 0, 1 + random.next(20_000) as usize).expect("read");
        if part.is_empty() {
            break;
        }
        data.extend(part);
    }
    thread.join().expect("the writer");
    assert!(data.chunks(4).enumerate().all(|(index, bytes)| bytes == (index as u32).to_le_bytes()));
    assert!(data.len() >= 800_000);
}

#[test]
fn small_writes_are_atomic() {
    let (reader, writer) = pipe(0, 0);
    let threads: Vec<_> = (0..3u8)
        .map(|number| {
            let writer = writer.clone();
            thread::spawn(move || {
                for _ in 0..300 {
                    assert_eq!(put(&*writer, 0, &[number; 1000]), Ok(1000));
                }
            })
        })
        .collect();
    for _ in 0..900 {
        let mut data = Vec::new();
        while data.len() < 1000 {
            data.extend(get(&*reader, 0, 1000 - data.len()).expect("read"));
        }
        assert!(data.iter().all(|byte| *byte == data[0]));
    }
    threads.into_iter().for_each(|thread| thread.join().expect("a writer"));
}

#[test]
fn the_ends_know_of_each_other() {
    let (reader, writer) = pipe(0, 0);
    assert_eq!(reader.poll(), Events::empty());
    assert_eq!(writer.poll(), Events::OUT | Events::WRNORM);
    assert_eq!(try_get(&*reader, 1), Err(Errno::EAGAIN));
    assert_eq!(try_put(&*writer, &[1; 70_000]), Ok(65_536));
    assert_eq!(writer.poll(), Events::empty());
    assert_eq!(try_put(&*writer, b"x"), Err(Errno::EAGAIN));
    assert_eq!(try_get(&*reader, PIPE_BUF).expect("read").len(), PIPE_BUF);
    assert_eq!(writer.poll(), Events::OUT | Events::WRNORM);
    assert_eq!(try_put(&*writer, &[1; PIPE_BUF + 1]), Ok(PIPE_BUF));
    writer.close();
    assert_eq!(reader.poll(), Events::IN | Events::RDNORM | Events::HUP);
    assert_eq!(try_get(&*reader, 1 << 20).expect("read").len(), 65_536);
    assert_eq!(try_get(&*reader, 1).expect("the end"), b"");
    let (reader, writer) = pipe(0, 0);
    reader.close();
    assert_eq!(writer.poll(), Events::OUT | Events::WRNORM | Events::ERR);
    assert_eq!(put(&*writer, 0, b"x"), Err(Errno::EPIPE));
    assert_eq!(failed(get(&*writer, 0, 1)), Errno::EBADF);
}

#[test]
fn packets_stay_apart() {
    let (reader, writer) = pipe(0, 0);
    for text in ["one", "three", "x"] {
        writer.write(&mut Source::kernel(text.as_bytes()), &mut 0, OpenFlags::DIRECT).expect("write");
    }
    assert_eq!(try_get(&*reader, 100).expect("read"), b"one");
    assert_eq!(try_get(&*reader, 2).expect("the rest is lost"), b"th");
    assert_eq!(try_get(&*reader, 100).expect("read"), b"x");
}

#[test]
fn the_capacity_can_be_set() {
    let (reader, writer) = pipe(0, 0);
    let end = writer.as_any().downcast_ref::<PipeEnd>().expect("a pipe").pipe().clone();
    assert_eq!(end.set_capacity(100_000, false), Ok(131_072));
    assert_eq!(end.set_capacity(2 << 20, false), Err(Errno::EPERM));
    assert_eq!(try_put(&*writer, &[0; 10_000]), Ok(10_000));
    assert_eq!(end.set_capacity(4096, true), Err(Errno::EBUSY));
    // Pages go from one pipe to another without a copy.
    let (other_reader, other_writer) = pipe(0, 0);
    let other = other_writer.as_any().downcast_ref::<PipeEnd>().expect("a pipe").pipe().clone();
    assert_eq!(end.tee(&other, 5000, false), Ok(5000));
    let segment = end.take(6000, false).expect("data").expect("a page");
    assert_eq!(segment.len(), 4096);
    assert_eq!(other.push(segment, false), Ok(4096));
    assert_eq!(try_put(&*writer, &[9; 10]), Ok(10));
    assert_eq!(try_get(&*other_reader, 1 << 20).expect("read"), vec![0; 9096]);
    assert_eq!(try_get(&*reader, 1 << 20).expect("read").len(), 10_000 - 4096 + 10);
}

#[test]
fn fifos_wait_for_each_other() {
    let caller = Arc::new(Caller::tmpfs());
    caller.mkfifo("/fifo").expect("mkfifo");
    let write = OpenFlags::WRITE_ONLY;
    assert_eq!(failed(caller.open("/fifo", write | NEVER_WAIT)), Errno::ENXIO);
    let early = caller.open("/fifo", NEVER_WAIT).expect("a reader without a writer");
    assert_eq!(early.file.poll(), Events::empty());
    assert_eq!(try_get(&*early.file, 1).expect("read"), b"");
    drop(early);
    let other = caller.clone();
    let thread = thread::spawn(move || {
        let opened = other.open("/fifo", write).expect("open");
        put(&*opened.file, 0, b"through").expect("write");
    });
    let opened = caller.open("/fifo", OpenFlags::empty()).expect("open");
    assert_eq!(get(&*opened.file, 0, 100).expect("read"), b"through");
    thread.join().expect("the writer");
    assert_eq!(get(&*opened.file, 0, 100).expect("read"), b"");
    assert_eq!(opened.file.poll(), Events::HUP);
}
