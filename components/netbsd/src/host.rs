//! What the rump kernel asks of its host: parameters, random numbers, the console, and the end.

use alloc::{string::String, vec::Vec};
use core::{
    ffi::{CStr, c_char, c_int, c_void},
    sync::atomic::{AtomicU8, Ordering},
};

use rumpuser::{
    Halt, rumpuser_console_write, rumpuser_cpu_count, rumpuser_getrandom as random, rumpuser_halt,
    rumpuser_memory_statistics,
    sync::{InterruptLock, SpinLock},
};

use crate::{
    errno::{EINVAL, ENOENT, ENOSYS, EPERM, Errno},
    format, kernel,
};

/// `RUMPUSER_PANIC`.
const PANIC: c_int = -1;
/// The status of a machine whose kernel panicked.
const PANIC_STATUS: u8 = 255;

static HOSTNAME: SpinLock<String> = SpinLock::new(String::new());
/// Parameters that the image's configuration sets.
static PARAMETERS: SpinLock<Vec<Parameter>> = SpinLock::new(Vec::new());
static STATUS: AtomicU8 = AtomicU8::new(0);

/// Sets the name that the kernel gets.
pub fn set_hostname(name: &str) {
    *HOSTNAME.lock() = name.into();
}

/// A parameter that the configuration sets.
struct Parameter {
    name: String,
    value: String,
    /// Somebody in the kernel has asked for it.
    read: bool,
}

/// Sets the parameters that the kernel is told when it asks, before it starts.
pub fn set_parameters(parameters: &[(String, String)]) {
    *PARAMETERS.lock() = parameters
        .iter()
        .map(|(name, value)| Parameter { name: name.clone(), value: value.clone(), read: false })
        .collect();
}

/// Sets what the running kernel has as parameters of its own (sysctl(7)), and names those that nobody knows.
pub fn apply_parameters() {
    let all: Vec<(String, String, bool)> = PARAMETERS
        .lock()
        .iter()
        .map(|parameter| (parameter.name.clone(), parameter.value.clone(), parameter.read))
        .collect();
    for (name, value, read) in all {
        let why = match kernel::set_parameter(&name, &value) {
            Err(ENOENT) if !read => String::from("there is no such parameter"),
            // What was read at the start needn't be writable.
            Err(_) if read => continue,
            Ok(()) => continue,
            Err(EINVAL) => alloc::format!("{value} is not a value for it"),
            Err(EPERM) => String::from("it can't be set"),
            Err(error) => kernel::explain(error),
        };
        console(alloc::format!("sysctl {name}: {why}\n").as_bytes());
    }
}

/// What the configuration says of a parameter.
fn configured(name: &[u8]) -> Option<String> {
    let mut parameters = PARAMETERS.lock();
    let parameter = parameters.iter_mut().find(|parameter| parameter.name.as_bytes() == name)?;
    parameter.read = true;
    Some(parameter.value.clone())
}

/// Sets the status with which the machine ends when the kernel has shut down.
pub fn set_status(status: u8) {
    STATUS.store(status, Ordering::SeqCst);
}

/// The value of a parameter of the kernel.
fn parameter(name: &[u8]) -> Option<String> {
    match name {
        b"_RUMPUSER_NCPU" => Some(alloc::format!("{}", rumpuser_cpu_count())),
        b"_RUMPUSER_HOSTNAME" => Some(HOSTNAME.lock().clone()),
        // What is left is for the programs; the kernel's caches are told to shrink at its limit.
        b"RUMP_MEMLIMIT" => Some(alloc::format!("{}", rumpuser_memory_statistics().total / 2)),
        _ => configured(name),
    }
}

/// # Safety
/// `name` is a C string, `buffer` has `length` bytes.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_getparam(name: *const c_char, buffer: *mut c_void, length: usize) -> Errno {
    // SAFETY: the caller's promise.
    let Some(value) = parameter(unsafe { CStr::from_ptr(name) }.to_bytes()) else { return ENOENT };
    if value.len() >= length {
        return EINVAL;
    }
    // SAFETY: there is room for the value and the zero behind it.
    unsafe {
        core::ptr::copy_nonoverlapping(value.as_ptr(), buffer.cast(), value.len());
        buffer.cast::<u8>().add(value.len()).write(0);
    }
    0
}

