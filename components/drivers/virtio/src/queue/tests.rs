//! The queue against the model of a device.

use super::{Completion, Queue};
use crate::{features::Features, model::DeviceQueue};

const FEATURES: [Features; 4] = [
    Features::empty(),
    Features::INDIRECT,
    Features::EVENT_INDEX,
    Features::INDIRECT.union(Features::EVENT_INDEX),
];

#[test]
fn chains_arrive_whole_and_come_back_with_their_token() {
    for features in FEATURES {
        let mut queue = Queue::new(16, features).expect("memory");
        let mut device = DeviceQueue::new(queue.addresses());
        for round in 0..1000_u16 {
            let readable = [(0x1000, 16), (0x2000, 512)];
            let writable = [(0x3000, u32::from(round)), (0x4000, 1)];
            assert!(queue.add(&readable, &writable, round));
            assert!(queue.should_notify(), "{features:?} {round}");
            let request = device.next().expect("a request");
            assert_eq!((&request.readable[..], &request.writable[..]), (&readable[..], &writable[..]));
            assert!(!queue.arm());
            device.finish(request.head.into(), 1);
            assert!(queue.arm());
            assert_eq!(queue.take(), Some(Completion { token: round, written: 1 }));
            assert_eq!(queue.take(), None);
        }
    }
}

#[test]
fn a_full_queue_refuses_until_something_completes_in_any_order() {
    for features in FEATURES {
        let mut queue = Queue::new(8, features).expect("memory");
        let mut device = DeviceQueue::new(queue.addresses());
        let mut added = 0;
        while queue.add(&[(0x1000, 1)], &[(0x2000, 1)], added) {
            added += 1;
        }
        assert_eq!(added, if features.contains(Features::INDIRECT) { 8 } else { 4 });
        let mut requests: std::vec::Vec<_> = core::iter::from_fn(|| device.next()).collect();
        assert_eq!(requests.len(), usize::from(added));
        for swap in [2, 0, 1] {
            let request = requests.remove(swap % requests.len());
            device.finish(request.head.into(), 1);
            assert!(queue.take().is_some());
            assert!(queue.add(&[(0x1000, 1)], &[(0x2000, 1)], added));
            assert!(!queue.add(&[(0x1000, 1)], &[(0x2000, 1)], added));
            requests.push(device.next().expect("the new one"));
        }
    }
}

#[test]
fn what_never_fits_is_refused() {
    let mut queue = Queue::new(4, Features::empty()).expect("memory");
    assert_eq!(queue.segment_limit(), 4);
    assert!(!queue.add(&[(0x1000, 1); 5], &[], 0));
    assert!(!queue.add(&[], &[], 0));
    assert!(queue.add(&[(0x1000, 1); 4], &[], 0));
    let mut queue = Queue::new(4, Features::INDIRECT).expect("memory");
    let limit = queue.segment_limit();
    assert!(queue.add(&std::vec![(0x1000, 1); limit], &[], 0));
    assert!(!queue.add(&std::vec![(0x1000, 1); limit + 1], &[], 0));
}

#[test]
fn a_lying_device_completes_nothing_that_is_not_under_way() {
    for features in FEATURES {
        let mut queue = Queue::new(8, features).expect("memory");
        let mut device = DeviceQueue::new(queue.addresses());
        assert!(queue.add(&[(0x1000, 8)], &[(0x2000, 100), (0x3000, 28)], 7));
        let head = device.next().expect("a request").head;
        // Heads out of range, heads that start no chain, and a length beyond the buffers.
        for wrong in [8, 0xffff, 0xffff_ffff, u32::from(head) + 1] {
            device.finish(wrong, 4);
            assert_eq!(queue.take(), None);
        }
        device.finish(head.into(), u32::MAX);
        assert_eq!(queue.take(), Some(Completion { token: 7, written: 128 }));
        // The same one twice.
        device.finish(head.into(), 1);
        assert_eq!(queue.take(), None);
        // An index that jumps: every call ends, and the queue goes on working.
        device.set_used_index(0x8000);
        for _ in 0..20_000 {
            queue.take();
        }
        assert_eq!(queue.take(), None);
        let mut added = 0;
        while queue.add(&[(0x1000, 1)], &[], 0) {
            added += 1;
        }
        assert_eq!(added, 8);
    }
}

#[test]
fn indices_wrap() {
    let mut queue = Queue::new(2, Features::EVENT_INDEX).expect("memory");
    let mut device = DeviceQueue::new(queue.addresses());
    for round in 0..70_000_u32 {
        assert!(queue.add(&[(0x1000, 1)], &[], round as u16));
        assert!(queue.should_notify());
        let request = device.next().expect("a request");
        device.finish(request.head.into(), 0);
        assert_eq!(queue.take().map(|completion| completion.token), Some(round as u16));
        assert!(!queue.arm());
    }
}

#[test]
fn sizes_are_powers_of_two_within_the_limit() {
    for (limit, size) in [(1, 1), (2, 2), (3, 2), (100, 64), (1024, 64), (u16::MAX, 64)] {
        assert_eq!(Queue::new(limit, Features::empty()).expect("memory").addresses().size, size);
    }
}

/// A device that writes anything anywhere in the memory it was given: the driver must neither panic nor lose count.
#[test]
fn a_hostile_device_does_no_harm() {
    let mut state = 1_u64;
    let mut random = move || {
        // Knuth's MMIX generator; its upper bits are the good ones.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    for features in FEATURES {
        let mut queue = Queue::new(16, features).expect("memory");
        let at = queue.addresses();
        let mut under_way = std::collections::BTreeSet::new();
        for round in 0..50_000 {
            let token = (round % 60_000) as u16;
            let pieces = random() as usize % 4 + 1;
            if queue.add(&[(0x1000, 8)], &std::vec![(0x2000, 16); pieces], token) {
                under_way.insert(token);
            }
            queue.should_notify();
            for _ in 0..random() % 4 {
                // The descriptors, the rings, or just where it hurts: the used index and its first entries.
                let offset = match random() % 3 {
                    0 => u64::from(random()) % 4096,
                    1 => at.used - at.descriptors + u64::from(random()) % 134,
                    _ => at.used - at.descriptors + 2,
                };
                crate::model::write(at.descriptors + offset, &[random() as u8 % 20]);
            }
            while let Some(completion) = queue.take() {
                assert!(under_way.remove(&completion.token), "only what is under way completes, and once");
                assert!(completion.written <= 64);
            }
            queue.arm();
        }
    }
}
