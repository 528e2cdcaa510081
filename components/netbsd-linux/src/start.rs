//! The start of the rump kernel, in a thread of its own.

use alloc::{boxed::Box, string::String};
use core::sync::atomic::{AtomicBool, Ordering};

use image::config::Configuration;
use netbsd::{host, network, thread, user};
use rumpkern::wait::WaitQueue;
use rumpuser::{CpuSet, NEVER};

use crate::{
    call::{self, address_of, number},
    events, interfaces,
};

/// `RLIMIT_NOFILE` of setrlimit(2); `CTL_KERN`, `KERN_MAXFILES`, `KERN_SBMAX` of sysctl(7).
const OPEN_FILES: u64 = 8;
const KERNEL: i32 = 1;
const MAX_FILES: i32 = 7;
const BUFFER_MOST: i32 = 58;
/// Descriptors that the kernel's process may have.
const DESCRIPTORS: i32 = 65_536;
/// The largest buffer of a socket in bytes.
const BUFFER: i32 = 2 << 20;

/// The kernel takes calls; its network is configured.
static RUNS: AtomicBool = AtomicBool::new(false);
static READY: AtomicBool = AtomicBool::new(false);
static CHANGED: WaitQueue = WaitQueue::new();

fn wait_for(what: &AtomicBool) {
    if !what.load(Ordering::Acquire) {
        CHANGED.wait_uninterruptible(|| what.load(Ordering::Acquire).then_some(()));
    }
}

fn reached(what: &AtomicBool) {
    what.store(true, Ordering::Release);
    CHANGED.wake_all();
}

/// Waits until the rump kernel takes calls.
pub fn wait_kernel() {
    wait_for(&RUNS);
}

/// Waits until the rump kernel runs and its network is configured.
pub fn wait_ready() {
    wait_for(&READY);
}

/// Starts the rump kernel: the network's part of starting an image. Devices have been looked for. `resolver_changed`
/// takes the text of `/etc/resolv.conf`.
pub fn start(configuration: Configuration, resolver_changed: network::Changed) {
    rumpnet::socket::use_outside(&crate::socket::OUTSIDE);
    let main = move || {
        host::set_hostname(&configuration.hostname);
        host::set_parameters(&configuration.parameters);
        user::start::start_kernel();
        call::start(user::process::getpid_of_caller());
        set_limits();
        host::apply_parameters();
        // Who creates files has the umask applied.
        let _ = call::call(number::UMASK, &mut [0]);
        reached(&RUNS);
        network::configure(&configuration, Some(resolver_changed));
        if let Err(error) = interfaces::start() {
            host::console(alloc::format!("no interfaces for programs: {error:?}\n").as_bytes());
        }
        if let Err(error) = events::start() {
            host::console(alloc::format!("no sockets: {error:?}\n").as_bytes());
        }
        reached(&READY);
        // The first process goes when its last LWP does.
        loop {
            rumpuser::rumpuser_park(NEVER);
        }
    };
    if thread::spawn(String::from("netbsd"), CpuSet::MAX, Box::new(main)).is_err() {
        host::console(b"no memory for NetBSD's kernel\n");
    }
}

/// More descriptors and larger buffers than a single process of NetBSD's usually has.
fn set_limits() {
    set(MAX_FILES, DESCRIPTORS);
    set(BUFFER_MOST, BUFFER);
    let limit = [DESCRIPTORS as u64; 2];
    // Without it, programs have the descriptors that NetBSD gives.
    let _ = call::call(number::SETRLIMIT, &mut [OPEN_FILES, address_of(&limit)]);
}

/// Sets a variable of the kernel.
fn set(name: i32, value: i32) {
    let name = [KERNEL, name];
    // What the release hasn't stays as it is.
    let _ = call::call(number::SYSCTL, &mut [address_of(&name), 2, 0, 0, address_of(&value), 4]);
}
