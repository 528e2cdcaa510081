//! `deploy`: what each engine gets is judged by the engine's own checker, parser or types, where they can be had.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

use crate::support::Bench;

/// Arguments that every language must quote.
const AWKWARD: &str = "a <b> & \"c\" $HOME ${x} %{y} %h it's \\ \u{e9},=";
/// The same as the kernel's command line has it.
const RENDERED: &str = "a\\ <b>\\ &\\ \"c\"\\ $HOME\\ ${x}\\ %{y}\\ %h\\ it's\\ \\\\\\ \\xc3\\xa9,=";

/// A folder with `web.elf`, `web.raw`, `web.iso` and a disk. The last three are no more than their first sectors.
fn bench() -> Bench {
    let bench = Bench::new();
    bench.succeeds(["bake", "hw_direct", "web.elf", "ls"]);
    let mut sector = vec![0; 512];
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    bench.file("web.raw", &sector);
    let mut volume = vec![0; 0x9000];
    volume[0x8001..0x8006].copy_from_slice(b"CD001");
    bench.file("web.iso", volume);
    bench.file("data disk,1.img", vec![0; 3 << 20]);
    bench
}

#[track_caller]
fn deployed(bench: &Bench, engine: &str, words: &[&str]) -> String {
    bench.succeeds(["-q", "deploy", "--for", engine].iter().chain(words))
}

/// Runs a checker; `None`, after saying so, if it isn't there.
fn checker(program: &str, arguments: &[&OsStr], folder: &Path) -> Option<Output> {
    match Command::new(program).args(arguments).current_dir(folder).output() {
        Ok(output) => Some(output),
        Err(error) => {
            println!("skipped: {program}: {error}");
            None
        }
    }
}

/// Installs a checker from a registry with `command`; false, after saying so, if that can't be done.
fn installed(mut command: Command) -> bool {
    let works = command.output().is_ok_and(|output| output.status.success());
    if !works {
        println!("skipped: {command:?} does not work here");
    }
    works
}

#[test]
fn libvirt_accepts_its_xml() {
    let bench = bench();
    let nets =
        ["--bridge", "br0,queues=2", "--tap", "tap0,address=10.0.0.2/24", "--publish", "127.0.0.1:8080:80"];
    let all =
        [&["web.elf", "--cpus", "2"], &nets[..], &["--disk", "data disk,1.img", "--", AWKWARD, ""]].concat();
    let text = deployed(&bench, "libvirt", &all);
    assert!(
        text.contains("<target dev=\"tap0\" managed=\"no\"/>") && text.contains("queues=\"2\""),
        "{text}"
    );
    for (name, text) in [
        ("elf.xml", text),
        ("raw.xml", deployed(&bench, "libvirt", &["web.raw", "--net", "user", "--", AWKWARD])),
        ("iso.xml", deployed(&bench, "libvirt", &["web.iso", "--bridge", "br0,model=e1000e"])),
    ] {
        bench.file(name, text);
        let arguments = [name.as_ref(), "domain".as_ref()];
        let Some(output) = checker("virt-xml-validate", &arguments, &bench.path("")) else { return };
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let Some(line) = checker(
            "xmllint",
            &["--xpath".as_ref(), "string(//cmdline|//entry)".as_ref(), name.as_ref()],
            &bench.path(""),
        ) else {
            return;
        };
        if name != "iso.xml" {
            assert!(String::from_utf8_lossy(&line.stdout).contains(RENDERED), "{name}: {line:?}");
        }
    }
    // The checker does refuse.
    bench.file("bad.xml", "<domain type=\"kvm\"><name>x</name><colour/></domain>");
    let output = checker("virt-xml-validate", &["bad.xml".as_ref(), "domain".as_ref()], &bench.path(""));
    assert!(output.is_some_and(|output| !output.status.success()));
}

