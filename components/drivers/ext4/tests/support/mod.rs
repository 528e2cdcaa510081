//! What the tests share: disks in memory, images made by `mkfs.ext4`, `e2fsck` as the judge.
#![allow(dead_code, reason = "each test uses a part")]

pub mod model;

use std::{
    io::Write,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use ext4::{BlockDevice, DeviceError, Error, Ext4, Options, Timestamp};

/// What reached the disk, in order.
#[derive(Clone)]
pub enum Event {
    Write { offset: usize, data: Vec<u8> },
    Flush,
}

/// A disk in memory that remembers what was written to it.
pub struct Disk {
    sector: usize,
    data: Mutex<Vec<u8>>,
    log: Mutex<Vec<Event>>,
    broken: AtomicBool,
}

impl Disk {
    pub fn new(data: Vec<u8>) -> Arc<Self> {
        Self::with_sectors(data, 512)
    }

    pub fn with_sectors(data: Vec<u8>, sector: usize) -> Arc<Self> {
        Arc::new(Disk {
            sector,
            data: Mutex::new(data),
            log: Mutex::default(),
            broken: AtomicBool::new(false),
        })
    }

    pub fn image(&self) -> Vec<u8> {
        self.data.lock().unwrap().clone()
    }

    /// From now on every write fails, or works again.
    pub fn break_writes(&self, broken: bool) {
        self.broken.store(broken, Ordering::Relaxed);
    }

    pub fn log_length(&self) -> usize {
        self.log.lock().unwrap().len()
    }

    pub fn log(&self) -> Vec<Event> {
        self.log.lock().unwrap().clone()
    }

    fn range(&self, sector: u64, length: usize) -> Result<std::ops::Range<usize>, DeviceError> {
        let start = usize::try_from(sector).map_err(|_| DeviceError::OutOfRange)?;
        let start = start.checked_mul(self.sector).ok_or(DeviceError::OutOfRange)?;
        let end = start.checked_add(length).ok_or(DeviceError::OutOfRange)?;
        let whole = length.is_multiple_of(self.sector);
        if whole && end <= self.data.lock().unwrap().len() {
            Ok(start..end)
        } else {
            Err(DeviceError::OutOfRange)
        }
    }
}

impl BlockDevice for Disk {
    fn block_size(&self) -> u32 {
        self.sector as u32
    }

    fn sectors(&self) -> u64 {
        (self.data.lock().unwrap().len() / self.sector) as u64
    }

    fn read(&self, sector: u64, buffer: &mut [u8]) -> Result<(), DeviceError> {
        let range = self.range(sector, buffer.len())?;
        buffer.copy_from_slice(&self.data.lock().unwrap()[range]);
        Ok(())
    }

    fn write(&self, sector: u64, data: &[u8]) -> Result<(), DeviceError> {
        let range = self.range(sector, data.len())?;
        if self.broken.load(Ordering::Relaxed) {
            return Err(DeviceError::Failed);
        }
        self.log.lock().unwrap().push(Event::Write { offset: range.start, data: data.to_vec() });
        self.data.lock().unwrap()[range].copy_from_slice(data);
        Ok(())
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.log.lock().unwrap().push(Event::Flush);
        Ok(())
    }
}

/// A small generator of test cases (xorshift64*).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut seed = self.next();
        (0..length)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 56) as u8
            })
            .collect()
    }
}

pub fn clock() -> Timestamp {
    Timestamp { seconds: 1_700_000_000, nanoseconds: 42 }
}

pub fn options() -> Options {
    Options { read_only: false, clock, cache_blocks: 64 }
}

pub fn mount(disk: &Arc<Disk>) -> Result<Ext4, Error> {
    Ext4::mount(disk.clone(), options())
}

/// Whether e2fsprogs are here; says so if not.
pub fn have_e2fsprogs() -> bool {
    let found = |program| match Command::new(program).arg("-V").output() {
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
        Ok(_) => true,
    };
    let found = found("mkfs.ext4") && found("e2fsck") && found("debugfs");
    if !found {
        println!("skipped: no mkfs.ext4");
    }
    found
}

fn image_file(image: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("temporary file");
    file.write_all(image).expect("image written");
    file.flush().expect("image written");
    file
}

/// An image made by `mkfs.ext4`.
pub fn make_image(mebibytes: u64, arguments: &[&str]) -> Vec<u8> {
    let file = image_file(&[]);
    file.as_file().set_len(mebibytes << 20).expect("image size");
    let status =
        Command::new("mkfs.ext4").arg("-q").args(arguments).arg(file.path()).status().expect("mkfs.ext4");
    assert!(status.success(), "mkfs.ext4 {arguments:?}");
    std::fs::read(file.path()).expect("image")
}

/// Runs `e2fsck` on an image: (exit status, output, image afterwards).
pub fn run_e2fsck(image: &[u8], arguments: &[&str]) -> (i32, String, Vec<u8>) {
    let file = image_file(image);
    let output = Command::new("e2fsck").args(arguments).arg(file.path()).output().expect("e2fsck");
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap_or(-1), text, std::fs::read(file.path()).expect("image"))
}

/// Fails unless `e2fsck` has nothing to say.
pub fn assert_clean(image: &[u8]) {
    let (status, text, _) = run_e2fsck(image, &["-fn"]);
    // Some mistakes, such as wrong counts, leave the status at 0.
    let complaint = |line: &str| line.contains("? no") && !line.contains("Optimize?");
    let clean = status == 0 && !text.lines().any(complaint);
    if !clean {
        std::fs::write(std::env::temp_dir().join("ext4-test-failed.img"), image).expect("failed image kept");
    }
    assert!(clean, "e2fsck: {status}\n{text}");
}

/// A file's contents as `debugfs` sees them.
pub fn debugfs_cat(image: &[u8], path: &str) -> Vec<u8> {
    let file = image_file(image);
    Command::new("debugfs")
        .args(["-R", &format!("cat {path}")])
        .arg(file.path())
        .output()
        .expect("debugfs")
        .stdout
}

/// Runs commands of `debugfs -w` on an image.
pub fn debugfs_write(image: &[u8], commands: &[&str]) -> Vec<u8> {
    let file = image_file(image);
    for command in commands {
        let output =
            Command::new("debugfs").args(["-w", "-R", command]).arg(file.path()).output().expect("debugfs");
        assert!(output.status.success(), "debugfs {command}");
    }
    std::fs::read(file.path()).expect("image")
}
