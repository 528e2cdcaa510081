//! The line discipline: editing, echo, signals and flow control on the way in, newlines and tabs on the way
//! out (termios(3), N_TTY). Pure data; waiting and delivery are the terminal's.

use alloc::{collections::VecDeque, vec::Vec};

use super::termios::*;

/// What may be buffered on the way in, as in Linux.
pub const CAPACITY: usize = 4095;

/// A signal that a character stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// SIGINT.
    Interrupt,
    /// SIGQUIT.
    Quit,
    /// SIGTSTP.
    Suspend,
}

/// What input makes the terminal do.
#[derive(Debug, Default)]
pub struct Reaction {
    /// To be written to the terminal, already processed for output.
    pub echo: Vec<u8>,
    /// For the foreground group, in order.
    pub signals: Vec<Key>,
    /// A reader may find something now.
    pub readable: bool,
    /// Output goes on after a stop.
    pub restarted: bool,
    /// What the terminal has not yet put out is to be dropped.
    pub flush_output: bool,
}

/// The state of a line discipline.
#[derive(Debug, Default)]
pub struct Discipline {
    /// The settings.
    pub termios: Termios,
    /// Output is stopped (^S, TCOOFF).
    pub stopped: bool,
    /// What readers may take.
    input: VecDeque<u8>,
    /// Canonical mode: the lengths of the lines in `input`; a line that end-of-file closed may be empty.
    lines: VecDeque<usize>,
    /// Canonical mode: the line that is being edited.
    pending: Vec<u8>,
    /// The next character is taken literally (^V).
    literal: bool,
    /// The cursor's column, and where the edited line began.
    column: usize,
    pending_column: usize,
}

impl Discipline {
    fn canonical(&self) -> bool {
        self.termios.local(ICANON)
    }

    /// How many more bytes of input fit. While no line is complete one byte always does, so that a newline
    /// gets through.
    pub fn room(&self) -> usize {
        let room = CAPACITY.saturating_sub(self.input.len() + self.pending.len());
        if self.canonical() && self.lines.is_empty() { room.max(1) } else { room }
    }

    /// How many bytes a read would give now (FIONREAD).
    pub fn available(&self) -> usize {
        if self.canonical() { self.lines.front().copied().unwrap_or(0) } else { self.input.len() }
    }

    /// Whether a read would not wait, given how many bytes it asks for at least in raw mode.
    pub fn readable(&self, least: usize) -> bool {
        if self.canonical() { !self.lines.is_empty() } else { self.input.len() >= least.max(1) }
    }

    /// Takes up to `most` bytes: in canonical mode of one line; `None` if there is none yet.
    pub fn take(&mut self, most: usize) -> Option<Vec<u8>> {
        if !self.canonical() {
            let length = self.input.len().min(most);
            return Some(self.input.drain(..length).collect());
        }
        let line = self.lines.front_mut()?;
        let length = (*line).min(most);
        *line -= length;
        if *line == 0 {
            self.lines.pop_front();
        }
        Some(self.input.drain(..length).collect())
    }

    /// Drops what was typed and not yet read.
    pub fn flush_input(&mut self) {
        self.input.clear();
        self.lines.clear();
        self.pending.clear();
        self.literal = false;
    }

    /// Changes the settings; what is buffered stays readable.
    pub fn set_termios(&mut self, termios: Termios) {
        let was_canonical = self.canonical();
        self.termios = termios;
        if was_canonical && !self.canonical() {
            self.input.extend(self.pending.drain(..));
            self.lines.clear();
        } else if !was_canonical && self.canonical() && !self.input.is_empty() {
            self.lines.push_back(self.input.len());
        }
        self.literal = false;
        if termios.input & IXON == 0 {
            self.stopped = false;
        }
    }

    /// Takes input from the line.
    pub fn receive(&mut self, bytes: &[u8]) -> Reaction {
        let mut reaction = Reaction::default();
        for &byte in bytes {
            self.receive_byte(byte, &mut reaction);
        }
        reaction
    }