/// Reads a configuration with Xen's own parser, which xl uses.
const XL: &str = r#"
import ctypes, glob, sys
libraries = glob.glob("/usr/lib/x86_64-linux-gnu/libxlutil.so*")
if not libraries:
    sys.exit(77)
library, libc = ctypes.CDLL(libraries[0]), ctypes.CDLL(None)
libc.fdopen.restype = library.xlu_cfg_init.restype = ctypes.c_void_p
stderr = ctypes.c_void_p(libc.fdopen(2, b"w"))
configuration = ctypes.c_void_p(library.xlu_cfg_init(stderr, b"test"))
if library.xlu_cfg_readfile(configuration, sys.argv[1].encode()):
    sys.exit(1)
text = ctypes.c_char_p()
for key in sys.argv[2:]:
    if library.xlu_cfg_get_string(configuration, key.encode(), ctypes.byref(text), 0) == 0:
        print(f"{key}={text.value.decode()}")
        continue
    items = ctypes.c_void_p()
    if library.xlu_cfg_get_list(configuration, key.encode(), ctypes.byref(items), None, 0) == 0:
        library.xlu_cfg_get_listitem.restype = ctypes.c_char_p
        print(f"{key}={library.xlu_cfg_get_listitem(items, 0).decode()}")
"#;

#[test]
fn xen_reads_its_configuration() {
    let bench = bench();
    let nets = ["--bridge", "br0,mac=00:16:3e:00:00:01", "--bridge", "br1", "--disk", "data disk,1.img"];
    let words = [&["web.elf", "--cpus", "3"], &nets[..], &["--", AWKWARD]].concat();
    bench.file("elf.cfg", deployed(&bench, "xl", &words));
    bench.file("image.qcow2", b"QFI\xfb\0\0\0\x03");
    let routed =
        ["--bridge", "br0,mac=00:16:3e:00:00:01,script=vif-route,address=10.0.0.2/24,address=fd00::2/64"];
    let words = [&["web.elf", "--disk", "image.qcow2"], &routed[..]].concat();
    bench.file("routed.cfg", deployed(&bench, "xl", &words));
    let words =
        ["web.raw", "--bridge", "br0,mac=00:16:3e:00:00:01", "--disk", "data disk,1.img", "--pci", "05:1f.7"];
    bench.file("raw.cfg", deployed(&bench, "xl", &words));
    let read = |name: &str, keys: &[&str]| {
        let arguments: Vec<&OsStr> =
            ["-c", XL, name].into_iter().chain(keys.iter().copied()).map(OsStr::new).collect();
        let output = checker("python3", &arguments, &bench.path(""))?;
        match output.status.code() {
            Some(77) => println!("skipped: no libxlutil (libxenmisc) here"),
            _ => return Some(String::from_utf8_lossy(&output.stdout).into_owned()),
        }
        None
    };
    let keys = ["name", "type", "vcpus", "on_poweroff", "on_reboot", "on_crash", "disk", "cmdline", "vif"];
    let Some(text) = read("elf.cfg", &keys) else { return };
    let network = "network=eth0,mac=00:16:3e:00:00:01 network=eth1,mac=";
    let expected = format!(
        "name=web\ntype=pvh\nvcpus=3\non_poweroff=destroy\non_reboot=restart\non_crash=destroy\n\
         disk=format=raw, vdev=xvda, access=rw, target={}\ncmdline={network}",
        bench.path("data disk,1.img").display()
    );
    assert!(text.starts_with(&expected), "{text}");
    let end = format!(" -- {RENDERED}\nvif=type=vif, mac=00:16:3e:00:00:01, bridge=br0\n");
    assert!(text.ends_with(&end), "{text}");
    let text = read("routed.cfg", &["disk", "vif"]).expect("as before");
    let expected = "vif=type=vif, mac=00:16:3e:00:00:01, bridge=br0, script=vif-route, ip=10.0.0.2 fd00::2\n";
    assert!(text.starts_with("disk=format=qcow2, ") && text.ends_with(expected), "{text}");
    let keys = ["type", "boot", "hdtype", "vga", "disk", "vif", "pci"];
    let text = read("raw.cfg", &keys).expect("as before");
    let expected = "type=hvm\nboot=c\nhdtype=ahci\nvga=none\ndisk=format=raw, vdev=hda, access=rw, target=/";
    assert!(text.starts_with(expected), "{text}");
    assert!(text.ends_with("vif=type=vif, mac=00:16:3e:00:00:01, bridge=br0\npci=05:1f.7\n"), "{text}");
    let text = fs::read_to_string(bench.path("raw.cfg")).expect("it was written");
    assert!(text.contains("\"format=raw, vdev=xvdg, access=rw, target=/"), "{text}");
    bench.file("bad.cfg", "name = \"x\nvcpus = [");
    assert_eq!(read("bad.cfg", &["name"]).as_deref(), Some(""));
}