/// Fills the buffer whatever the flags say: the platform's source doesn't run dry.
///
/// # Safety
/// `buffer` has `length` bytes; `filled` is a place for a size.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_getrandom(
    buffer: *mut c_void,
    length: usize,
    _flags: c_int,
    filled: *mut usize,
) -> Errno {
    // SAFETY: the caller's promise.
    unsafe {
        core::ptr::write_bytes(buffer.cast::<u8>(), 0, length);
        random(core::slice::from_raw_parts_mut(buffer.cast(), length));
        *filled = length;
    }
    0
}

/// Ends the machine.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn rumpuser_exit(value: c_int) -> ! {
    flush();
    let status = if value == PANIC { PANIC_STATUS } else { STATUS.load(Ordering::SeqCst) };
    rumpuser_halt(Halt::PowerOff(status))
}

/// A line of the console that isn't complete; shown at its end, or when it is long.
static LINE: InterruptLock<Vec<u8>> = InterruptLock::new(Vec::new());
/// Bytes of a line that are kept back.
const LINE_LENGTH: usize = 256;

/// Writes to the console; whole lines at a time where lines are written in pieces.
pub fn console(bytes: &[u8]) {
    let mut line = LINE.lock();
    line.extend_from_slice(bytes);
    if line.len() >= LINE_LENGTH || line.last() == Some(&b'\n') {
        let whole = core::mem::take(&mut *line);
        drop(line);
        rumpuser_console_write(&whole);
    }
}

/// Shows what is kept back.
pub fn flush() {
    let rest = core::mem::take(&mut *LINE.lock());
    if !rest.is_empty() {
        rumpuser_console_write(&rest);
    }
}

/// A character for the console.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn rumpuser_putchar(character: c_int) {
    console(&[character as u8]);
}

/// `rumpuser_dprintf(format, ...)`: C's way to pass any number of arguments is not Rust's, so they are laid out here:
/// the five that came in registers, then those on the stack.
#[cfg(not(test))]
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn rumpuser_dprintf() {
    core::arch::naked_asm!(
        "lea rax, [rsp + 8]",
        "push r9",
        "push r8",
        "push rcx",
        "push rdx",
        "push rsi",
        "mov rsi, rsp",
        "mov rdx, rax",
        "call {print}",
        "add rsp, 40",
        "ret",
        print = sym debug_print,
    )
}

/// The rest of `rumpuser_dprintf`.
#[cfg_attr(test, allow(dead_code, reason = "called by the assembly code above"))]
unsafe extern "C" fn debug_print(template: *const c_char, registers: *const u64, stack: *const u64) {
    let mut index = 0;
    let next = || {
        // SAFETY: the format says how many arguments there are.
        let value = unsafe { if index < 5 { *registers.add(index) } else { *stack.add(index - 5) } };
        index += 1;
        value
    };
    // SAFETY: the caller gives a format as a C string, with arguments that fit.
    let text = unsafe { format::format(CStr::from_ptr(template).to_bytes(), next) };
    console(&text);
}

/// There is nothing to go into the background of.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn rumpuser_daemonize_begin() -> Errno {
    ENOSYS
}

/// See [`rumpuser_daemonize_begin`].
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn rumpuser_daemonize_done(_error: c_int) -> Errno {
    ENOSYS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_fit_or_are_refused() {
        set_hostname("box");
        let mut buffer = [1u8; 4];
        let mut get = |name: &CStr, length| {
            // SAFETY: the buffer has at least so many bytes.
            unsafe { rumpuser_getparam(name.as_ptr(), buffer.as_mut_ptr().cast(), length) }
        };
        assert_eq!(get(c"RUMP_UNKNOWN", 4), ENOENT);
        assert_eq!(get(c"_RUMPUSER_HOSTNAME", 3), EINVAL);
        assert_eq!(get(c"_RUMPUSER_HOSTNAME", 4), 0);
        assert_eq!(&buffer, b"box\0");
    }

    #[test]
    fn configured_parameters_are_told() {
        set_parameters(&[("hw.ixgbe.enable_aim".into(), "0".into())]);
        assert_eq!(parameter(b"hw.ixgbe.enable_aim").as_deref(), Some("0"));
        assert_eq!(parameter(b"hw.ixgbe.enable_msix"), None);
        assert!(PARAMETERS.lock().iter().all(|parameter| parameter.read));
    }
}
