//! Root file systems with everything that a folder can hold.

use std::{
    ffi::OsStr,
    fs::{self, File},
    os::unix::{ffi::OsStrExt, fs::symlink, net::UnixListener},
    process::Command,
};

use crate::support::Bench;

#[track_caller]
fn listing(bench: &Bench) -> String {
    bench.succeeds(["inspect", "--files", "out.elf"])
}

#[test]
fn odd_files_are_kept_or_named() {
    let bench = Bench::new();
    bench.file("tree/etc/motd", "hello\n");
    let odd = OsStr::from_bytes(b"tree/na\xffme");
    bench.file(odd, "not UTF-8");
    symlink("loop-b", bench.path("tree/loop-a")).expect("made");
    symlink("loop-a", bench.path("tree/loop-b")).expect("made");
    symlink("..", bench.path("tree/etc/up")).expect("made");
    symlink("/nowhere", bench.path("tree/dangling")).expect("made");
    fs::hard_link(bench.path("tree/etc/motd"), bench.path("tree/motd")).expect("made");
    let _socket = UnixListener::bind(bench.path("tree/socket")).expect("bound");
    let status = Command::new("mkfifo").arg(bench.path("tree/fifo")).status().expect("mkfifo starts");
    assert!(status.success());
    let output = bench.run(["bake", "hw_direct", "out.elf", "ls", "--rootfs", "tree"]);
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{messages}");
    assert!(messages.contains("warning: tree/socket: a socket"), "{messages}");
    let files = listing(&bench);
    for line in ["loop-a -> loop-b", "/etc/up -> ..", "/dangling -> /nowhere", "/na\u{fffd}me", " /motd"] {
        assert!(files.contains(line), "{line}:\n{files}");
    }
    assert!(files.lines().any(|line| line.starts_with('p') && line.ends_with("/fifo")), "{files}");
    assert!(!files.contains("/socket"), "{files}");
}

#[test]
fn device_nodes_are_kept() {
    let bench = Bench::new();
    fs::create_dir(bench.path("tree")).expect("made");
    let node = bench.path("tree/disk");
    let made = Command::new("mknod").arg(&node).args(["b", "7", "3"]).output().expect("mknod starts");
    if !made.status.success() {
        println!("skipped: only root makes device nodes");
        return;
    }
    bench.succeeds(["-q", "bake", "hw_direct", "out.elf", "ls", "--rootfs", "tree"]);
    let files = listing(&bench);
    assert!(files.lines().any(|line| line.starts_with('b') && line.ends_with("/disk")), "{files}");
}

