//! The disk against the model of a device.

use std::{
    boxed::Box,
    sync::{Arc, Mutex},
    vec,
    vec::Vec,
};

use rumpdev::block::BlockDevice;
use rumpkern::Errno;
use rumpuser::rumpuser_frame_alloc;

use super::{DISCARD, FLUSH, OK, READ, UNSUPPORTED, WRITE, open};
use crate::{
    features::Features,
    model::{self, Model, Request},
};

const SECTORS: usize = 4096;

/// A disk image, and what was asked of it: (request, sector).
#[derive(Default)]
struct Image {
    bytes: Vec<u8>,
    log: Vec<(u32, u64)>,
}

fn config(block_size: u32, segments: u32, queues: u16) -> Vec<u8> {
    let mut config = vec![0; 60];
    config[0..8].copy_from_slice(&(SECTORS as u64).to_le_bytes());
    config[12..16].copy_from_slice(&segments.to_le_bytes());
    config[20..24].copy_from_slice(&block_size.to_le_bytes());
    config[34..36].copy_from_slice(&queues.to_le_bytes());
    config[36..40].copy_from_slice(&100_u32.to_le_bytes());
    config
}

/// Does a request on the image as a device would.
fn serve(image: &Mutex<Image>, request: &Request) -> Option<u32> {
    let mut image = image.lock().expect("not poisoned");
    let header = request.readable[0];
    assert_eq!(header.1, 16);
    let kind = u32::from_le_bytes(model::read(header.0));
    let sector = u64::from_le_bytes(model::read(header.0 + 8));
    image.log.push((kind, sector));
    let (status, data) = request.writable.split_last().expect("a status byte");
    assert_eq!(status.1, 1);
    let mut position = sector as usize * 512;
    let mut written = 1;
    let mut result = OK;
    match kind {
        READ => {
            for (address, length) in data {
                model::write(*address, &image.bytes[position..position + *length as usize]);
                position += *length as usize;
                written += length;
            }
        }
        WRITE => {
            for (address, length) in &request.readable[1..] {
                for offset in 0..u64::from(*length) {
                    image.bytes[position] = model::read::<1>(address + offset)[0];
                    position += 1;
                }
            }
        }
        FLUSH => {}
        DISCARD => {
            let (address, length) = request.readable[1];
            assert_eq!(length, 16);
            image.log.push((
                u32::from_le_bytes(model::read(address + 8)),
                u64::from_le_bytes(model::read(address)),
            ));
        }
        _ => result = UNSUPPORTED,
    }
    model::write(status.0, &[result]);
    Some(written)
}

fn disk(features: Features, config: Vec<u8>) -> (impl BlockDevice, Arc<Mutex<Image>>) {
    let image = Arc::new(Mutex::new(Image { bytes: vec![0; SECTORS * 512], log: Vec::new() }));
    let served = image.clone();
    let model = Model::new(2, features, 4, config, Box::new(move |request| serve(&served, request)));
    let disk = open(Arc::new(model)).unwrap_or_else(|_| panic!("the device is refused"));
    (disk, image)
}

const ALL: Features = Features::all().difference(Features::BLOCK_READ_ONLY);

#[test]
fn what_is_written_is_read_back_by_either_way() {
    let sets =
        [ALL, ALL.difference(Features::INDIRECT), ALL.difference(Features::EVENT_INDEX), Features::empty()];
    for features in sets {
        let (disk, _) = disk(features, config(512, 5, 4));
        let pattern: Vec<u8> =
            (0..150 * 4096 + 512).map(|index: usize| (index * 7 + index / 4096) as u8).collect();
        disk.write(3, &pattern).expect("written");
        let mut back = vec![0; pattern.len()];
        disk.read(3, &mut back).expect("read");
        assert!(back == pattern);
        let frames: Vec<_> = (0..9).map(|_| rumpuser_frame_alloc().expect("memory")).collect();
        disk.read_frames(3, &frames).expect("read");
        let mut page = [0; 4096];
        for (frame, expected) in frames.iter().zip(pattern.chunks(4096)) {
            frame.read(0, &mut page);
            assert!(page[..] == *expected);
        }
        disk.write_frames(3 + 8, &frames).expect("written");
        disk.read(3 + 8, &mut back[..9 * 4096]).expect("read");
        assert!(back[..9 * 4096] == pattern[..9 * 4096]);
    }
}