#[test]
fn firecracker_has_these_fields() {
    let bench = bench();
    let words = ["web.elf", "--cpus", "2", "--memory", "256M", "--tap", "tap0", "--disk", "data disk,1.img"];
    let text = deployed(&bench, "firecracker", &[&words[..], &["--", AWKWARD]].concat());
    let value: Value = serde_json::from_str(&text).expect("JSON");
    // The fields of Firecracker's API description; it refuses others, and files without the required ones (`!`).
    let resources: [(&str, &[&str]); 4] = [
        ("boot-source", &["!kernel_image_path", "boot_args", "initrd_path"]),
        (
            "machine-config",
            &["!vcpu_count", "!mem_size_mib", "smt", "cpu_template", "track_dirty_pages", "huge_pages"],
        ),
        (
            "drives",
            &[
                "!drive_id",
                "!is_root_device",
                "partuuid",
                "cache_type",
                "is_read_only",
                "path_on_host",
                "rate_limiter",
                "io_engine",
                "socket",
            ],
        ),
        (
            "network-interfaces",
            &["!iface_id", "!host_dev_name", "guest_mac", "rx_rate_limiter", "tx_rate_limiter"],
        ),
    ];
    let keys: Vec<&String> = value.as_object().expect("an object").keys().collect();
    assert!(keys.iter().all(|key| resources.iter().any(|(name, _)| name == key)), "{keys:?}");
    for (name, fields) in resources {
        let one = std::slice::from_ref(&value[name]);
        for object in value[name].as_array().map_or(one, Vec::as_slice) {
            let object = object.as_object().expect("an object");
            let known = |key: &str| fields.iter().any(|field| field.trim_start_matches('!') == key);
            assert!(object.keys().all(|key| known(key)), "{name}: {object:?}");
            let required = fields.iter().filter_map(|field| field.strip_prefix('!'));
            assert!({ required }.all(|field| object.contains_key(field)), "{name}: {object:?}");
        }
    }
    let interface = &value["network-interfaces"][0];
    assert_eq!((&interface["host_dev_name"], &interface["iface_id"]), (&"tap0".into(), &"eth0".into()));
    assert_eq!(value["drives"][0]["is_root_device"], false);
    assert_eq!(value["boot-source"]["boot_args"], format!("-- {RENDERED}"));
    assert_eq!(value["machine-config"]["mem_size_mib"], 256);
}