#[test]
fn a_gigabyte_is_streamed() {
    let bench = Bench::new();
    fs::create_dir(bench.path("tree")).expect("made");
    // A sparse file costs the host nothing; the image has every byte of it.
    File::create(bench.path("tree/big")).and_then(|file| file.set_len(1 << 30)).expect("made");
    let script = "ulimit -v 300000; exec \"$0\" -q bake hw_direct out.elf ls --rootfs tree";
    let tool = bench.command();
    let output = Command::new("bash")
        .args(["-c", script, env!("CARGO_BIN_EXE_rumprun-bake")])
        .current_dir(bench.path(""))
        .envs(tool.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .output()
        .expect("bash starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(fs::metadata(bench.path("out.elf")).expect("made").len() > 1 << 30);
    assert!(listing(&bench).contains("1073741824 /big"));
}

#[test]
fn too_much_is_refused() {
    let bench = Bench::new();
    fs::create_dir(bench.path("tree")).expect("made");
    File::create(bench.path("tree/big")).and_then(|file| file.set_len(3 << 30)).expect("made");
    let message = bench.fails(["bake", "hw_direct", "out.elf", "ls", "--rootfs", "tree"]);
    assert!(message.contains("2048 MiB is the most"), "{message}");
    assert!(!bench.path("out.elf").exists());
}

#[test]
fn trees_go_where_they_are_told() {
    let bench = Bench::new();
    bench.file("site/index.html", "hi");
    bench.file("base/etc/hostname", "mine\n");
    let rootfs = ["--rootfs", "site:/srv/www", "--rootfs", "base"];
    bench.succeeds(["-q", "bake", "hw_direct", "out.elf", "ls"].iter().chain(&rootfs));
    let files = listing(&bench);
    assert!(files.contains("/srv/www/index.html") && files.contains(" 5 /etc/hostname"), "{files}");
}

#[test]
fn libraries_of_a_tree_are_followed() {
    let bench = Bench::new();
    bench.file("tree/opt/plugin.so", fs::read("/bin/ls").expect("readable"));
    let hello = bench.file("quiet", "#!/bin/busybox sh\n");
    if !std::path::Path::new("/bin/busybox").exists() {
        println!("skipped: busybox is not installed");
        return;
    }
    let hello = hello.display().to_string();
    bench.succeeds(["-q", "bake", "hw_direct", "out.elf", &hello, "--rootfs", "tree"]);
    let files = listing(&bench);
    assert!(files.contains("libc.so.6") && files.contains("/ld.so.cache"), "{files}");
}

#[test]
fn an_image_does_not_hold_itself() {
    let bench = Bench::new();
    let bake = || {
        bench.succeeds(["-q", "bake", "hw_direct", "out.elf", "ls", "--rootfs", ".:/project"]);
        fs::read(bench.path("out.elf")).expect("made")
    };
    let first = bake();
    assert!(!listing(&bench).contains("out.elf") && !listing(&bench).contains(".rumprun-bake-"));
    assert!(first == bake(), "the second image differs");
}

/// Builds a C program or library with the host's compiler.
#[track_caller]
fn compile(bench: &Bench, source: &str, arguments: &[&str]) {
    bench.file("source.c", source);
    let mut command = Command::new("cc");
    command.current_dir(bench.path("")).arg("source.c").args(arguments);
    assert!(command.status().expect("cc starts").success());
}

#[test]
fn search_paths_of_programs_and_libraries_are_followed() {
    let bench = Bench::new();
    fs::create_dir_all(bench.path("lib/inner")).expect("made");
    compile(&bench, "int inner(void) { return 1; }", &["-shared", "-fPIC", "-o", "lib/inner/libinner.so"]);
    let runpath = "-Wl,--enable-new-dtags,-rpath,$ORIGIN/inner";
    let library = ["-shared", "-fPIC", "-o", "lib/libouter.so", "-Llib/inner", "-linner", runpath];
    compile(&bench, "int inner(void); int outer(void) { return inner(); }", &library);
    let rpath = "-Wl,--disable-new-dtags,-rpath,${ORIGIN}/lib";
    let more = ["-o", "app", "-Llib", "-louter", "-Wl,-rpath-link,lib/inner", rpath];
    compile(&bench, "int outer(void); int main(void) { return outer(); }", &more);
    // The folder is under /tmp, which is mounted over at run time: the program moves, and its libraries with it.
    bench.succeeds(["-q", "bake", "hw_direct", "out.elf", "./app"]);
    let files = listing(&bench);
    for path in ["bin/app", "bin/lib/libouter.so", "bin/lib/inner/libinner.so"] {
        assert!(files.contains(&format!(" /usr/local/{path}\n")), "{path}:\n{files}");
    }
    fs::remove_file(bench.path("lib/inner/libinner.so")).expect("removed");
    let message = bench.fails(["bake", "hw_direct", "out.elf", "./app"]);
    assert!(
        message.contains("libinner.so: not found, and /usr/local/bin/lib/libouter.so needs it"),
        "{message}"
    );
}

#[test]
fn a_signal_leaves_nothing_behind() {
    let bench = Bench::new();
    fs::create_dir(bench.path("tree")).expect("made");
    File::create(bench.path("tree/big")).and_then(|file| file.set_len(1 << 30)).expect("made");
    for format in ["elf", "raw"] {
        let arguments = ["-q", "bake", "hw_direct", "out.img", "ls", "--rootfs", "tree", "--format", format];
        let mut child = bench.command().args(arguments).spawn().expect("starts");
        let begun = || {
            let names = bench.listing();
            names.iter().filter(|name| name.starts_with(".rumprun-bake-")).count()
                > usize::from(format == "raw")
        };
        while !begun() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let status = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        assert!(status.expect("kill starts").success());
        assert_eq!(child.wait().expect("ends").code(), Some(128 + 15));
        assert_eq!(bench.listing(), ["tree"], "{format}");
    }
}