    fn receive_byte(&mut self, mut byte: u8, reaction: &mut Reaction) {
        let termios = self.termios;
        if termios.input & ISTRIP != 0 {
            byte &= 0x7f;
        }
        if self.literal {
            self.literal = false;
            return self.insert(byte, reaction);
        }
        if termios.input & IUCLC != 0 && termios.local(IEXTEN) {
            byte = byte.to_ascii_lowercase();
        }
        if termios.input & IXON != 0 {
            if termios.is(byte, VSTART) || termios.is(byte, VSTOP) {
                // Where both are the same character, it toggles.
                let stop = termios.is(byte, VSTOP) && !(termios.is(byte, VSTART) && self.stopped);
                reaction.restarted |= self.stopped && !stop;
                self.stopped = stop;
                return;
            }
            if self.stopped && termios.input & IXANY != 0 {
                self.stopped = false;
                reaction.restarted = true;
            }
        }
        if termios.local(ISIG) {
            let key = [(VINTR, Key::Interrupt), (VQUIT, Key::Quit), (VSUSP, Key::Suspend)]
                .into_iter()
                .find(|&(index, _)| termios.is(byte, index));
            if let Some((_, key)) = key {
                return self.signal(key, byte, reaction);
            }
        }
        match byte {
            b'\r' if termios.input & IGNCR != 0 => return,
            b'\r' if termios.input & ICRNL != 0 => byte = b'\n',
            b'\n' if termios.input & INLCR != 0 => byte = b'\r',
            _ => {}
        }
        if self.canonical() && self.edit(byte, reaction) {
            return;
        }
        self.insert(byte, reaction);
    }

    fn signal(&mut self, key: Key, byte: u8, reaction: &mut Reaction) {
        if !self.termios.local(NOFLSH) {
            self.flush_input();
            reaction.flush_output = true;
        }
        if self.stopped {
            self.stopped = false;
            reaction.restarted = true;
        }
        if self.termios.local(ECHO) {
            self.echo(byte, reaction);
        }
        reaction.signals.push(key);
    }

    /// Canonical mode's special characters. Whether the character was one.
    fn edit(&mut self, byte: u8, reaction: &mut Reaction) -> bool {
        let termios = self.termios;
        let extended = termios.local(IEXTEN);
        if termios.is(byte, VERASE) {
            self.erase_one(byte, reaction);
        } else if extended && termios.is(byte, VWERASE) {
            let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80;
            let mut seen = false;
            while let Some(&last) = self.pending.last() {
                if seen && !word(last) {
                    break;
                }
                seen |= word(last);
                self.erase_one(termios.characters[VERASE], reaction);
            }
        } else if termios.is(byte, VKILL) {
            if termios.local(ECHO) && termios.local(ECHOKE) && termios.local(ECHOE) && termios.local(ECHOK) {
                while !self.pending.is_empty() {
                    self.erase_one(termios.characters[VERASE], reaction);
                }
            } else {
                self.pending.clear();
                if termios.local(ECHO) {
                    self.echo(byte, reaction);
                    if termios.local(ECHOK) {
                        self.put_out(b"\n", &mut reaction.echo);
                    }
                }
            }
        } else if extended && termios.is(byte, VLNEXT) {
            self.literal = true;
            if termios.local(ECHO) && termios.local(ECHOCTL) {
                self.put_out(b"^\x08", &mut reaction.echo);
            }
        } else if extended && termios.local(ECHO) && termios.is(byte, VREPRINT) {
            self.echo(byte, reaction);
            self.put_out(b"\n", &mut reaction.echo);
            self.pending_column = self.column;
            for index in 0..self.pending.len() {
                self.echo(self.pending[index], reaction);
            }
        } else if self.is_line_end(byte) && (self.room() == 0 || self.lines.len() >= CAPACITY) {
            // Nobody reads: dropped.
        } else if termios.is(byte, VEOF) {
            self.complete(reaction);
        } else if byte == b'\n' {
            if termios.local(ECHO) || termios.local(ECHONL) {
                self.put_out(b"\n", &mut reaction.echo);
            }
            self.pending.push(byte);
            self.complete(reaction);
        } else if termios.is(byte, VEOL) || (extended && termios.is(byte, VEOL2)) {
            if termios.local(ECHO) {
                self.echo(byte, reaction);
            }
            self.pending.push(byte);
            self.complete(reaction);
        } else {
            return false;
        }
        true
    }

    fn is_line_end(&self, byte: u8) -> bool {
        byte == b'\n' || [VEOF, VEOL, VEOL2].into_iter().any(|index| self.termios.is(byte, index))
    }

    fn complete(&mut self, reaction: &mut Reaction) {
        self.lines.push_back(self.pending.len());
        self.input.extend(self.pending.drain(..));
        self.pending_column = self.column;
        reaction.readable = true;
    }