#[test]
fn cloud_hypervisors_command_is_one_for_a_shell() {
    let bench = bench();
    let disk = bench.file("it's a disk.img", vec![0; 1 << 20]);
    let words =
        ["web.elf", "--cpus", "2", "--tap", "tap0,queues=2", "--tap", "tap1", "--disk", "it's a disk.img"];
    let command = deployed(&bench, "cloud-hypervisor", &[&words[..], &["--", AWKWARD]].concat());
    let stand_in = bench.file("bin/cloud-hypervisor", "#!/bin/sh\nprintf '%s\\n' \"$@\"\n");
    fs::set_permissions(stand_in, fs::Permissions::from_mode(0o755)).expect("set");
    let path = format!("{}:/usr/bin:/bin", bench.path("bin").display());
    let output = Command::new("sh").args(["-c", &command]).env("PATH", path).output().expect("a shell");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let behind = |option: &str| {
        let at = lines.iter().position(|line| *line == option).unwrap_or_else(|| panic!("{option}: {text}"));
        lines[at + 1..]
            .iter()
            .take_while(|line| !line.starts_with("--") || line.starts_with("-- "))
            .copied()
            .collect::<Vec<_>>()
    };
    assert_eq!(behind("--cpus"), ["boot=2"]);
    let image = bench.path("web.elf").display().to_string();
    assert_eq!(behind("--kernel"), [image.as_str()]);
    let cmdline = behind("--cmdline").join("\n");
    assert!(
        cmdline.starts_with("network=eth0,mac=") && cmdline.ends_with(&format!("-- {RENDERED}")),
        "{cmdline}"
    );
    assert_eq!(behind("--disk"), [format!("path={}", disk.display())]);
    let nets = behind("--net");
    assert!(nets[0].starts_with("tap=tap0,mac=52:54:00:") && nets[0].ends_with(",num_queues=4"), "{nets:?}");
    assert!(nets[1].ends_with(",num_queues=2"), "{nets:?}");
}

#[test]
fn kubevirts_types_accept_its_yaml() {
    let bench = bench();
    let mut programs = String::from(
        "import type { V1VirtualMachine } from \"@kubevirt-ui/kubevirt-api/kubevirt/models/V1VirtualMachine\";\n",
    );
    let nets = ["--publish", "80:8080", "--publish", "53:53/udp", "--bridge", "prod,queues=2"];
    let elf =
        [&["web.elf", "--cpus", "2", "--disk", "data disk,1.img"], &nets[..], &["--", AWKWARD]].concat();
    for words in [elf.as_slice(), &["web.raw", "--publish", "80:80"], &["web.iso"]] {
        let text = deployed(&bench, "kubevirt", words);
        let mut documents = Vec::new();
        for document in serde_yaml_ng::Deserializer::from_str(&text) {
            let value: Value = serde::Deserialize::deserialize(document).expect("YAML");
            documents.push(value);
        }
        let kinds: Vec<_> = documents.iter().filter_map(|document| document["kind"].as_str()).collect();
        let expected: &[&str] = match words[0] {
            "web.elf" => &["VirtualMachine", "PersistentVolumeClaim", "Service"],
            "web.raw" => &["VirtualMachine", "Service"],
            _ => &["VirtualMachine"],
        };
        assert_eq!(kinds, expected);
        if words[0] == "web.elf" {
            let boot = &documents[0]["spec"]["template"]["spec"]["domain"]["firmware"]["kernelBoot"];
            assert!(
                boot["kernelArgs"].as_str().is_some_and(|line| line.ends_with(&format!("-- {RENDERED}")))
            );
            assert_eq!(documents[1]["spec"]["resources"]["requests"]["storage"], "3Mi");
            assert_eq!(documents[2]["spec"]["ports"][0]["targetPort"], 8080);
        }
        let name = words[0].replace('.', "_");
        programs += &format!("export const {name}: V1VirtualMachine = {};\n", documents[0]);
    }
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]).arg(bench.path("types"));
    if !installed({
        npm.args(["@kubevirt-ui/kubevirt-api@1", "typescript@5"]);
        npm
    }) {
        return;
    }
    let compile = |program: &str| {
        bench.file("types/machine.ts", program);
        let options =
            "--noEmit --strict --skipLibCheck --moduleResolution bundler --module esnext --target es2022";
        let mut command = Command::new(bench.path("types/node_modules/.bin/tsc"));
        command.args(options.split(' ')).arg("machine.ts").current_dir(bench.path("types"));
        command.output().expect("the compiler starts")
    };
    let output = compile(&programs);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    // They do refuse.
    let output = compile(&programs.replace("kernelPath", "kernelPaht"));
    assert!(String::from_utf8_lossy(&output.stdout).contains("kernelPaht"));
}

