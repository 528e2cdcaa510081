//! The disk with a backend of the tests'.

use std::{sync::Arc, vec, vec::Vec};

use super::{connect::open, *};
use crate::model::Model;

/// A backend with a disk of 64 KiB.
fn model() -> Arc<Model> {
    Model::new("vbd", &[("sectors", "128"), ("sector-size", "512"), ("feature-flush-cache", "1")])
}

fn disk(model: &Arc<Model>) -> Disk {
    let device: Arc<dyn XenbusDevice> = model.clone();
    open(&device).expect("a disk")
}

#[test]
fn transfers_reach_the_disk() {
    let model = model();
    let disk = disk(&model);
    let mut contents = vec![0_u8; 65536];
    model.serve_in_thread(REQUEST, move |model, words| {
        let kind = words[0] as u8;
        let mut at = words[4] as usize * 512;
        for segment in words[6..].chunks(2).take((words[0] >> 8 & 0xff) as usize) {
            let length = ((segment[1] >> 8 & 0xff) as usize + 1) * 512;
            let frame = model.frame(segment[0]).expect("granted");
            let part = &mut contents[at..at + length];
            if kind == READ {
                frame.write(0, part)
            } else {
                frame.read(0, part)
            }
            at += length;
        }
        vec![vec![words[2], words[3], u32::from(kind)]]
    });
    let bytes: Vec<u8> = (0..50_176_u32).map(|index| (index / 7) as u8).collect();
    assert_eq!(disk.write(1, &bytes), Ok(()));
    assert_eq!(disk.flush(), Ok(()));
    let mut back = vec![0; bytes.len()];
    assert_eq!(disk.read(1, &mut back), Ok(()));
    assert!(back == bytes);
    assert_eq!(disk.read(128, &mut [0; 512]), Err(Errno::ENXIO));
    assert_eq!(disk.read(0, &mut [0; 100]), Err(Errno::EINVAL));
    // Nothing but the ring stays granted.
    assert_eq!(model.granted(), 1);
    model.stop();
}

#[test]
fn answers_that_answer_nothing_end_the_disk() {
    for wild in [[32, 0, 0], [0, 1, 0], [5, 0, 0], [u32::MAX, u32::MAX, 0]] {
        let model = model();
        let disk = disk(&model);
        model.serve_in_thread(REQUEST, move |_, _| vec![wild.to_vec()]);
        assert_eq!(disk.write(0, &[1; 512]), Err(Errno::EIO));
        assert_eq!(disk.read(0, &mut [1; 512]), Err(Errno::EIO));
        model.stop();
    }
}

#[test]
fn a_page_that_the_backend_keeps_stays_its_own() {
    let model = model();
    let disk = disk(&model);
    model.keep_grants();
    model.serve_in_thread(REQUEST, |_, words| vec![vec![words[2], words[3], 0]]);
    let frame = rumpuser::rumpuser_frame_alloc_uninitialised().expect("memory");
    assert_eq!(disk.write_frames(0, &[frame]), Ok(()));
    assert_eq!(rumpuser::rumpuser_frame_references(frame), 2);
    assert_eq!(disk.flush(), Err(Errno::EIO));
    model.stop();
}

#[test]
fn long_transfers_have_their_segments_in_a_page() {
    let values = [("sectors", "2048"), ("sector-size", "512"), ("feature-max-indirect-segments", "256")];
    let model = Model::new("vbd", &values);
    let disk = disk(&model);
    let mut contents = vec![0_u8; 1 << 20];
    model.serve_in_thread(REQUEST, move |model, words| {
        let mut at = words[4] as usize * 512;
        let mut copy = |reference: u32, range: u32, kind: u8| {
            let length = ((range >> 8 & 0xff) as usize + 1) * 512;
            let frame = model.frame(reference).expect("granted");
            let part = &mut contents[at..at + length];
            if kind == READ {
                frame.write(0, part)
            } else {
                frame.read(0, part)
            }
            at += length;
        };
        if words[0] & 0xff == INDIRECT {
            assert_eq!(words[6], 51712);
            let mut page = [0; PAGE_SIZE];
            model.frame(words[7]).expect("granted").read(0, &mut page);
            let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
            for segment in page.chunks(8).take((words[0] >> 16) as usize) {
                copy(word(&segment[..4]), word(&segment[4..]), (words[0] >> 8) as u8);
            }
        } else {
            for segment in words[6..].chunks(2).take((words[0] >> 8 & 0xff) as usize) {
                copy(segment[0], segment[1], words[0] as u8);
            }
        }
        vec![vec![words[2], words[3], words[0] & 0xff]]
    });
    let bytes: Vec<u8> = (0..600_576_u32).map(|index| (index / 7) as u8).collect();
    assert_eq!(disk.write(3, &bytes), Ok(()));
    // A backend that takes less came while a request was being made.
    disk.segments.store(SEGMENTS, Ordering::SeqCst);
    let frames: Vec<Frame> =
        (0..40).map(|_| rumpuser::rumpuser_frame_alloc_uninitialised().expect("memory")).collect();
    assert_eq!(
        disk.request(&Work { kind: READ, sector: 3, pages: &frames, bytes: 40 << 12, count: 0 }),
        Ok(())
    );
    for (frame, expected) in frames.iter().zip(bytes.chunks(PAGE_SIZE)) {
        let mut page = [0; PAGE_SIZE];
        frame.read(0, &mut page);
        assert!(page == expected);
    }
    let mut back = vec![0; bytes.len()];
    assert_eq!(disk.read(3, &mut back), Ok(()));
    assert!(back == bytes);
    assert_eq!(model.granted(), 1);
    model.stop();
}

#[test]
fn requests_go_to_the_backend_that_comes_in_the_place_of_another() {
    let model = model();
    let disk = Arc::new(disk(&model));
    let writers: Vec<_> = (0..5)
        .map(|sector| {
            let disk = disk.clone();
            std::thread::spawn(move || disk.write(sector, &[sector as u8; 512]))
        })
        .collect();
    // Nobody answers.
    while model.granted() < 6 {
        std::thread::yield_now();
    }
    model.restart();
    disk.reconnect();
    let mut seen = 0_u32;
    let (sender, receiver) = std::sync::mpsc::channel();
    model.serve_in_thread(REQUEST, move |_, words| {
        seen |= 1 << words[4];
        sender.send(seen).expect("a test");
        vec![vec![words[2], words[3], u32::from(WRITE)]]
    });
    for writer in writers {
        assert_eq!(writer.join().expect("a writer"), Ok(()));
    }
    assert_eq!(receiver.try_iter().last(), Some(0b11111));
    assert_eq!(model.granted(), 1);
    model.stop();
    disk.backend_changed(rumpuser::device::xenbus_state::CLOSING);
    assert_eq!(disk.flush(), Err(Errno::EIO));
}
