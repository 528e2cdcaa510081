//! Images on NetBSD component sets: the one of our small tree, which has the hypercalls for a subject, and an installed one
//! where there is one.

use std::{fs, path::PathBuf, process::Command, sync::OnceLock, time::UNIX_EPOCH};

use tests::{
    bake, checkout,
    guest::{Ending, Guest},
    needs,
    netbsd::{arguments, compile, installed, program, program_with, source, succeed, tools},
    rumprun_bake, scratch, skip,
};
use toolchain::netbsd::{set::Set, wrapper};

/// The set of our small tree, and a program for it; nothing if this machine has no make for the tree.
fn own_set() -> Option<&'static (PathBuf, PathBuf)> {
    static SET: OnceLock<Option<(PathBuf, PathBuf)>> = OnceLock::new();
    let set = SET.get_or_init(|| {
        if Command::new("bmake").args(["-V", "MAKE", "-f", "/dev/null"]).output().is_err() {
            return None;
        }
        let data = scratch().join(format!("own-set-{}", std::process::id()));
        succeed(
            Command::new(rumprun_bake())
                .args(["netbsd", "build", "--src"])
                .arg(checkout().join("tests/netbsd-tree"))
                .env("RUMPRUN_BAKE_DATA", &data)
                .env("RUMPRUN_BAKE_NETBSD_PATCHES", checkout().join("tests/netbsd-patches"))
                .env_remove("CC"),
        );
        let set = data.join("netbsd/0.99.1");
        let program = compile(&tools("own", &set), "program.c");
        Some((set, program))
    });
    if set.is_none() {
        skip("bmake is not installed");
    }
    set.as_ref()
}

#[test]
fn components_of_our_tree_make_their_hypercalls() {
    needs!("gcc", "ld", "objcopy", "qemu-system-x86_64");
    let Some((set, program)) = own_set() else { return };
    let mut words = arguments(set, &[program, program]);
    words.extend(["--components".into(), "rumpnet_loop".into()]);
    words.extend(["--".into(), "one".into(), "two".into()]);
    let image = bake("netbsd-own", words);
    for (machine, cpus) in [("q35", 1), ("pc", 2), ("microvm", 4)] {
        let outcome = Guest::new(&image).machine(machine).cpus(cpus).run();
        let console = outcome.exited(3);
        for line in [
            "4 threads counted to 80000\n",
            "slept, 60\n",
            "page at offset 0\n",
            &format!("{cpus} CPUs,   abc|-7    |00ab, absent: 2\n"),
            "execve: not possible in an image\n",
            "fault 111 at 4660\n",
            "loop: 42\n",
            "last two, local 5 0, constructed 1, execve -1 78, answer 42\n",
        ] {
            assert!(console.contains(line), "{machine}: {line:?} is not in:\n{console}");
        }
        assert_eq!(console.matches(" arguments, last ").count(), 2, "both programs run:\n{console}");
    }
}

#[test]
fn programs_for_other_systems_are_refused() {
    needs!("gcc", "ld", "objcopy");
    let Some((set, program)) = own_set() else { return };
    let object = scratch().join("foreign.o");
    succeed(Command::new("gcc").args(["-c", "-x", "c", "/dev/null", "-o"]).arg(&object));
    for (programs, expected) in [
        (&[object.as_path()][..], "x86_64-rumprun-netbsd-cc"),
        (&[program, rumprun_bake()], "programs of one kind"),
    ] {
        let mut command = Command::new(rumprun_bake());
        command.args(["bake", "hw_direct"]).arg(scratch().join("refused.elf")).args(arguments(set, programs));
        let output = command.output().expect("it starts");
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && message.contains(expected), "{message}");
    }
}

#[test]
fn a_component_that_is_missing_is_named() {
    needs!("gcc", "ld", "objcopy");
    let Some((set, program)) = own_set() else { return };
    let mut command = Command::new(rumprun_bake());
    command.args(["bake", "hw_direct"]).arg(scratch().join("missing.elf")).args(arguments(set, &[program]));
    let output = command.output().expect("it starts");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && message.contains("use rump_loop; try `--components rumpnet_loop`"),
        "{message}"
    );
}

