//! Programs of ours in every kind of ELF file: the guest's output and status are the host's.

use tests::{
    Guest, bake, needs,
    programs::{Flavour, build, on_host},
};

fn same_as_on_host(source: &str, flavour: Flavour, arguments: &[&str]) {
    let program = build(source, flavour);
    let (output, status) = on_host(&program, arguments);
    let name = format!("{}-{flavour:?}", source.replace('.', "-"));
    let image = bake(&name, [&program]);
    for cpus in [1, 2, 4] {
        let outcome = Guest::new(&image).cpus(cpus).arguments(arguments.iter().copied()).run();
        assert_eq!(outcome.exited(status), output, "{name} on {cpus} CPUs");
    }
}

#[test]
fn static_c() {
    same_as_on_host("libc.c", Flavour::Static, &[]);
}

#[test]
fn dynamic_c() {
    same_as_on_host("libc.c", Flavour::Dynamic, &[]);
}

#[test]
fn static_pie_c() {
    same_as_on_host("libc.c", Flavour::StaticPie, &[]);
}

#[test]
fn musl_c() {
    needs!("musl-gcc");
    same_as_on_host("libc.c", Flavour::Musl, &[]);
}

#[test]
fn static_pie_rust_with_threads() {
    same_as_on_host("threads.rs", Flavour::Rust, &[]);
}

#[test]
fn go_with_goroutines() {
    needs!("go");
    same_as_on_host("goroutines.go", Flavour::Go, &[]);
}

#[test]
fn virtual_memory() {
    same_as_on_host("memory.c", Flavour::Static, &[]);
    same_as_on_host("memory.c", Flavour::Dynamic, &[]);
}

#[test]
fn semaphores() {
    same_as_on_host("semaphores.c", Flavour::Dynamic, &[]);
}
