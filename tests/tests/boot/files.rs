//! Files and names on every file system of an image: the same results and the same errors as on Linux.

use std::{fs, path::Path};

use tests::{Guest, bake, checkout, needs, programs::on_host, scratch};

#[test]
fn files_behave_as_on_linux() {
    needs!("/usr/bin/python3", "e2fsck");
    let program = checkout().join("tests/programs/files.py");
    let folder = scratch().join(format!("files-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a scratch folder");
    fs::copy(&program, folder.join("files.py")).expect("a program of ours");
    let here = tempfile::tempdir().expect("a temporary folder");
    let (program, place) = (program.to_string_lossy(), here.path().to_string_lossy());
    let (output, status) = on_host(Path::new("/usr/bin/python3"), &[&program, &place]);
    assert_eq!(status, 0, "{output}");

    let disk = here.path().join("disk.raw");
    fs::File::create(&disk).and_then(|file| file.set_len(64 << 20)).expect("a disk");
    let configuration = here.path().join("image.toml");
    let mount = "[[mount]]\nsource = \"/dev/vda\"\ntarget = \"/data\"\ntype = \"ext4\"\nformat = true\n";
    fs::write(&configuration, mount).expect("a configuration");
    let rootfs = format!("{}:/scripts", folder.display());
    let configuration = configuration.to_string_lossy();
    let image = bake(
        "files",
        ["/usr/bin/python3", "--package", "python3", "--rootfs", &rootfs, "--config", &configuration],
    );
    // The overlay on the image, a tmpfs, and the disk: formatted first, then found as it was left.
    for place in ["/root", "/tmp", "/data", "/data"] {
        let guest = Guest::new(&image).cpus(2).memory("512M").timeout(120).disk(&disk);
        assert_eq!(guest.arguments(["/scripts/files.py", place]).run().exited(0), output, "in {place}");
    }
    let fsck =
        std::process::Command::new("e2fsck").args(["-f", "-n"]).arg(&disk).output().expect("e2fsck starts");
    assert!(fsck.status.success(), "{}", String::from_utf8_lossy(&fsck.stdout));
}