#[test]
fn programs_run_on_the_tree() {
    needs!("gcc", "ld", "objcopy", "qemu-system-x86_64");
    let Some(set) = installed() else { return };
    let tools = tools("tree", &set);
    let (hello, threads) = (compile(&tools, "hello.c"), compile(&tools, "threads.c"));
    let mut words = arguments(&set, &[&hello]);
    words.extend(["--env".into(), "PLACE=here".into()]);
    let hello = bake("netbsd-hello", words);
    let threads = bake("netbsd-threads", arguments(&set, &[&threads]));
    for machine in ["q35", "pc", "microvm"] {
        for cpus in [1, 2, 4] {
            let outcome = Guest::new(&hello).machine(machine).cpus(cpus).run();
            let console = outcome.exited(7);
            assert!(
                console.contains("hello from rumprun: 1 arguments, PLACE=here, pi is 3.142\n"),
                "{console}"
            );
            let outcome = Guest::new(&threads).machine(machine).cpus(cpus).run();
            let console = outcome.exited(0);
            for line in ["counted 800000, sum 36\n", "slept beside a spinning thread\n", "echoed 5000\n"] {
                assert!(console.contains(line), "{line:?} is not in:\n{console}");
            }
        }
    }
}

#[test]
fn programs_in_cxx_and_side_by_side_run_on_the_tree() {
    needs!("gcc", "g++", "ld", "objcopy", "qemu-system-x86_64");
    let Some(set) = installed() else { return };
    if !set.join("lib/libc++.a").is_file() {
        return skip(&format!("{} has no libc++", set.display()));
    }
    let tools = tools("cxx", &set);
    let build = |compiler: &str, name: &str, output: &str, more: &[&str]| {
        let program = tools.join(output);
        let compiler = tools.join(format!("{}{compiler}", wrapper::PREFIX));
        succeed(Command::new(compiler).arg("-O2").arg(source(name)).arg("-o").arg(&program).args(more));
        program
    };
    // What configures programs finds out so what there is.
    let absent = scratch().join("absent.c");
    fs::write(&absent, "int epoll_create(int);\nint main(void) { return epoll_create(1); }\n")
        .expect("written");
    let compiler = tools.join(format!("{}cc", wrapper::PREFIX));
    let output =
        Command::new(compiler).arg(&absent).arg("-o").arg(tools.join("absent")).output().expect("it starts");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && message.contains("undefined reference to `epoll_create'"),
        "{message}"
    );
    let language = build("c++", "language.cc", "language", &["-lpthread"]);
    let first = build("cc", "shared.c", "first", &["-DNUMBER=1", "-lz"]);
    let second = build("cc", "shared.c", "second", &["-DNUMBER=2", "-lz"]);
    let image = bake("netbsd-programs", arguments(&set, &[&first, &language, &second]));
    for cpus in [1, 2, 4] {
        let outcome = Guest::new(&image).cpus(cpus).run();
        let console = outcome.exited(0);
        let mut rest = console;
        for line in [
            "first program: counter 1,",
            "program 1 leaves\n",
            "before main\n",
            "one=1\ntwo=2\ncaught thrown\ncaught from the library\nsum 26, caught 400, own 5, 1 arguments\n",
            "after main\n",
            "second program: counter 2,",
            "program 2 leaves\n",
        ] {
            let place = rest.find(line).unwrap_or_else(|| panic!("{line:?} is not next in:\n{console}"));
            rest = &rest[place + line.len()..];
        }
    }
}

