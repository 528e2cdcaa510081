//! Terminal settings: the kernel's `struct termios` and `struct termios2` (x86-64), and their bits.
#![allow(missing_docs, reason = "the constants are those of termios(3)")]

pub const IGNBRK: u32 = 0o1;
pub const BRKINT: u32 = 0o2;
pub const ISTRIP: u32 = 0o40;
pub const INLCR: u32 = 0o100;
pub const IGNCR: u32 = 0o200;
pub const ICRNL: u32 = 0o400;
pub const IUCLC: u32 = 0o1000;
pub const IXON: u32 = 0o2000;
pub const IXANY: u32 = 0o4000;
pub const IMAXBEL: u32 = 0o20000;
pub const IUTF8: u32 = 0o40000;

pub const OPOST: u32 = 0o1;
pub const OLCUC: u32 = 0o2;
pub const ONLCR: u32 = 0o4;
pub const OCRNL: u32 = 0o10;
pub const ONOCR: u32 = 0o20;
pub const ONLRET: u32 = 0o40;
pub const XTABS: u32 = 0o14000;

pub const B38400: u32 = 0o17;
pub const CS8: u32 = 0o60;
pub const CREAD: u32 = 0o200;
pub const HUPCL: u32 = 0o2000;

pub const ISIG: u32 = 0o1;
pub const ICANON: u32 = 0o2;
pub const ECHO: u32 = 0o10;
pub const ECHOE: u32 = 0o20;
pub const ECHOK: u32 = 0o40;
pub const ECHONL: u32 = 0o100;
pub const NOFLSH: u32 = 0o200;
pub const TOSTOP: u32 = 0o400;
pub const ECHOCTL: u32 = 0o1000;
pub const ECHOKE: u32 = 0o4000;
pub const IEXTEN: u32 = 0o100000;

pub const VINTR: usize = 0;
pub const VQUIT: usize = 1;
pub const VERASE: usize = 2;
pub const VKILL: usize = 3;
pub const VEOF: usize = 4;
pub const VTIME: usize = 5;
pub const VMIN: usize = 6;
pub const VSTART: usize = 8;
pub const VSTOP: usize = 9;
pub const VSUSP: usize = 10;
pub const VEOL: usize = 11;
pub const VREPRINT: usize = 12;
pub const VWERASE: usize = 14;
pub const VLNEXT: usize = 15;
pub const VEOL2: usize = 16;

/// Bytes of `struct termios`.
pub const TERMIOS_SIZE: usize = 36;
/// Bytes of `struct termios2`, which adds the two speeds.
pub const TERMIOS2_SIZE: usize = 44;
/// Bytes of the old `struct termio` (TCGETA).
pub const TERMIO_SIZE: usize = 18;

/// A terminal's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Termios {
    /// Input modes.
    pub input: u32,
    /// Output modes.
    pub output: u32,
    /// Control modes.
    pub control: u32,
    /// Local modes.
    pub local: u32,
    /// The line discipline's number.
    pub line: u8,
    /// Special characters.
    pub characters: [u8; 19],
    /// Input speed, in baud.
    pub input_speed: u32,
    /// Output speed.
    pub output_speed: u32,
}

impl Default for Termios {
    fn default() -> Self {
        Termios {
            input: ICRNL | IXON,
            output: OPOST | ONLCR,
            control: B38400 | CS8 | CREAD | HUPCL,
            local: ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN,
            line: 0,
            characters: [3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26, 0, 18, 15, 23, 22, 0, 0, 0],
            input_speed: 38400,
            output_speed: 38400,
        }
    }
}

fn word(bytes: &[u8], index: usize) -> u32 {
    bytes.get(index..index + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_le_bytes)
}

impl Termios {
    /// As `struct termios2`; its first [`TERMIOS_SIZE`] bytes are `struct termios`.
    pub fn to_bytes(self) -> [u8; TERMIOS2_SIZE] {
        let mut bytes = [0; TERMIOS2_SIZE];
        for (index, mode) in [self.input, self.output, self.control, self.local].into_iter().enumerate() {
            bytes[index * 4..index * 4 + 4].copy_from_slice(&mode.to_le_bytes());
        }
        bytes[16] = self.line;
        bytes[17..36].copy_from_slice(&self.characters);
        bytes[36..40].copy_from_slice(&self.input_speed.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.output_speed.to_le_bytes());
        bytes
    }

    /// These settings with what `struct termios` (or with the speeds, `struct termios2`) says.
    pub fn updated(mut self, bytes: &[u8]) -> Self {
        self.input = word(bytes, 0);
        self.output = word(bytes, 4);
        self.control = word(bytes, 8);
        self.local = word(bytes, 12);
        self.line = bytes.get(16).copied().unwrap_or(0);
        if let Some(characters) = bytes.get(17..36) {
            self.characters.copy_from_slice(characters);
        }
        if bytes.len() >= TERMIOS2_SIZE {
            self.input_speed = word(bytes, 36);
            self.output_speed = word(bytes, 40);
        }
        self
    }

    /// As the old `struct termio`.
    pub fn to_termio(self) -> [u8; TERMIO_SIZE] {
        let mut bytes = [0; TERMIO_SIZE];
        for (index, mode) in [self.input, self.output, self.control, self.local].into_iter().enumerate() {
            bytes[index * 2..index * 2 + 2].copy_from_slice(&(mode as u16).to_le_bytes());
        }
        bytes[8] = self.line;
        bytes[9..17].copy_from_slice(&self.characters[..8]);
        bytes
    }

    /// These settings with what the old `struct termio` says.
    pub fn updated_termio(mut self, bytes: &[u8; TERMIO_SIZE]) -> Self {
        let half = |index: usize| u32::from(u16::from_le_bytes([bytes[index], bytes[index + 1]]));
        let merge = |old: u32, new: u32| (old & 0xffff_0000) | new;
        self.input = merge(self.input, half(0));
        self.output = merge(self.output, half(2));
        self.control = merge(self.control, half(4));
        self.local = merge(self.local, half(6));
        self.line = bytes[8];
        self.characters[..8].copy_from_slice(&bytes[9..17]);
        self
    }

    /// Whether a local mode is on.
    pub fn local(&self, mode: u32) -> bool {
        self.local & mode != 0
    }

    /// Whether `byte` is the special character `index`; character 0 is "none".
    pub fn is(&self, byte: u8, index: usize) -> bool {
        byte != 0 && self.characters[index] == byte
    }
}