#[test]
fn container_disks_are_oci_images() {
    let bench = bench();
    let write = |image: &str, archive: &str| {
        let words = [image, "--container-disk", archive, "--reference", "registry:5000/team/web:7"];
        deployed(&bench, "kubevirt", &words)
    };
    let text = write("web.elf", "web.tar");
    assert!(text.contains("image: registry:5000/team/web:7") && text.contains("/boot/web.elf"), "{text}");
    write("web.elf", "again.tar");
    assert_eq!(
        fs::read(bench.path("web.tar")).expect("written"),
        fs::read(bench.path("again.tar")).expect("written")
    );
    assert!(write("web.raw", "raw.tar").contains("path: /disk/web.img"));
    for (archive, image, inside) in
        [("web.tar", "web.elf", "boot/web.elf"), ("raw.tar", "web.raw", "disk/web.img")]
    {
        let folder = format!("{archive}.copy");
        let (from, to) = (format!("oci-archive:{archive}"), format!("dir:{folder}"));
        let copy = ["copy", "--insecure-policy", &from, &to].map(OsStr::new);
        let Some(output) = checker("skopeo", &copy, &bench.path("")) else { return };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let manifest = fs::read_to_string(bench.path(&folder).join("manifest.json")).expect("copied");
        let manifest: Value = serde_json::from_str(&manifest).expect("JSON");
        let digest = manifest["layers"][0]["digest"].as_str().and_then(|text| text.strip_prefix("sha256:"));
        let layer = bench.path(&folder).join(digest.expect("a digest"));
        let file = checker("tar", &["xzOf".as_ref(), layer.as_os_str(), inside.as_ref()], &bench.path(""));
        assert!(file.expect("tar").stdout == fs::read(bench.path(image)).expect("there"), "{archive}");
        let listing = checker("tar", &["tvzf".as_ref(), layer.as_os_str()], &bench.path("")).expect("tar");
        let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
        assert!(listing.contains("-r--r----- 107/107"), "{listing}");
    }
}

#[test]
fn nomads_language_reads_its_job() {
    let bench = bench();
    let words =
        ["web.raw", "--cpus", "2", "--publish", "8080:80", "--disk", "data disk,1.img", "--", AWKWARD];
    bench.file("web.hcl", deployed(&bench, "nomad", &words));
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--target"]).arg(bench.path("parser")).arg("python-hcl2");
    if !installed(pip) {
        return;
    }
    let program = "import hcl2, json; print(json.dumps(hcl2.load(open('web.hcl'))))";
    let mut command = Command::new("python3");
    command.args(["-c", program]).env("PYTHONPATH", bench.path("parser")).current_dir(bench.path(""));
    let output = command.output().expect("python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let job: Value = serde_json::from_str(&text).expect("JSON");
    // Versions of the parser differ in whether names of blocks keep their quotes.
    fn find<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
        match value {
            Value::Object(map) => map
                .iter()
                .find(|(name, _)| name.trim_matches('"') == key)
                .map(|(_, value)| value)
                .or_else(|| map.values().find_map(|value| find(value, key))),
            Value::Array(list) => list.iter().find_map(|value| find(value, key)),
            _ => None,
        }
    }
    assert_eq!(find(&job, "cores"), Some(&2.into()), "{text}");
    assert_eq!(find(&job, "static"), Some(&8080.into()), "{text}");
    let arguments = find(&job, "args").expect("arguments").to_string();
    assert!(arguments.contains("hostfwd=tcp::8080-:80"), "{arguments}");
    assert!(arguments.contains("data disk,,1.img"), "{arguments}");
    assert!(arguments.contains("$${x}") && arguments.contains("%%{y}"), "{arguments}");
}

