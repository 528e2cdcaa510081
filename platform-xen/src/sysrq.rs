//! What `xl sysrq` asks for: the keys of Linux's admin-guide/sysrq that mean something to a kernel without knowing what runs on it.
//! The answer is on the console.

use alloc::{format, string::String};
use core::fmt::Write;

use rumpuser::{
    Halt, rumpuser_cpu_online, rumpuser_cpu_statistics, rumpuser_cpu_times, rumpuser_memory_statistics,
};

use crate::store::PLAIN;

/// The node that takes the key.
pub const NODE: &str = "control/sysrq";

const HELP: &str = "b reboot at once, c crash, e or o orderly stop, h help, m memory, p CPUs";

/// The node has changed.
pub fn asked() {
    let Some(key) = take() else { return };
    bmk::console::write(answer(key).as_bytes());
    match key {
        'b' => rumpuser::rumpuser_halt(Halt::Reboot),
        'c' => panic!("sysrq triggered crash"),
        'e' | 'o' => bmk::console::request_stop(),
        _ => {}
    }
}

/// Takes the key out of the node; Linux leaves a byte of 0 there.
fn take() -> Option<char> {
    let key = PLAIN.read(NODE).ok()?.chars().next().filter(|key| *key != '\0')?;
    // Whatever becomes of the key, it is not to be found again after a restart.
    let _ = PLAIN.write(NODE, "");
    Some(key)
}

fn answer(key: char) -> String {
    let mut text = format!("sysrq {}: ", key.escape_default());
    let _ = match key {
        'b' => text.write_str("reboot"),
        'c' => text.write_str("crash"),
        'e' | 'o' => text.write_str("stop"),
        'h' => text.write_str(HELP),
        'm' => memory(&mut text),
        'p' => cpus(&mut text),
        _ => write!(text, "means nothing here; {HELP}"),
    };
    text.push('\n');
    text
}

fn memory(text: &mut String) -> core::fmt::Result {
    let memory = rumpuser_memory_statistics();
    write!(text, "{} of {} KiB of memory are free", memory.free / 1024, memory.total / 1024)
}

fn cpus(text: &mut String) -> core::fmt::Result {
    text.write_str("CPUs, with milliseconds of user, kernel, idle and stolen time")?;
    let milliseconds = |time: u64| time / 1_000_000;
    let online = rumpuser_cpu_online();
    for cpu in (0..bmk::cpu::possible()).filter(|cpu| online & 1 << cpu != 0) {
        let (user, kernel, idle) = rumpuser_cpu_times(cpu);
        let statistics = rumpuser_cpu_statistics(cpu);
        let [user, kernel, idle, stolen] = [user, kernel, idle, statistics.stolen].map(milliseconds);
        write!(text, "\nsysrq p: CPU {cpu}: {user} {kernel} {idle} {stolen}, ")?;
        let (threads, switches) = (statistics.runnable, statistics.switches);
        write!(text, "{threads} threads ready, {switches} switches, ")?;
        let devices: u64 = statistics.device_interrupts.iter().map(|(_, count)| count).sum();
        write!(text, "{} timer and {devices} other interrupts", statistics.timer_interrupts)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_answered() {
        assert_eq!(answer('h'), format!("sysrq h: {HELP}\n"));
        assert!(answer('m').ends_with(" KiB of memory are free\n"));
        assert_eq!(answer('z'), format!("sysrq z: means nothing here; {HELP}\n"));
        assert!(answer('\n').starts_with("sysrq \\n: means nothing"));
    }
}
