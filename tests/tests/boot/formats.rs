//! Every image format, on every machine and firmware that it is for, and in a second emulator.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use tests::{
    Guest, bake, needs,
    programs::{Flavour, build},
    scratch, skip,
};

fn hello(format: &str) -> PathBuf {
    let program = build("hello.c", Flavour::Static);
    bake(&format!("hello-{format}"), [program.as_os_str(), "--format".as_ref(), format.as_ref()])
}

#[track_caller]
fn says_hello(guest: &Guest) {
    for cpus in [1, 2, 4] {
        let outcome = guest.clone().cpus(cpus).run();
        assert!(outcome.exited(0).ends_with("hello, world\n"), "{cpus} CPUs: {}", outcome.console);
    }
}

#[test]
fn elf_on_microvm() {
    says_hello(&Guest::new(&hello("elf")).machine("microvm"));
}

#[test]
fn elf_on_q35() {
    says_hello(&Guest::new(&hello("elf")).machine("q35"));
}

#[test]
fn elf_on_pc() {
    says_hello(&Guest::new(&hello("elf")).machine("pc"));
}

#[test]
fn iso_on_bios() {
    needs!("grub-mkimage", "xorriso");
    says_hello(&Guest::new(&hello("iso")).option("--firmware", "bios"));
}

#[test]
fn raw_disk_on_bios() {
    needs!("grub-mkimage");
    says_hello(&Guest::new(&hello("raw")).option("--firmware", "bios"));
}

#[test]
fn iso_on_uefi() {
    needs!("grub-mkimage", "xorriso", "/usr/share/OVMF/OVMF_CODE.fd");
    says_hello(&Guest::new(&hello("iso")).option("--firmware", "uefi"));
}

#[test]
fn raw_disk_on_uefi() {
    needs!("grub-mkimage", "/usr/share/OVMF/OVMF_CODE.fd");
    says_hello(&Guest::new(&hello("raw")).option("--firmware", "uefi"));
}

#[test]
fn little_and_much_memory() {
    let image = hello("elf");
    for (machine, memory) in [("microvm", "8M"), ("q35", "16M"), ("microvm", "5G"), ("q35", "16G")] {
        let outcome = Guest::new(&image).machine(machine).memory(memory).run();
        assert_eq!(outcome.exited(0), "hello, world\n", "{machine} with {memory}");
    }
}

#[test]
fn too_little_memory_is_said() {
    let outcome = Guest::new(&hello("elf")).machine("microvm").memory("2M").run();
    let said = format!("{}{}", outcome.console, outcome.messages);
    assert_ne!(outcome.ending, tests::Ending::Exited(0), "{said}");
    assert!(said.contains("memory"), "{said}");
}

#[test]
fn the_same_input_gives_the_same_image() {
    let program = build("hello.c", Flavour::Static);
    for format in ["elf", "iso", "raw"] {
        if format != "elf" && !tests::have("grub-mkimage") {
            skip("grub-mkimage is not installed");
            return;
        }
        let [first, second] = ["first", "second"].map(|turn| {
            let image = bake(
                &format!("same-{format}-{turn}"),
                [program.as_os_str(), "--format".as_ref(), format.as_ref()],
            );
            fs::read(image).expect("an image")
        });
        assert!(first == second, "two {format} images of the same program differ");
    }
}

/// Bochs, whose devices and CPU share no code with QEMU's. Its display needs a terminal; its build has
/// the debugger, which is told to go on.
#[test]
fn iso_in_bochs() {
    needs!("bochs", "script", "grub-mkimage", "xorriso");
    let (bios, vga) = ("/usr/share/bochs/BIOS-bochs-latest", "/usr/share/vgabios/vgabios.bin");
    needs!(bios, vga);
    if !Path::new("/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_term_gui.so").exists() {
        return skip("bochs-term is not installed");
    }
    let image = hello("iso");
    let folder = scratch().join(format!("bochs-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a scratch folder");
    let settings = format!(
        "config_interface: textconfig\ndisplay_library: term\nsound: driver=dummy\n\
         cpu: model=corei7_skylake_x, count=2, ips=50000000, reset_on_triple_fault=0\n\
         memory: guest=256, host=256\nromimage: file={bios}\nvgaromimage: file={vga}\n\
         ata0-master: type=cdrom, path={}, status=inserted\nboot: cdrom\n\
         com1: enabled=1, mode=file, dev=serial\nlog: log\npanic: action=fatal\n",
        image.display()
    );
    fs::write(folder.join("settings"), settings).expect("a scratch file");
    fs::write(folder.join("debugger"), "c\n").expect("a scratch file");
    let _ = fs::remove_file(folder.join("serial"));
    let mut bochs = Command::new("script")
        .args(["--quiet", "--command", "exec bochs -q -f settings -rc debugger", "terminal"])
        .current_dir(&folder)
        .env("TERM", "xterm")
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("script starts");
    let start = Instant::now();
    let mut serial = String::new();
    while start.elapsed() < Duration::from_secs(120) && !serial.contains("hello, world") {
        std::thread::sleep(Duration::from_millis(100));
        serial = fs::read_to_string(folder.join("serial")).unwrap_or_default();
    }
    let _ = bochs.kill();
    let _ = bochs.wait();
    assert!(serial.contains("hello, world"), "the serial console of bochs:\n{serial}");
}
