//! QEMU's firmware configuration device: the launcher's additions to the command line.

use alloc::{string::String, vec};

use image::machine::{COMMAND_LINE_FILE, COMMAND_LINE_LIMIT};

use crate::port;

const SELECTOR: u16 = 0x510;
const DATA: u16 = 0x511;
const SIGNATURE: u16 = 0;
const DIRECTORY: u16 = 0x19;
/// Bytes of a directory entry: size (big-endian), selector (big-endian), reserved, name.
const ENTRY: usize = 64;
const NAME: usize = 8;
/// More files than any QEMU has.
const MOST_FILES: u32 = 1024;

/// Whether the device is there.
pub fn present() -> bool {
    let mut word = [0; 4];
    port::write16(SELECTOR, SIGNATURE);
    port::read_bytes(DATA, &mut word);
    word == *b"QEMU"
}

/// The text of the launcher's file; `None` without the device or the file.
pub fn command_line() -> Option<String> {
    if !present() {
        return None;
    }
    let mut word = [0; 4];
    port::write16(SELECTOR, DIRECTORY);
    port::read_bytes(DATA, &mut word);
    for _ in 0..u32::from_be_bytes(word).min(MOST_FILES) {
        let mut entry = [0; ENTRY];
        port::read_bytes(DATA, &mut entry);
        let name = entry[NAME..].split(|byte| *byte == 0).next().unwrap_or_default();
        if name == COMMAND_LINE_FILE.as_bytes() {
            let size = u32::from_be_bytes([entry[0], entry[1], entry[2], entry[3]]) as usize;
            let mut text = vec![0; size.min(COMMAND_LINE_LIMIT)];
            port::write16(SELECTOR, u16::from_be_bytes([entry[4], entry[5]]));
            port::read_bytes(DATA, &mut text);
            // A string that was passed with its terminator.
            text.truncate(text.iter().position(|byte| *byte == 0).unwrap_or(text.len()));
            return String::from_utf8(text).ok();
        }
    }
    None
}
