//! Terminals through their files: pseudo-terminals, waiting, hang-up, settings.

use std::{thread, time::Duration, vec, vec::Vec};

use rumpkern::{
    Errno, Result,
    poll::Events,
    uio::{Sink, Source},
};
use rumpvfs::file::{File, OpenFlags};

use super::*;

fn read(file: &dyn File, flags: OpenFlags) -> Result<Vec<u8>> {
    let mut buffer = vec![0; 64];
    let size = file.read(&mut Sink::kernel(&mut buffer), 0, flags)?;
    buffer.truncate(size);
    Ok(buffer)
}

fn write(file: &dyn File, text: &[u8]) -> Result<usize> {
    file.write(&mut Source::kernel(text), &mut 0, OpenFlags::default())
}

fn pair() -> (Arc<dyn File>, Arc<dyn File>) {
    let master = open_master().unwrap();
    let pty = master.as_any().downcast_ref::<PtyMaster>().unwrap();
    assert!(matches!(open_slave(pty.number(), OpenFlags::default()), Err(Errno::EIO)), "locked at first");
    let unlock = 0i32;
    master.ioctl(0x4004_5431, &raw const unlock as usize).unwrap();
    let slave = open_slave(pty.number(), OpenFlags::default()).unwrap();
    (master, slave)
}

#[test]
fn a_line_travels_and_is_echoed() {
    let (master, slave) = pair();
    assert_eq!(write(&*master, b"hi\r"), Ok(3));
    assert!(slave.poll().contains(Events::IN));
    assert_eq!(read(&*slave, OpenFlags::default()).unwrap(), b"hi\n");
    assert_eq!(read(&*master, OpenFlags::default()).unwrap(), b"hi\r\n");
    assert_eq!(write(&*slave, b"out\n"), Ok(4));
    assert_eq!(read(&*master, OpenFlags::default()).unwrap(), b"out\r\n");
    assert_eq!(read(&*slave, OpenFlags::NON_BLOCKING), Err(Errno::EAGAIN));
    master.close();
    slave.close();
}

#[test]
fn a_reader_waits_for_the_line() {
    let (master, slave) = pair();
    let reader = {
        let slave = slave.clone();
        thread::spawn(move || read(&*slave, OpenFlags::default()))
    };
    write(&*master, b"par").unwrap();
    thread::sleep(Duration::from_millis(5));
    write(&*master, b"t\n").unwrap();
    assert_eq!(reader.join().unwrap().unwrap(), b"part\n");
    master.close();
}

#[test]
fn both_ends_hear_of_a_hang_up() {
    let (master, slave) = pair();
    write(&*slave, b"last").unwrap();
    slave.close();
    assert!(master.poll().contains(Events::HUP | Events::IN));
    assert_eq!(read(&*master, OpenFlags::default()).unwrap(), b"last");
    assert_eq!(read(&*master, OpenFlags::default()), Err(Errno::EIO));
    master.close();
    assert_eq!(read(&*slave, OpenFlags::default()).unwrap(), b"");
    assert_eq!(write(&*slave, b"x"), Err(Errno::EIO));
    assert!(slave.poll().contains(Events::HUP));
}

#[test]
fn a_full_line_holds_the_writer_back() {
    let (master, slave) = pair();
    let text = vec![b'x'; 100_000];
    let written = slave.write(&mut Source::kernel(&text), &mut 0, OpenFlags::NON_BLOCKING).unwrap();
    assert_eq!(written, 16 << 10);
    assert!(!slave.poll().contains(Events::OUT));
    assert_eq!(slave.write(&mut Source::kernel(&text), &mut 0, OpenFlags::NON_BLOCKING), Err(Errno::EAGAIN));
    let writer = {
        let slave = slave.clone();
        thread::spawn(move || write(&*slave, &[b'y'; 100]))
    };
    let mut seen = 0;
    while seen < (16 << 10) + 100 {
        seen += read(&*master, OpenFlags::default()).unwrap().len();
    }
    assert_eq!(writer.join().unwrap(), Ok(100));
    master.close();
}

#[test]
fn raw_reads_follow_min_and_time() {
    let (master, slave) = pair();
    let raw = |minimum: u8, time: u8| {
        let mut settings = Termios { local: 0, input: 0, ..Termios::default() };
        settings.characters[termios::VMIN] = minimum;
        settings.characters[termios::VTIME] = time;
        let bytes = settings.to_bytes();
        slave.ioctl(0x5402, bytes.as_ptr() as usize).unwrap();
    };
    raw(0, 0);
    assert_eq!(read(&*slave, OpenFlags::default()).unwrap(), b"");
    raw(0, 1);
    assert_eq!(read(&*slave, OpenFlags::default()).unwrap(), b"");
    raw(3, 1);
    write(&*master, b"ab").unwrap();
    assert_eq!(read(&*slave, OpenFlags::default()).unwrap(), b"ab");
    raw(2, 0);
    write(&*master, b"a").unwrap();
    assert_eq!(slave.poll() & Events::IN, Events::empty());
    write(&*master, b"b").unwrap();
    assert_eq!(read(&*slave, OpenFlags::default()).unwrap(), b"ab");
    master.close();
}

#[test]
fn settings_and_window_size_are_kept() {
    let (master, slave) = pair();
    let mut bytes = [0u8; 36];
    slave.ioctl(0x5401, bytes.as_mut_ptr() as usize).unwrap();
    assert_eq!(bytes[..4], 0o2400u32.to_le_bytes());
    let window = [50u16, 132, 0, 0];
    master.ioctl(0x5414, window.as_ptr() as usize).unwrap();
    let mut read_back = [0u16; 4];
    slave.ioctl(0x5413, read_back.as_mut_ptr() as usize).unwrap();
    assert_eq!(read_back, window);
    assert_eq!(slave.ioctl(0x1234, 0), Err(Errno::ENOTTY));
    assert_eq!(slave.ioctl(0x5401, 8), Err(Errno::EFAULT));
    master.close();
}

#[test]
fn devpts_lists_the_slaves() {
    let (master, slave) = pair();
    let number = master.as_any().downcast_ref::<PtyMaster>().unwrap().number();
    let root = devpts().root();
    let mut names = Vec::new();
    root.entries(0, &mut |entry| {
        names.push(entry.name.to_vec());
        true
    })
    .unwrap();
    let name = std::format!("{number}").into_bytes();
    assert!(names.contains(&name));
    assert!(root.lookup(&name).is_ok());
    assert!(root.lookup(b"+0").is_err());
    master.close();
    slave.close();
    assert!(root.lookup(&name).is_err());
}