/// What a patch brings works with it, and is missing without it.
#[test]
fn patches_bring_what_they_say() {
    needs!("gcc", "ld", "objcopy", "qemu-system-x86_64");
    let Some(directory) = installed() else { return };
    let set = match Set::read(&directory) {
        Ok(set) => set,
        Err(error) => return skip(&format!("no NetBSD tree: {error}")),
    };
    let has = |patch: &str| set.patches.iter().any(|present| present.name == patch);
    let tools = tools("patches", &directory);
    let run = |name: &str, cpus| {
        let program = compile(&tools, &format!("{name}.c"));
        let image = bake(&format!("netbsd-{name}"), arguments(&directory, &[&program]));
        Guest::new(&image).cpus(cpus).run()
    };
    for cpus in [1, 2, 4] {
        let outcome = run("kqueue_user", cpus);
        let passed = outcome.console.contains("kqueue_user: passed\n");
        assert_eq!(passed, has("kqueue-user") && has("kqueue-flags"), "{}", outcome.console);
        let outcome = run("mbufs", cpus);
        assert!(outcome.exited(0).contains("mbufs: passed\n"), "{}", outcome.console);
        let size = if has("mbuf-4k") { 4096 } else { 2048 };
        assert!(outcome.console.contains(&format!("{size} bytes a cluster\n")), "{}", outcome.console);
    }
}

/// Devices behind bridges, with pins and with messages.
#[test]
fn the_tree_s_drivers_find_nics_behind_bridges() {
    needs!("gcc", "ld", "objcopy", "qemu-system-x86_64");
    let Some(set) = installed() else { return };
    let program = compile(&tools("nic", &set), "nic.c");
    let configuration = scratch().join(format!("netbsd-nic-{}.toml", std::process::id()));
    fs::write(&configuration, "[[network]]\ninterface = \"eth0\"\naddresses = [\"10.0.2.15/24\"]\n")
        .expect("a scratch file");
    let mut words = arguments(&set, &[&program]);
    words.extend(["--config".into(), configuration.into()]);
    let image = bake("netbsd-nic", words);
    let port = "pcie-root-port,id=above,chassis=1";
    for (machine, cpus, bridge, nic) in [
        ("q35", 1, port, "virtio-net-pci,disable-legacy=off"),
        ("q35", 2, port, "e1000e"),
        ("pc", 2, "pci-bridge,id=above,chassis_nr=1", "virtio-net-pci,addr=3"),
    ] {
        let nic = format!("{nic},netdev=user,bus=above");
        let mut guest = Guest::new(&image).machine(machine).cpus(cpus);
        for word in ["-netdev", "user,id=user", "-device", bridge, "-device", &nic] {
            guest = guest.option("--qemu", word);
        }
        let outcome = guest.run();
        assert!(outcome.exited(0).contains("answered\n"), "{nic}: {}", outcome.console);
    }
}

#[test]
fn clocks_are_right_on_all_cpus() {
    needs!("gcc", "ld", "objcopy", "qemu-system-x86_64");
    let Some(set) = installed() else { return };
    let program = compile(&tools("clock", &set), "clock.c");
    let image = bake("netbsd-clock", arguments(&set, &[&program]));
    let now = || UNIX_EPOCH.elapsed().expect("a clock after 1970").as_secs();
    for cpus in [1, 4] {
        let before = now();
        let outcome = Guest::new(&image).cpus(cpus).run();
        let console = outcome.exited(0);
        let time = console.lines().find_map(|line| line.strip_prefix("in order at ")?.parse().ok());
        // The machine's clock is read to the second.
        assert!(time.is_some_and(|time: u64| (before - 2..=now() + 2).contains(&time)), "{console}");
    }
}

#[test]
fn signals_of_timers_reach_programs() {
    needs!("gcc", "ld", "objcopy", "qemu-system-x86_64");
    let Some(set) = installed() else { return };
    let program = compile(&tools("signals", &set), "signals.c");
    let image = bake("netbsd-signals", arguments(&set, &[&program]));
    for cpus in [1, 2] {
        let outcome = Guest::new(&image).cpus(cpus).run();
        // As a shell tells of SIGALRM's end.
        let console = outcome.exited(128 + 14);
        for line in [
            "late waits say so\n",
            "sleeps end\n",
            "a timer's signal is waited for\n",
            "handlers are told who sent\n",
        ] {
            assert!(console.contains(line), "{line:?} is not in:\n{console}");
        }
        assert!(console.contains("ended by signal 14\n"), "{console}");
    }
}

