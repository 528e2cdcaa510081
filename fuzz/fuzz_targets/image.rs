//! What the kernel reads of an image: payload, configuration, symbols, root file system; and the manifest.
#![no_main]

use image::{
    compressed::CLUSTER,
    config::Configuration,
    payload::Payload,
    rootfs::{Data, RootFs},
    symbols,
};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(payload) = Payload::parse(bytes) {
        let _ = postcard::from_bytes::<Configuration>(payload.configuration());
        symbols::find(payload.symbols(), symbols::BASE + 1);
        walk(payload.rootfs());
    }
    let _ = postcard::from_bytes::<Configuration>(bytes);
    symbols::find(bytes, symbols::BASE + 0x1000);
    walk(bytes);
    toolchain::manifest::from_notes(bytes);
    let mut file = std::io::Cursor::new(bytes);
    let _ = toolchain::inspect::read(&mut file, bytes.len() as u64, std::path::Path::new("image"));
});

fn walk(bytes: &[u8]) {
    let Ok(rootfs) = RootFs::parse(bytes) else { return };
    let mut cluster = vec![0; CLUSTER];
    for number in 0..rootfs.inode_count().min(1000) {
        let Some(inode) = rootfs.inode(number as u32) else { continue };
        rootfs.target(inode);
        if let Some(Data::Compressed(compressed)) = rootfs.data(inode) {
            for index in 0..4 {
                let _ = compressed.cluster(index, &mut cluster);
            }
        }
        for entry in rootfs.entries(inode).iter().take(1000) {
            rootfs.name(entry);
        }
        rootfs.lookup(inode, b"name");
    }
}