#[test]
fn systemd_accepts_its_unit() {
    let bench = bench();
    let words =
        ["web.elf", "--publish", "80:80", "--tap", "tap0", "--disk", "data disk,1.img", "--env", "A=1 2"];
    let text = deployed(&bench, "systemd", &[&words[..], &["--", AWKWARD]].concat());
    assert!(text.contains("CAP_NET_ADMIN CAP_NET_BIND_SERVICE"), "{text}");
    bench.file("web.service", &text);
    let verify =
        |name: &str| checker("systemd-analyze", &["verify".as_ref(), name.as_ref()], &bench.path(""));
    let Some(output) = verify("./web.service") else { return };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !said.contains("web.service"), "{said}");
    bench.file("bad.service", text.replace("KillMode=mixed", "KillMode=sometimes"));
    let said = verify("./bad.service").expect("as before").stderr;
    assert!(String::from_utf8_lossy(&said).contains("sometimes"));
}

#[test]
fn what_an_engine_cannot_is_refused() {
    let bench = bench();
    for (engine, words, part) in [
        ("firecracker", &["web.raw"][..], "bake with --format elf"),
        ("firecracker", &["web.elf", "--publish", "80:80"], "use --tap"),
        ("firecracker", &["web.elf", "--bridge", "br0"], "ip link set TAP master br0"),
        ("firecracker", &["web.elf", "--tap", "tap0", "--queues", "2"], "one queue"),
        ("firecracker", &["web.elf", "--cpus", "33"], "at most 32"),
        ("cloud-hypervisor", &["web.iso"], "bake with --format elf"),
        ("cloud-hypervisor", &["web.elf", "--tap", "t", "--nic", "e1000"], "virtio NICs only"),
        ("cloud-hypervisor", &["web.elf", "--disk", "data disk,1.img"], "no commas"),
        ("nomad", &["web.elf"], "bake with --format raw"),
        ("nomad", &["web.raw", "--bridge", "br0", "--queues", "2"], "one queue"),
        ("xl", &["web.elf", "--bridge", "br0", "--nic", "e1000"], "no e1000"),
        ("xl", &["web.elf", "--publish", "80:80"], "use --bridge"),
        ("xl", &["web.raw", "--tap", "tap0"], "use --bridge"),
        ("xl", &["web.raw", "--", "x"], "bake them"),
        ("xl", &["web.raw", "--bridge", "br0", "--nic", "e1000"], "no e1000"),
        ("xl", &["web.elf", "--pci", "05:00.0"], "HVM domains only"),
        ("xl", &["web.raw", "--pci", "05:20.0"], "0000:05:00.0"),
        ("libvirt", &["web.raw", "--pci", "05:00.0"], "is for xl"),
        ("kubevirt", &["web.elf", "--tap", "tap0"], "--bridge NETWORK"),
        ("kubevirt", &["web.raw", "--", "x"], "bake them"),
        ("kubevirt", &["web.elf", "--container-disk", "no/such/x.tar"], "no/such/x.tar: cannot be written"),
        ("libvirt", &["web.elf", "--net", "socket=/x"], "passt"),
        ("libvirt", &["web.elf", "--reference", "x"], "are for KubeVirt"),
        ("libvirt", &["absent.elf"], "absent.elf"),
        ("libvirt", &["data disk,1.img"], "not an image"),
        ("libvirt", &["web.elf", "--disk", "absent.img"], "absent.img"),
        ("libvirt", &["web.elf", "--name", "A B"], "small letters"),
        ("systemd", &["web.elf", "--publish", "80:80", "--publish", "80:81"], "want the same port"),
    ] {
        let message = bench.fails(["deploy", "--for", engine].iter().chain(words));
        assert!(message.contains(part), "{engine} {words:?}: {message}");
    }
    let long = "x".repeat(3000);
    let message = bench.fails(["deploy", "--for", "libvirt", "web.elf", "--", &long]);
    assert!(message.contains("bake them"), "{message}");
}
