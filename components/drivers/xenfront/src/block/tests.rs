//! The disk with a backend of the tests'.

use std::{sync::Arc, vec, vec::Vec};

use super::{connect::open, *};
use crate::model::Model;

/// A backend with a disk of 64 KiB.
fn model() -> Arc<Model> {
    Model::new("vbd", &[("sectors", "128"), ("sector-size", "512"), ("feature-flush-cache", "1")])
}

/// Answers with a disk of so many bytes.
fn serve(model: &Arc<Model>, size: usize) {
    let mut contents = vec![0_u8; size];
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
}

fn disk(model: &Arc<Model>) -> Disk {
    let device: Arc<dyn XenbusDevice> = model.clone();
    open(&device).expect("a disk")
}

#[test]
fn transfers_reach_the_disk() {
    let model = model();
    let disk = disk(&model);
    serve(&model, 65536);
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
    serve(&model, 1 << 20);
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

/// A backend that keeps what it has mapped.
fn persistent() -> Arc<Model> {
    let values = [
        ("sectors", "2048"),
        ("sector-size", "512"),
        ("feature-max-indirect-segments", "256"),
        ("feature-persistent", "1"),
    ];
    Model::new("vbd", &values)
}

fn round_trip(disk: &Disk, length: usize) {
    let bytes: Vec<u8> = (0..length).map(|index| (index / 7) as u8).collect();
    assert_eq!(disk.write(5, &bytes), Ok(()));
    let mut back = vec![0; length];
    assert_eq!(disk.read(5, &mut back), Ok(()));
    assert!(back == bytes, "{length} bytes");
}

#[test]
fn pages_stay_granted_to_a_backend_that_keeps_them() {
    let model = persistent();
    let disk = disk(&model);
    assert_eq!(model.published("feature-persistent").as_deref(), Some("1"));
    serve(&model, 1 << 20);
    round_trip(&disk, 8192);
    // The ring, and those that are there from the beginning.
    assert_eq!(model.granted(), 1 + SEGMENTS);
    for length in [512, 8192, 11 * PAGE_SIZE, 12 * PAGE_SIZE, MOST_SEGMENTS * PAGE_SIZE, 400 * 1024 + 512] {
        round_trip(&disk, length);
    }
    // Those of the longest request, and one for its segments.
    assert_eq!(model.granted(), 1 + MOST_SEGMENTS + 1);
    model.stop();
    disk.backend_changed(rumpuser::device::xenbus_state::CLOSED);
    assert_eq!(model.granted(), 0);
}

#[test]
fn a_few_pages_do_for_long_requests() {
    let model = persistent();
    let disk = disk(&model);
    serve(&model, 1 << 20);
    model.limit_grants(1 + SEGMENTS + 4);
    for length in [PAGE_SIZE, 12 * PAGE_SIZE, 30 * PAGE_SIZE + 1024, 200 * 1024] {
        round_trip(&disk, length);
    }
    // Others have some of them, and are waited for.
    let lease = disk.pool.lease(8).expect("pages");
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| round_trip(&disk, 30 * PAGE_SIZE));
        disk.pool.give_back(lease);
        waits.join().expect("a thread");
    });
    assert_eq!(disk.pool.lease(SEGMENTS + 5).err(), Some(Errno::ENOMEM));
    model.stop();
}

#[test]
fn many_threads_share_the_pages() {
    let model = persistent();
    let disk = Arc::new(disk(&model));
    serve(&model, 1 << 20);
    let threads: Vec<_> = (0..8_u64)
        .map(|thread| {
            let disk = disk.clone();
            std::thread::spawn(move || {
                for round in 0..20_u64 {
                    let bytes = vec![(thread * 20 + round) as u8; 60 * 1024 + 512];
                    assert_eq!(disk.write(thread * 256, &bytes), Ok(()));
                    let mut back = vec![0; bytes.len()];
                    assert_eq!(disk.read(thread * 256, &mut back), Ok(()));
                    assert!(back == bytes);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("a thread"));
    assert!(model.granted() <= 257, "{} pages", model.granted());
    model.stop();
}

#[test]
fn another_backend_gets_other_pages() {
    let model = persistent();
    let disk = disk(&model);
    let lease = disk.pool.lease(SEGMENTS).expect("pages");
    let _ = disk.pool.lease(2).map(|lease| disk.pool.give_back(lease));
    assert_eq!(model.granted(), 1 + SEGMENTS + 2);
    model.restart();
    disk.reconnect();
    // What is in use goes when it is no longer.
    let frame = lease.pages[0].frame;
    rumpuser_frame_retain(frame);
    disk.pool.give_back(lease);
    assert_eq!(rumpuser::rumpuser_frame_references(frame), 1);
    rumpuser_frame_release(frame);
    assert_eq!(model.granted(), 1 + SEGMENTS);
    // One that keeps nothing gets the callers' own.
    model.restart();
    model.set("feature-persistent", "0");
    disk.reconnect();
    serve(&model, 1 << 20);
    round_trip(&disk, 70 * PAGE_SIZE);
    assert_eq!(model.granted(), 1);
    model.stop();
}

#[test]
fn a_backend_that_takes_pages_along_again_and_again_is_given_up() {
    let model = persistent();
    let disk = disk(&model);
    for round in 0.. {
        assert!(round < 10, "it goes on");
        let Ok(lease) = disk.pool.lease(64) else { break };
        disk.pool.give_back(lease);
        model.keep_grants();
        model.restart();
        disk.reconnect();
        if disk.flush() == Ok(()) && model.frontend_state() == rumpuser::device::xenbus_state::CLOSED {
            break;
        }
    }
    assert_eq!(disk.write(0, &[1; 512]), Err(Errno::EIO));
}