#[test]
fn limits_are_kept() {
    let (disk, _) = disk(ALL, config(4096, 10, 1));
    assert_eq!((disk.sectors(), disk.block_size(), disk.read_only()), (SECTORS as u64, 4096, false));
    let mut buffer = vec![0; 8192];
    assert_eq!(disk.read(1, &mut buffer), Err(Errno::EINVAL));
    assert_eq!(disk.read(0, &mut buffer[..512]), Err(Errno::EINVAL));
    assert_eq!(disk.read(SECTORS as u64 - 8, &mut buffer), Err(Errno::ENXIO));
    assert_eq!(disk.write(u64::MAX - 7, &buffer), Err(Errno::ENXIO));
    assert_eq!(disk.read(SECTORS as u64 - 16, &mut buffer), Ok(()));
}

#[test]
fn a_read_only_disk_takes_no_writes() {
    let (disk, image) = disk(Features::all(), config(512, 10, 1));
    assert_eq!(disk.write(0, &[0; 512]), Err(Errno::EROFS));
    assert_eq!(disk.discard(0, 8), Err(Errno::EROFS));
    assert!(image.lock().expect("not poisoned").log.is_empty());
}

#[test]
fn flush_reaches_the_device_only_if_it_has_a_cache() {
    for (features, expected) in [(ALL, vec![(FLUSH, 0)]), (ALL.difference(Features::BLOCK_FLUSH), vec![])] {
        let (disk, image) = disk(features, config(512, 10, 1));
        disk.flush().expect("flushed");
        assert_eq!(image.lock().expect("not poisoned").log, expected);
    }
}

#[test]
fn discards_are_cut_to_the_limit() {
    let (disk, image) = disk(ALL, config(512, 10, 1));
    disk.discard(8, 250).expect("discarded");
    let log = image.lock().expect("not poisoned").log.clone();
    assert_eq!(log, [(DISCARD, 0), (100, 8), (DISCARD, 0), (100, 108), (DISCARD, 0), (50, 208)]);
}

#[test]
fn many_threads_share_the_queues() {
    let (disk, _) = disk(ALL, config(512, 10, 4));
    std::thread::scope(|scope| {
        for thread in 0..8_u8 {
            let disk = &disk;
            scope.spawn(move || {
                for round in 0..50_u8 {
                    let sector = u64::from(thread) * 100 + u64::from(round);
                    disk.write(sector, &[thread ^ round; 512]).expect("written");
                    let mut back = [0; 512];
                    disk.read(sector, &mut back).expect("read");
                    assert_eq!(back, [thread ^ round; 512]);
                }
            });
        }
    });
}

#[test]
fn a_failing_device_gives_an_error() {
    let behaviour = |request: &Request| {
        let status = request.writable.last().expect("a status byte");
        model::write(status.0, &[1]);
        Some(1)
    };
    let model = Model::new(2, ALL, 1, config(512, 10, 1), Box::new(behaviour));
    let disk = open(Arc::new(model)).unwrap_or_else(|_| panic!("the device is refused"));
    assert_eq!(disk.read(0, &mut [0; 512]), Err(Errno::EIO));
    assert_eq!(disk.flush(), Err(Errno::EIO));
}

#[test]
fn a_device_that_breaks_down_is_reset_and_gives_errors() {
    let model = Arc::new(Model::new(2, ALL, 1, config(512, 10, 1), Box::new(|_| None)));
    let disk = open(model.clone()).unwrap_or_else(|_| panic!("the device is refused"));
    *model.status.lock().expect("not poisoned") |= crate::transport::Status::NEEDS_RESET;
    assert_eq!(disk.read(0, &mut [0; 512]), Err(Errno::EIO));
    assert!(model.status.lock().expect("not poisoned").is_empty());
    assert_eq!(disk.write(0, &[0; 512]), Err(Errno::EIO));
}