#[test]
fn traps_are_signals() {
    needs!("gcc", "ld", "objcopy", "qemu-system-x86_64");
    let Some((set, program)) = program_with("traps.c", &["-lm"]) else { return };
    let image = bake("netbsd-traps", arguments(&set, &[&program]));
    for cpus in [1, 2] {
        let outcome = Guest::new(&image).cpus(cpus).run();
        let console = outcome.exited(0);
        assert!(
            console.contains("memory\ninstructions\narithmetic\ncontexts\nstacks\nrounding\ncalls\n"),
            "{console}"
        );
    }
    for (word, status, line) in [
        ("memory", 128 + 11, ": ended by signal 11: memory fault at 0x"),
        ("float", 128 + 8, ": ended by signal 8: arithmetic exception at 0x"),
        ("instruction", 128 + 4, ": ended by signal 4: illegal instruction at 0x"),
        ("overflow", 128 + 11, ": ended by signal 11: memory fault at 0x"),
    ] {
        let outcome = Guest::new(&image).arguments([word]).run();
        let console = outcome.exited(status);
        assert!(console.contains(line), "{line:?} is not in:\n{console}");
    }
    // What traps in the platform or the kernel's components is a bug of theirs.
    let outcome = Guest::new(&image).arguments(["kernel"]).run();
    assert!(outcome.console.contains("kernel panic: page fault"), "{}", outcome.console);
    assert!(outcome.console.contains("__sigaction14"), "{}", outcome.console);
}

#[test]
fn threads_that_compute_get_signals() {
    needs!("gcc", "ld", "objcopy", "qemu-system-x86_64");
    let Some((set, program)) = program_with("spin.c", &["-lm"]) else { return };
    let image = bake("netbsd-spin", arguments(&set, &[&program]));
    for cpus in [1, 2] {
        let outcome = Guest::new(&image).cpus(cpus).run();
        let console = outcome.exited(0);
        assert!(console.contains("alarms\nregisters\nheld off\njumps\n"), "{console}");
    }
    let outcome = Guest::new(&image).arguments(["for ever"]).run();
    assert!(outcome.exited(128 + 14).contains(": ended by signal 14\n"));
}

#[test]
fn address_space_is_more_than_memory() {
    needs!("gcc", "ld", "objcopy", "qemu-system-x86_64");
    let Some((set, program)) = program("memory.c") else { return };
    let image = bake("netbsd-memory", arguments(&set, &[&program]));
    for (cpus, memory) in [(1, "64M"), (2, "256M")] {
        let outcome = Guest::new(&image).cpus(cpus).memory(memory).run();
        let console = outcome.exited(0);
        assert!(console.contains("no more memory\nmemory again\n"), "{console}");
        let outcome = Guest::new(&image).cpus(cpus).memory("24M").arguments(["threads"]).run();
        let console = outcome.exited(0);
        assert!(console.contains("threads came and went\n"), "{console}");
    }
    // As after SIGKILL.
    let outcome = Guest::new(&image).memory("64M").arguments(["use"]).run();
    let console = outcome.exited(128 + 9);
    assert!(console.contains("to the end\n"), "{console}");
    assert!(console.contains(": ended by signal 9: no memory for a page at its first use"), "{console}");
}

#[test]
fn too_little_memory_is_said() {
    needs!("gcc", "ld", "objcopy", "qemu-system-x86_64");
    let Some((set, program)) = program("hello.c") else { return };
    let image = bake("netbsd-too-small", arguments(&set, &[&program]));
    let mut refused = 0;
    for memory in (4500..8500).step_by(400) {
        let outcome = Guest::new(&image).memory(&format!("{memory}K")).run();
        if outcome.ending == Ending::Exited(7) {
            continue;
        }
        refused += 1;
        let said = ["cannot boot: too little memory", "cannot start: ", "panic: "];
        assert!(said.iter().any(|words| outcome.console.contains(words)), "{memory}K: {outcome:?}");
    }
    assert!((1..10).contains(&refused), "{refused} sizes of memory are refused");
}

#[test]
fn an_image_runs_in_little_memory() {
    needs!("gcc", "ld", "objcopy", "qemu-system-x86_64");
    let Some((set, program)) = own_set() else { return };
    let mut words = arguments(set, &[program]);
    words.extend(["--components".into(), "rumpnet_loop".into()]);
    let image = bake("netbsd-small", words);
    Guest::new(&image).memory("8M").run().exited(1);
}
