//! Builds the vDSO, which is linked into the crate as bytes. Needs the C compiler that Rust links with.

use std::{env, path::PathBuf, process::Command};

const FLAGS: &[&str] = &[
    "-O2",
    "-std=gnu11",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-ffreestanding",
    "-fPIC",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-fcf-protection=none",
    "-mno-avx",
    // The callers' stacks may be small and misaligned: no vector instructions.
    "-mgeneral-regs-only",
    "-shared",
    "-nostdlib",
    "-s",
    "-Wl,--hash-style=both",
    "-Wl,--build-id=none",
    "-Wl,-soname,linux-vdso.so.1",
    "-Wl,-Bsymbolic",
    "-Wl,-z,noexecstack",
    "-Wl,-z,max-page-size=4096",
    "-Wl,-T,vdso/vdso.lds",
];

fn main() {
    println!("cargo::rerun-if-changed=vdso");
    println!("cargo::rerun-if-env-changed=CC");
    let output = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("vdso.so");
    let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
    let status = Command::new(&compiler).args(FLAGS).arg("-o").arg(&output).arg("vdso/vdso.c").status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{} could not build the vDSO: {status}", compiler.display()),
        Err(error) => panic!("cannot run the C compiler {}: {error}", compiler.display()),
    }
}
