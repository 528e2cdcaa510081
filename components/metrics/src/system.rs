//! Metrics of the machine and of its network interfaces.

use alloc::{format, string::String, vec::Vec};

use rumpkern::counter::{Metric, MetricKind, Sink, Source};
use rumpnet::interface::{self, Statistics};
use rumpuser::{
    CpuStatistics, rumpuser_clock_monotonic, rumpuser_cpu_count, rumpuser_cpu_statistics, rumpuser_cpu_times,
    rumpuser_memory_statistics,
};

/// Memory, CPUs, time.
pub struct Machine;

impl Source for Machine {
    fn collect(&self, sink: &mut dyn Sink) {
        let memory = rumpuser_memory_statistics();
        let mut gauge = |group, name, help, value| {
            sink.metric(&Metric { group, name, help, kind: MetricKind::Gauge });
            sink.sample(&[], value);
        };
        gauge("memory", "size_bytes", "Memory that the kernel manages", memory.total);
        gauge("memory", "free_bytes", "Memory that nobody uses", memory.free);
        gauge("machine", "uptime_nanoseconds", "Time since the start", rumpuser_clock_monotonic());

        let names: Vec<String> = (0..rumpuser_cpu_count()).map(|cpu| format!("{cpu}")).collect();
        let mut cpu_metric = |name, help, kind| {
            sink.metric(&Metric { group: "cpu", name, help, kind });
        };
        cpu_metric("nanoseconds", "Time spent, by mode", MetricKind::Counter);
        for (cpu, name) in names.iter().enumerate() {
            let (user, kernel, idle) = rumpuser_cpu_times(cpu);
            for (mode, time) in [("user", user), ("kernel", kernel), ("idle", idle)] {
                sink.sample(&[("cpu", name), ("mode", mode)], time);
            }
        }
        let statistics: Vec<CpuStatistics> = (0..names.len()).map(rumpuser_cpu_statistics).collect();
        let mut series = |name, help, kind, pick: fn(&CpuStatistics) -> u64| {
            sink.metric(&Metric { group: "cpu", name, help, kind });
            for (name, cpu) in names.iter().zip(&statistics) {
                sink.sample(&[("cpu", name)], pick(cpu));
            }
        };
        let counter = MetricKind::Counter;
        series("context_switches", "Switches between threads", counter, |cpu| cpu.switches);
        series("runnable_threads", "Threads that run or could", MetricKind::Gauge, |cpu| cpu.runnable as u64);
        sink.metric(&Metric {
            group: "cpu",
            name: "interrupts",
            help: "Interrupts, by kind",
            kind: MetricKind::Counter,
        });
        for (name, cpu) in names.iter().zip(&statistics) {
            let devices = cpu.device_interrupts.iter().map(|(_, count)| count).sum();
            for (kind, count) in
                [("timer", cpu.timer_interrupts), ("wake", cpu.wake_interrupts), ("device", devices)]
            {
                sink.sample(&[("cpu", name), ("kind", kind)], count);
            }
        }
    }
}

/// The network interfaces.
pub struct Interfaces;

/// A counter of every interface: its name, help, and where it is.
type Counter = (&'static str, &'static str, fn(&Statistics) -> u64);

const COUNTERS: [Counter; 9] = [
    ("receive_packets", "Packets received", |statistics| statistics.receive_packets),
    ("receive_bytes", "Bytes received, with link headers", |statistics| statistics.receive_bytes),
    ("receive_errors", "Packets that came broken", |statistics| statistics.receive_errors),
    ("receive_dropped", "Received packets that nobody wanted", |statistics| statistics.receive_dropped),
    ("receive_missed", "Packets that came while the ring was full", |statistics| statistics.receive_missed),
    ("transmit_packets", "Packets sent", |statistics| statistics.transmit_packets),
    ("transmit_bytes", "Bytes sent, with link headers", |statistics| statistics.transmit_bytes),
    ("transmit_errors", "Packets that could not be sent", |statistics| statistics.transmit_errors),
    ("transmit_dropped", "Packets for which there was no room", |statistics| statistics.transmit_dropped),
];

impl Source for Interfaces {
    fn collect(&self, sink: &mut dyn Sink) {
        let interfaces = interface::list();
        let statistics: Vec<Statistics> = interfaces.iter().map(|interface| interface.statistics()).collect();
        for (name, help, pick) in COUNTERS {
            sink.metric(&Metric { group: "interface", name, help, kind: MetricKind::Counter });
            for (interface, statistics) in interfaces.iter().zip(&statistics) {
                sink.sample(&[("interface", interface.name())], pick(statistics));
            }
        }
    }
}
