//! What an image does when it starts, and how it ends: mounts, programs in order, the last one's status.
//!
//! The thread that comes here is process 1 in name: orphans are its children, and it reaps them.

mod mounts;
mod network;
mod programs;
mod report;

use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicBool, Ordering};

use image::{
    command_line::{CommandLine, FIXED_ADDRESSES, METRICS, NO_ECHO},
    config::Configuration,
    payload::Payload,
    rootfs::RootFs,
};
use rumpkern::Result;
use rumpuser::{
    Halt, NEVER, rumpuser_clock_monotonic, rumpuser_halt, rumpuser_set_fault_handler,
    rumpuser_set_stop_handler, sync::SpinLock,
};
use rumpvfs::mount::Location;

pub use network::resolver_changed;
pub use report::place;

use crate::{
    console, exit, faults,
    limits::Limits,
    process::{Process, ProcessSpec},
    registry,
    signal::{Actions, SignalInfo, number::*, send},
    space::Space,
    terminal,
};

/// How long programs may take to end when the machine stops.
const GRACE: u64 = 10_000_000_000;
/// How long killed programs may take.
const KILL_GRACE: u64 = 10_000_000_000;
/// The status of an image that could not do what it is for.
const FAILED: u8 = 125;

/// Process 1.
static INIT: SpinLock<Option<Arc<Process>>> = SpinLock::new(None);
/// The root of everything.
static ROOT: SpinLock<Option<Location>> = SpinLock::new(None);
/// Somebody asked for an orderly stop.
static STOPPING: AtomicBool = AtomicBool::new(false);
/// The stop is to be a restart.
static REBOOTING: AtomicBool = AtomicBool::new(false);

/// Runs a baked image.
pub fn start(payload: Payload<'static>, command_line: &str) -> ! {
    let status = match prepare(payload, command_line) {
        Ok((configuration, root, init)) => {
            let status = programs::run_all(&configuration, &root, &init);
            stop_all(&init);
            status
        }
        Err(()) => FAILED,
    };
    finish(if REBOOTING.load(Ordering::Relaxed) { Halt::Reboot } else { Halt::PowerOff(status) })
}

/// Everything up to the first program. Says itself what went wrong.
fn prepare(
    payload: Payload<'static>,
    command_line: &str,
) -> core::result::Result<(Configuration, Location, Arc<Process>), ()> {
    let mut configuration: Configuration = postcard::from_bytes(payload.configuration())
        .map_err(|error| console::message(format_args!("the image's configuration is damaged: {error}")))?;
    let words = CommandLine::parse(command_line.as_bytes());
    if words.has(NO_ECHO) {
        rumpdev::tty::console::disable_echo();
    }
    crate::trace::start(&words);
    if words.has(FIXED_ADDRESSES.as_bytes()) {
        crate::exec_image::fix_addresses();
    }
    metrics::register();
    rumpkern::counter::register(&crate::statistics::SystemCalls);
    rumpnet::configuration::start();
    network::baked(&configuration);
    words.apply(&mut configuration);
    let image = RootFs::parse(payload.rootfs()).map_err(|error| {
        console::message(format_args!("the image's root file system is damaged: {error}"))
    })?;
    rumpuser_set_fault_handler(faults::copy_fault);
    terminal::connect();
    let init = first_process()
        .map_err(|error| console::message(format_args!("not enough memory to start: {error:?}")))?;
    *INIT.lock() = Some(init.clone());
    rumpuser_set_stop_handler(request_stop);
    let failed = |error| console::message(format_args!("cannot set up the file systems: {error:?}"));
    let root = mounts::mount_root(image).map_err(failed)?;
    *ROOT.lock() = Some(root.clone());
    mounts::mount_configured(&root, &configuration).map_err(failed)?;
    if crate::uts::set_host_name(configuration.hostname.as_bytes()).is_err() {
        console::message(format_args!("the host name {} is too long", configuration.hostname));
    }
    crate::procfs::set_command_line(command_line.as_bytes());
    network::start(&configuration);
    if let Some(port) = words.value(METRICS) {
        start_metrics(port);
    }
    Ok((configuration, root, init))
}

