//! From a path to a program that is ready to run: what execve(2) does before there is no way back.
//!
//! [`Executable::open`] finds and checks the file, follows `#!` lines, and opens the ELF interpreter;
//! [`Executable::load`] makes a new address space of it. The caller then gives the space to the process.

mod load;
mod stack;
#[cfg(test)]
mod tests;

use alloc::{sync::Arc, vec, vec::Vec};

use rumpkern::{
    Errno, Result,
    uio::Sink,
    vm::{Name, Pager},
};
use rumpvfs::{
    access,
    mount::Location,
    namei::Lookup,
    vnode::{Attributes, Kind, Vnode},
};

pub use load::{LoadOptions, Loaded, apply_limits, fix_addresses};
pub use stack::{ARGUMENTS_MAX, STRING_MAX, StackLayout};

use crate::elf::{self, Elf};

/// How many `#!` lines may lead to each other.
const SCRIPTS_MAX: usize = 4;
/// How much of a file decides what it is, and the longest `#!` line.
const START_LENGTH: usize = 256;

/// A file that can be loaded.
struct Object {
    elf: Elf,
    pager: Arc<dyn Pager>,
    name: Arc<Name>,
}

/// A program that was found to be executable.
pub struct Executable {
    object: Object,
    interpreter: Option<Object>,
    /// Where the program (not the script) is: /proc/self/exe.
    pub location: Location,
    /// Its attributes, for the set-user-ID bits.
    pub attributes: Attributes,
    /// The arguments, with what `#!` lines put in front.
    pub arguments: Vec<Vec<u8>>,
    /// The name that execve was given (AT_EXECFN); its last component names the task.
    pub name: Vec<u8>,
}

impl Executable {
    /// Checks that `location`, which the caller found by `name`, can be executed, and follows `#!` lines.
    pub fn open(
        lookup: &Lookup<'_>,
        location: Location,
        name: &[u8],
        mut arguments: Vec<Vec<u8>>,
    ) -> Result<Executable> {
        let mut location = location;
        let mut path = name.to_vec();
        for _ in 0..=SCRIPTS_MAX {
            let attributes = check(lookup, &location)?;
            let mut start = [0; START_LENGTH];
            let length = read_some(location.vnode(), 0, &mut start)?;
            let start = &start[..length];
            if !start.starts_with(b"#!") {
                let object = Object::open(lookup, &location, &attributes)?;
                let interpreter = match &object.elf.interpreter {
                    None => None,
                    Some(path) => Some(open_interpreter(lookup, path)?),
                };
                return Ok(Executable {
                    object,
                    interpreter,
                    location,
                    attributes,
                    arguments,
                    name: name.to_vec(),
                });
            }
            let (interpreter, argument) = parse_script_line(start)?;
            // The script's own name takes the place of argument 0.
            let mut replaced = vec![interpreter.to_vec()];
            replaced.extend(argument.map(<[u8]>::to_vec));
            replaced.push(path);
            replaced.extend(arguments.into_iter().skip(1));
            arguments = replaced;
            path = interpreter.to_vec();
            location = lookup.resolve(interpreter, true)?;
        }
        Err(Errno::ELOOP)
    }
}

/// Whether the caller may execute the file.
fn check(lookup: &Lookup<'_>, location: &Location) -> Result<Attributes> {
    if location.vnode().kind() != Kind::Regular {
        return Err(Errno::EACCES);
    }
    lookup.check_access(location, access::EXECUTE)?;
    location.vnode().attributes()
}

fn open_interpreter(lookup: &Lookup<'_>, path: &[u8]) -> Result<Object> {
    let location = lookup.resolve(path, true)?;
    let attributes = check(lookup, &location)?;
    // What is wrong with the interpreter isn't wrong with the program.
    Object::open(lookup, &location, &attributes).map_err(|error| match error {
        Errno::ENOEXEC => Errno::EIO,
        error => error,
    })
}

impl Object {
    fn open(lookup: &Lookup<'_>, location: &Location, attributes: &Attributes) -> Result<Object> {
        let vnode = location.vnode();
        let elf = elf::parse(attributes.size, &mut |offset, buffer| read_exactly(vnode, offset, buffer))?;
        // A file that cannot be mapped cannot be executed.
        let pager = vnode.pager().map_err(|_| Errno::ENOEXEC)?;
        let name =
            Name { path: location.path(lookup.root), device: attributes.device, inode: attributes.inode };
        Ok(Object { elf, pager, name: Arc::new(name) })
    }
}

/// Reads until the buffer is full or the file ends; returns how much.
fn read_some(vnode: &Arc<dyn Vnode>, offset: u64, buffer: &mut [u8]) -> Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match vnode.read_at(offset + done as u64, &mut Sink::kernel(&mut buffer[done..]))? {
            0 => break,
            length => done += length,
        }
    }
    Ok(done)
}

fn read_exactly(vnode: &Arc<dyn Vnode>, offset: u64, buffer: &mut [u8]) -> Result<()> {
    if read_some(vnode, offset, buffer)? == buffer.len() { Ok(()) } else { Err(Errno::ENOEXEC) }
}

/// The interpreter that a `#!` line names, and the one argument it may have: everything up to the end of the line.
fn parse_script_line(start: &[u8]) -> Result<(&[u8], Option<&[u8]>)> {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let line_end = start.iter().position(|&byte| byte == b'\n');
    let complete = line_end.is_some() || start.len() < START_LENGTH;
    let line = &start[2..line_end.unwrap_or(start.len())];
    let line = line.split(|&byte| byte == 0).next().unwrap_or_default();
    let from = line.iter().position(|byte| !blank(byte)).ok_or(Errno::ENOEXEC)?;
    let line = &line[from..];
    let length = line.iter().position(blank);
    if length.is_none() && !complete {
        // The path may go on behind what was read.
        return Err(Errno::ENOEXEC);
    }
    let (path, rest) = line.split_at(length.unwrap_or(line.len()));
    let rest = rest.trim_ascii();
    Ok((path, (!rest.is_empty()).then_some(rest)))
}
