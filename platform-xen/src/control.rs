//! What the toolstack asks of a running domain, in xenstore's `control`.

use alloc::boxed::Box;

use rumpuser::{CpuSet, ThreadSpec, sync::InterruptLock};

use crate::{
    shutdown,
    store::{self, PLAIN, Watch},
    suspend, sysrq,
};

const SHUTDOWN: &str = "control/shutdown";
/// What can be asked for, as the toolstack wants to know it.
const FEATURES: [&str; 4] = ["poweroff", "halt", "reboot", "suspend"];

static WATCHES: InterruptLock<[Option<Watch>; 2]> = InterruptLock::new([const { None }; 2]);

/// Starts the thread that hands on changes in xenstore, and listens to requests.
pub fn start() {
    let main = Box::new(store::serve_watches);
    if rumpuser::rumpuser_thread_create(ThreadSpec { name: "xenstore".into(), affinity: CpuSet::MAX, main })
        .is_err()
    {
        return;
    }
    announce();
    let watches = [store::watch(SHUTDOWN, |_| asked()), store::watch(sysrq::NODE, |_| sysrq::asked())];
    *WATCHES.lock() = watches.map(|watch| watch.ok());
}

/// Tells the toolstack what it can ask for.
pub fn announce() {
    for feature in FEATURES {
        let _ = PLAIN.write(&alloc::format!("control/feature-{feature}"), "1");
    }
}

fn asked() {
    let Ok(request) = PLAIN.read(SHUTDOWN) else { return };
    match request.as_str() {
        "poweroff" | "halt" => {}
        "reboot" => shutdown::restart_next(),
        "suspend" => {
            let _ = PLAIN.write(SHUTDOWN, "");
            return suspend::start();
        }
        _ => return,
    }
    // Empty: it is being done.
    let _ = PLAIN.write(SHUTDOWN, "");
    bmk::console::request_stop();
}
