//! The harness itself: a boot that goes wrong must not look like one that went well.

use tests::{
    Ending, Guest, bake, needs,
    programs::{Flavour, build},
};

#[test]
fn a_kernel_panic_is_told_from_an_exit() {
    needs!("busybox");
    let image = bake("panic", ["/bin/busybox", "--", "sh", "-c", "echo c > /proc/sysrq-trigger"]);
    let outcome = Guest::new(&image).run();
    assert_eq!(outcome.ending, Ending::Panicked, "{}", outcome.console);
    // The backtrace has names.
    assert!(outcome.console.contains("sysrq+0x"), "{}", outcome.console);
}

#[test]
fn a_guest_that_never_ends_times_out() {
    let image = bake("spin", [&build("spin.c", Flavour::Static)]);
    let outcome = Guest::new(&image).timeout(3).run();
    assert_eq!(outcome.ending, Ending::TimedOut, "{}", outcome.console);
}

#[test]
fn a_launcher_without_an_image_fails() {
    let outcome = Guest::new("/no/such/image".as_ref()).run();
    assert_eq!(outcome.ending, Ending::Failed, "{}", outcome.messages);
    assert!(outcome.messages.contains("/no/such/image"), "{}", outcome.messages);
}