/// Starts the server of metrics, or says why not: the programs run all the same.
fn start_metrics(port: &[u8]) {
    let number = core::str::from_utf8(port).ok().and_then(|port| port.parse().ok()).filter(|port| *port != 0);
    let Some(number) = number else {
        return console::message(format_args!("no metrics: {} is no port", port.escape_ascii()));
    };
    match metrics::server::start(number) {
        Ok(()) => console::message(format_args!("metrics on port {number}")),
        Err(error) => console::message(format_args!("no metrics on port {number}: {error:?}")),
    }
}

/// Process 1, which has no tasks: it only has children.
fn first_process() -> Result<Arc<Process>> {
    let init = Process::new(ProcessSpec {
        pid: registry::allocate()?,
        parent: Weak::new(),
        group: 1,
        session: 0,
        space: Space::new(0)?,
        actions: Arc::new(Actions::default()),
        limits: Limits::default(),
        executable: None,
        exit_signal: 0,
    });
    registry::add_process(&init);
    Ok(init)
}

/// The root of the tree of mounts, once it is there.
pub fn root() -> Option<Location> {
    ROOT.lock().clone()
}

/// Whether the image's init started a process and waits for it.
pub fn is_supervised(process: &Process) -> bool {
    process.supervised.load(Ordering::Relaxed)
}

/// Asks for an orderly stop: the power button, or a program. Thread context.
pub fn request_stop() {
    STOPPING.store(true, Ordering::SeqCst);
    let init = INIT.lock().clone();
    if let Some(init) = init {
        init.child_changed.wake_all();
    }
}

/// As [`request_stop`], and the machine starts again afterwards.
pub fn request_restart() {
    REBOOTING.store(true, Ordering::SeqCst);
    request_stop();
}

/// Whether the machine is about to end.
pub fn is_stopping() -> bool {
    STOPPING.load(Ordering::SeqCst)
}

/// Reaps what has ended among the children; calls `ended(process, status)` for each.
fn reap_all(init: &Arc<Process>, mut ended: impl FnMut(&Arc<Process>, u32)) {
    let children = init.children.lock().clone();
    for child in children {
        if child.is_zombie() && !child.reaped.swap(true, Ordering::SeqCst) {
            ended(&child, child.status.load(Ordering::Relaxed));
            exit::reap(init, &child);
        }
    }
}

/// Ends every process: SIGTERM, and SIGKILL to those that take too long.
fn stop_all(init: &Arc<Process>) {
    for (signal, grace) in [(SIGTERM, GRACE), (SIGKILL, KILL_GRACE)] {
        let others = living();
        if others == 0 {
            return;
        }
        for process in registry::processes() {
            if process.pid() != init.pid() {
                send::to_process(&process, SignalInfo::kernel(signal));
                // A stopped process would not hear it.
                send::to_process(&process, SignalInfo::kernel(SIGCONT));
            }
        }
        let deadline = rumpuser_clock_monotonic() + grace;
        let gone = || {
            reap_all(init, |_, _| {});
            (living() == 0).then_some(())
        };
        // What is left after the deadline is dealt with in the next round.
        let _ = init.child_changed.wait(deadline, gone);
    }
    let left = living();
    if left > 0 {
        console::message(format_args!("{left} processes did not end"));
    }
}

fn living() -> usize {
    registry::processes().iter().filter(|process| process.pid() != 1 && !process.is_zombie()).count()
}

/// Waits until a child of process 1 has ended, or a stop is asked for.
fn wait_for_change<T>(init: &Arc<Process>, condition: impl FnMut() -> Option<T>) -> Option<T> {
    init.child_changed.wait(NEVER, condition).ok()
}

/// Writes everything to disk and ends the machine.
pub fn finish(how: Halt) -> ! {
    crate::trace::finish();
    if let Some(root) = root()
        && let Err(error) = root.unmount_all()
    {
        console::message(format_args!("not everything could be written to disk: {error:?}"));
    }
    rumpuser_halt(how)
}
