//! Threads, channels, locks and thread-locals of Rust's standard library; prints a sum.

use std::{
    cell::Cell,
    sync::{Arc, Barrier, Condvar, Mutex, mpsc},
    thread,
};

thread_local! {
    static SEEN: Cell<u64> = const { Cell::new(0) };
}

fn main() {
    let (sender, receiver) = mpsc::channel();
    let barrier = Arc::new(Barrier::new(8));
    let total = Arc::new(Mutex::new(0u64));
    let threads: Vec<_> = (0..8u64)
        .map(|number| {
            let (sender, barrier, total) = (sender.clone(), barrier.clone(), total.clone());
            thread::spawn(move || {
                barrier.wait();
                for step in 0..10_000 {
                    *total.lock().unwrap() += step % 7;
                    SEEN.set(SEEN.get() + number);
                }
                sender.send((number, SEEN.get())).unwrap();
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    drop(sender);
    let mut seen: Vec<_> = receiver.iter().collect();
    seen.sort();
    println!("total {} seen {seen:?}", total.lock().unwrap());

    let turn = Arc::new((Mutex::new(0), Condvar::new()));
    let other = turn.clone();
    let partner = thread::spawn(move || {
        for step in 0..1000 {
            let mut now = other.1.wait_while(other.0.lock().unwrap(), |now| *now != 2 * step + 1).unwrap();
            *now += 1;
            other.1.notify_one();
        }
    });
    for step in 0..1000 {
        let mut now = turn.1.wait_while(turn.0.lock().unwrap(), |now| *now != 2 * step).unwrap();
        *now += 1;
        turn.1.notify_one();
    }
    partner.join().unwrap();
    println!("turns {}", turn.0.lock().unwrap());
    // The message of the panic would go to standard error.
    std::panic::set_hook(Box::new(|_| {}));
    println!("caught {:?}", thread::spawn(|| panic!("on purpose")).join().is_err());
}
