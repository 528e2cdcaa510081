//! Programs that go wrong: the guest ends them with the status that Linux gives, says why, and stays up.

use tests::{
    Ending, Guest, bake,
    programs::{Flavour, build, on_host},
};

/// Runs `tests/programs/misbehave.c` in the given way on the host and in a guest.
fn ends_as_on_host(how: &[&str]) {
    let program = build("misbehave.c", Flavour::Static);
    let (output, status) = on_host(&program, how);
    let image = bake("misbehave", [&program]);
    let outcome = Guest::new(&image).arguments(how.iter().copied()).run();
    let console = outcome.exited(status);
    assert!(console.starts_with(&output), "{how:?}: {console}");
}

macro_rules! ways {
    ($($test:ident: $($how:literal)+;)*) => { $(
        #[test]
        fn $test() {
            ends_as_on_host(&[$($how),+]);
        }
    )* };
}

ways! {
    exits_non_zero: "exit" "77";
    exits_255: "exit" "255";
    writes_to_null: "write-null";
    jumps_to_null: "jump-null";
    executes_data: "execute-data";
    writes_to_code: "write-code";
    writes_to_the_kernel: "write-kernel";
    reads_the_direct_map: "read-direct-map";
    uses_a_non_canonical_address: "non-canonical";
    recurses_without_end: "recurse";
    divides_by_zero: "divide";
    executes_an_illegal_instruction: "illegal";
    halts_the_cpu: "halt";
    disables_interrupts: "no-interrupts";
    writes_to_a_port: "port";
    sets_the_trap_flag: "trap-flag";
    has_a_stack_in_the_kernel: "bad-stack-call";
    clears_its_segments: "segments";
    aborts: "abort";
    touches_past_the_end_of_a_file: "past-end-of-file";
    children_crash: "children-crash";
}

/// Linux says SIGBUS where the CPU raises a stack fault; QEMU's emulation raises a general protection fault.
#[test]
fn has_a_non_canonical_stack() {
    let image = bake("misbehave", [&build("misbehave.c", Flavour::Static)]);
    let outcome = Guest::new(&image).arguments(["bad-stack"]).run();
    let signals = [7, 11].map(|signal| Ending::Exited(128 + signal));
    assert!(signals.contains(&outcome.ending), "{:?}: {}", outcome.ending, outcome.console);
}

#[test]
fn uses_up_the_memory() {
    let image = bake("misbehave", [&build("misbehave.c", Flavour::Static)]);
    let outcome = Guest::new(&image).memory("64M").arguments(["memory"]).run();
    match outcome.ending {
        Ending::Exited(3) => {
            assert!(outcome.console.contains("no more memory"), "{}", outcome.console)
        }
        _ => {
            // Killed for it, and told so.
            assert!(outcome.exited(128 + 9).contains("out of memory"), "{}", outcome.console);
        }
    }
}

#[test]
fn forks_without_end() {
    let image = bake("misbehave", [&build("misbehave.c", Flavour::Static)]);
    let outcome = Guest::new(&image).memory("128M").cpus(4).arguments(["forks"]).timeout(300).run();
    match outcome.ending {
        Ending::Exited(4) => assert!(outcome.console.contains("fork: "), "{}", outcome.console),
        _ => assert!(outcome.exited(128 + 9).contains("out of memory"), "{}", outcome.console),
    }
}

#[test]
fn makes_a_million_wild_calls() {
    let image = bake("wild", [&build("wild.c", Flavour::Static)]);
    let outcome = Guest::new(&image).cpus(4).memory("512M").arguments(["1000000", "8"]).timeout(900).run();
    assert!(outcome.exited(0).contains("survived 1000000 calls"));
}
