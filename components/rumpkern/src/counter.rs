//! Event counters, and how they are read.
//!
//! A component declares its counters in groups, adds to them anywhere (interrupt handlers included), and registers the
//! group once when it starts. What shows them (`/proc`, the metrics server) walks over all registered sources.
//!
//! ```
//! rumpkern::counters! {
//!     /// What the doors did.
//!     pub mod doors {
//!         OPENED: "Doors opened",
//!         CLOSED: "Doors closed",
//!     }
//! }
//!
//! rumpkern::counter::register(&doors::GROUP);
//! doors::OPENED.increment();
//! doors::OPENED.add(2);
//! assert_eq!(doors::OPENED.value(), 3);
//! ```
//!
//! Values that are computed when they are asked for, and those that need labels, come from a [`Source`] of their own.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use rumpuser::{rumpuser_cpu, sync::SpinLock};

/// Into how many parts a counter is split, so that CPUs don't write to the same cache line. More CPUs share.
const SHARDS: usize = 8;

/// The cells of a group that one CPU counts in.
#[doc(hidden)]
#[repr(align(64))]
pub struct Shard<const N: usize>([AtomicU64; N]);

/// The cells of a group of `N` counters.
#[doc(hidden)]
pub struct Cells<const N: usize>([Shard<N>; SHARDS]);

impl<const N: usize> Cells<N> {
    /// All zero.
    #[expect(clippy::new_without_default, reason = "it is for statics")]
    pub const fn new() -> Self {
        Cells([const { Shard([const { AtomicU64::new(0) }; N]) }; SHARDS])
    }

    fn sum(&self, index: usize) -> u64 {
        self.0.iter().fold(0, |sum, shard| sum.wrapping_add(shard.0[index].load(Ordering::Relaxed)))
    }
}

/// A number that only grows (and wraps at 2^64), one of `N` in its group; made by [`counters!`](crate::counters).
#[derive(Clone, Copy)]
pub struct Counter<const N: usize> {
    #[doc(hidden)]
    pub cells: &'static Cells<N>,
    #[doc(hidden)]
    pub index: usize,
}

impl<const N: usize> Counter<N> {
    /// Adds `amount`.
    #[inline(always)]
    pub fn add(self, amount: u64) {
        let shard = &self.cells.0[rumpuser_cpu() % SHARDS];
        shard.0[self.index].fetch_add(amount, Ordering::Relaxed);
    }

    /// Adds one.
    #[inline(always)]
    pub fn increment(self) {
        self.add(1);
    }

    /// The sum over the CPUs.
    pub fn value(self) -> u64 {
        self.cells.sum(self.index)
    }
}

/// The counters of a [`counters!`](crate::counters) declaration.
pub struct Group<const N: usize> {
    #[doc(hidden)]
    pub cells: &'static Cells<N>,
    /// Its name: the module's.
    pub name: &'static str,
    #[doc(hidden)]
    pub counters: [(&'static str, &'static str); N],
}

impl<const N: usize> Group<N> {
    /// The counters: name as declared (upper case), help, value.
    pub fn values(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        self.counters.iter().enumerate().map(|(index, &(name, help))| (name, help, self.cells.sum(index)))
    }
}

impl<const N: usize> Source for Group<N> {
    fn collect(&self, sink: &mut dyn Sink) {
        for (name, help, value) in self.values() {
            sink.metric(&Metric { group: self.name, name, help, kind: MetricKind::Counter });
            sink.sample(&[], value);
        }
    }
}

/// Declares a group of counters; see the [module](crate::counter).
#[macro_export]
macro_rules! counters {
    ($(#[$attribute:meta])* $visibility:vis mod $group:ident { $($name:ident: $help:literal),+ $(,)? }) => {
        $(#[$attribute])*
        $visibility mod $group {
            #[allow(non_camel_case_types, clippy::upper_case_acronyms, reason = "only their order counts")]
            enum Index { $($name),+ }
            const COUNT: usize = [$($help),+].len();
            static CELLS: $crate::counter::Cells<COUNT> = $crate::counter::Cells::new();
            $(
                #[doc = $help]
                pub const $name: $crate::counter::Counter<COUNT> =
                    $crate::counter::Counter { cells: &CELLS, index: Index::$name as usize };
            )+
            /// All of them.
            #[allow(dead_code, reason = "a group may be read counter by counter")]
            pub static GROUP: $crate::counter::Group<COUNT> = $crate::counter::Group {
                cells: &CELLS,
                name: stringify!($group),
                counters: [$((stringify!($name), $help)),+],
            };
        }
    };
}

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// What a series of samples is about. Names are of letters, digits and underscores; upper case is shown in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric<'a> {
    /// The group, the first part of the full name.
    pub group: &'a str,
    /// The rest of the name; a unit comes last (`_bytes`; `_nanoseconds`, which may be shown as seconds). Without `_total`.
    pub name: &'a str,
    /// One line for people.
    pub help: &'a str,
    /// How it behaves.
    pub kind: MetricKind,
}

/// Takes metrics and their samples.
pub trait Sink {
    /// The samples that follow belong to this. A name comes once in a walk.
    fn metric(&mut self, metric: &Metric);
    /// A sample of the last [`metric`](Sink::metric), with labels (name, value) that tell it from the others.
    fn sample(&mut self, labels: &[(&str, &str)], value: u64);
}

/// Something that has metrics.
pub trait Source: Sync {
    /// Hands over all of them, in thread context.
    fn collect(&self, sink: &mut dyn Sink);
}

static SOURCES: SpinLock<Vec<&'static dyn Source>> = SpinLock::new(Vec::new());

/// Adds a source for good; once each.
pub fn register(source: &'static dyn Source) {
    SOURCES.lock().push(source);
}

/// Walks over everything that was registered, in that order.
pub fn collect(sink: &mut dyn Sink) {
    let sources = SOURCES.lock().clone();
    for source in sources {
        source.collect(sink);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use alloc::{format, string::String};

    use super::*;

    counters! {
        /// For the test.
        mod events {
            FIRST: "The first",
            SECOND: "The second",
        }
    }

    struct Text(String);

    impl Sink for Text {
        fn metric(&mut self, metric: &Metric) {
            self.0 += &format!("{}.{} {:?}:", metric.group, metric.name, metric.kind);
        }

        fn sample(&mut self, labels: &[(&str, &str)], value: u64) {
            self.0 += &format!(" {labels:?} {value};");
        }
    }

    #[test]
    fn counters_of_a_group_are_apart_and_shown_in_order() {
        register(&events::GROUP);
        events::SECOND.increment();
        events::SECOND.add(40);
        events::FIRST.increment();
        assert_eq!((events::FIRST.value(), events::SECOND.value()), (1, 41));
        let mut text = Text(String::new());
        collect(&mut text);
        assert_eq!(text.0, "events.FIRST Counter: [] 1;events.SECOND Counter: [] 41;");
    }

    #[test]
    fn threads_lose_nothing() {
        counters! { mod shared { ADDED: "Added by all" } }
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| shared::ADDED.increment()));
            }
        });
        assert_eq!(shared::ADDED.value(), 40_000);
    }
}