    fn insert(&mut self, byte: u8, reaction: &mut Reaction) {
        if self.input.len() + self.pending.len() >= CAPACITY {
            if self.termios.input & IMAXBEL != 0 {
                reaction.echo.push(7);
            }
            return;
        }
        if self.termios.local(ECHO) {
            if self.pending.is_empty() {
                self.pending_column = self.column;
            }
            if byte == b'\n' {
                self.put_out(b"\n", &mut reaction.echo);
            } else {
                self.echo(byte, reaction);
            }
        }
        if self.canonical() {
            self.pending.push(byte);
        } else {
            self.input.push_back(byte);
            reaction.readable = true;
        }
    }

    fn is_control(byte: u8) -> bool {
        byte < 0x20 || byte == 0x7f
    }

    fn echo(&mut self, byte: u8, reaction: &mut Reaction) {
        if self.termios.local(ECHOCTL) && Self::is_control(byte) && byte != b'\t' {
            self.put_out(&[b'^', byte ^ 0x40], &mut reaction.echo);
        } else {
            self.put_out(&[byte], &mut reaction.echo);
        }
    }

    /// How many columns a character of the edited line takes at `column`.
    fn width(&self, byte: u8, column: usize) -> usize {
        match byte {
            b'\t' => 8 - column % 8,
            _ if Self::is_control(byte) => {
                if self.termios.local(ECHOCTL) {
                    2
                } else {
                    0
                }
            }
            0x80..=0xbf if self.termios.input & IUTF8 != 0 => 0,
            _ => 1,
        }
    }

    /// Removes the last character of the edited line, and its picture.
    fn erase_one(&mut self, erase: u8, reaction: &mut Reaction) {
        let mut last = None;
        while let Some(byte) = self.pending.pop() {
            last = Some(byte);
            if self.termios.input & IUTF8 == 0 || byte & 0xc0 != 0x80 {
                break;
            }
        }
        let Some(last) = last else { return };
        if !self.termios.local(ECHO) {
            return;
        }
        if !self.termios.local(ECHOE) {
            return self.echo(erase, reaction);
        }
        let mut column = self.pending_column;
        for &byte in &self.pending {
            column += self.width(byte, column);
        }
        let width = self.width(last, column);
        let picture: &[u8] = if last == b'\t' { b"\x08" } else { b"\x08 \x08" };
        for _ in 0..width {
            self.put_out(picture, &mut reaction.echo);
        }
    }

    /// Processes output into `out`, at most `room` bytes more; returns how many of `bytes` it took.
    pub fn process(&mut self, bytes: &[u8], out: &mut Vec<u8>, room: usize) -> usize {
        if self.termios.output & OPOST == 0 {
            let length = bytes.len().min(room);
            out.extend_from_slice(&bytes[..length]);
            return length;
        }
        let limit = out.len().saturating_add(room);
        let mut taken = 0;
        while let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
            // A run of ordinary characters goes out in one piece.
            let run = rest.iter().position(|&byte| self.is_special_output(byte)).unwrap_or(rest.len());
            let run = run.min(limit - out.len());
            if run > 0 {
                out.extend_from_slice(&rest[..run]);
                self.column += run;
                taken += run;
                continue;
            }
            let (piece, length, column) = self.picture(rest[0]);
            if limit - out.len() < length {
                break;
            }
            out.extend_from_slice(&piece[..length]);
            self.column = column;
            taken += 1;
        }
        taken
    }

    fn is_special_output(&self, byte: u8) -> bool {
        byte < 0x20 || (byte.is_ascii_lowercase() && self.termios.output & OLCUC != 0)
    }

    /// What one special character becomes: its bytes, how many, and the column after it.
    fn picture(&self, byte: u8) -> ([u8; 8], usize, usize) {
        let output = self.termios.output;
        let one = |byte: u8| [byte, 0, 0, 0, 0, 0, 0, 0];
        match byte {
            b'\n' if output & ONLCR != 0 => ([b'\r', b'\n', 0, 0, 0, 0, 0, 0], 2, 0),
            b'\n' => (one(byte), 1, if output & ONLRET != 0 { 0 } else { self.column }),
            b'\r' if output & ONOCR != 0 && self.column == 0 => (one(byte), 0, 0),
            b'\r' if output & OCRNL != 0 => {
                (one(b'\n'), 1, if output & ONLRET != 0 { 0 } else { self.column })
            }
            b'\r' => (one(byte), 1, 0),
            b'\t' => {
                let width = 8 - self.column % 8;
                if output & XTABS == XTABS {
                    ([b' '; 8], width, self.column + width)
                } else {
                    (one(byte), 1, self.column + width)
                }
            }
            8 => (one(byte), 1, self.column.saturating_sub(1)),
            _ if byte < 0x20 => (one(byte), 1, self.column),
            _ => (one(byte.to_ascii_uppercase()), 1, self.column + 1),
        }
    }

    fn put_out(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.process(bytes, out, usize::MAX - out.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(discipline: &mut Discipline, text: &[u8]) -> Vec<u8> {
        discipline.receive(text).echo
    }

    #[test]
    fn a_line_is_read_when_it_is_complete() {
        let mut discipline = Discipline::default();
        assert_eq!(typed(&mut discipline, b"ab"), b"ab");
        assert!(!discipline.readable(1));
        assert_eq!(typed(&mut discipline, b"c\rnext"), b"c\r\nnext");
        assert_eq!(discipline.available(), 4);
        assert_eq!(discipline.take(2).unwrap(), b"ab");
        assert_eq!(discipline.take(100).unwrap(), b"c\n");
        assert!(discipline.take(100).is_none());
    }

    #[test]
    fn erase_kill_and_word_erase_edit_the_line_and_its_picture() {
        let mut discipline = Discipline::default();
        assert_eq!(typed(&mut discipline, b"ab\x7f"), b"ab\x08 \x08");
        assert_eq!(typed(&mut discipline, b"\x7f\x7f"), b"\x08 \x08");
        assert_eq!(typed(&mut discipline, b"\x01\x7f"), b"^A\x08 \x08\x08 \x08");
        typed(&mut discipline, b"one two  \x17");
        typed(&mut discipline, b"2\n");
        assert_eq!(discipline.take(100).unwrap(), b"one 2\n");
        assert_eq!(typed(&mut discipline, b"xy\x15"), b"xy\x08 \x08\x08 \x08");
        typed(&mut discipline, b"\x16\x03z\n");
        assert_eq!(discipline.take(100).unwrap(), b"\x03z\n");
    }

    #[test]
    fn end_of_file_closes_a_line_without_a_character() {
        let mut discipline = Discipline::default();
        typed(&mut discipline, b"abc\x04\x04");
        assert_eq!(discipline.take(100).unwrap(), b"abc");
        assert_eq!(discipline.take(100).unwrap(), b"");
        assert!(discipline.take(100).is_none());
    }

    #[test]
    fn signals_flush_and_are_reported() {
        let mut discipline = Discipline::default();
        let reaction = discipline.receive(b"half\x03\x1c\x1a");
        assert_eq!(reaction.signals, [Key::Interrupt, Key::Quit, Key::Suspend]);
        assert_eq!(reaction.echo, b"half^C^\\^Z");
        typed(&mut discipline, b"\n");
        assert_eq!(discipline.take(10).unwrap(), b"\n");
    }

    #[test]
    fn raw_mode_gives_bytes_at_once_and_keeps_what_was_typed() {
        let mut discipline = Discipline::default();
        typed(&mut discipline, b"line\npart");
        let raw = Termios { local: 0, input: 0, output: 0, ..Termios::default() };
        discipline.set_termios(raw);
        typed(&mut discipline, b"\x03");
        assert_eq!(discipline.take(100).unwrap(), b"line\npart\x03");
        typed(&mut discipline, b"abc");
        discipline.set_termios(Termios::default());
        assert_eq!(discipline.take(100).unwrap(), b"abc");
    }

    #[test]
    fn too_long_a_line_still_takes_its_newline() {
        let mut discipline = Discipline::default();
        for _ in 0..5000 {
            assert!(discipline.room() > 0);
            typed(&mut discipline, b"x");
        }
        typed(&mut discipline, b"\n");
        assert_eq!(discipline.take(10000).unwrap().len(), CAPACITY + 1);
    }

    #[test]
    fn output_gets_carriage_returns_within_the_room() {
        let mut discipline = Discipline::default();
        let mut out = Vec::new();
        assert_eq!(discipline.process(b"a\nb\n", &mut out, 4), 3);
        assert_eq!(out, b"a\r\nb");
        assert_eq!(discipline.process(b"\n", &mut out, 1), 0);
        discipline.termios.output |= XTABS;
        out.clear();
        discipline.process(b"\n\tx", &mut out, 100);
        assert_eq!(out, b"\r\n        x");
    }

    #[test]
    fn flow_control_stops_and_starts() {
        let mut discipline = Discipline::default();
        discipline.receive(b"\x13");
        assert!(discipline.stopped);
        assert!(discipline.receive(b"\x11").restarted);
        assert!(!discipline.stopped);
    }
}
