//! From the kernel's first thread to the `main` of each program, as the image's configuration says.

use alloc::{boxed::Box, ffi::CString, format, string::String, sync::Arc, vec, vec::Vec};
use core::{
    ffi::{c_char, c_int, c_void},
    ptr::null_mut,
};

use image::{
    command_line::CommandLine,
    config::{Configuration, Program, Then},
    payload::Payload,
    rootfs::RootFs,
};
use rumpuser::{rumpuser_memory_statistics, rumpuser_set_thread_pointer};

use super::{
    lwp, memory, process,
    rump::{self, KernelLwp},
    thread_storage,
};
use crate::{
    errno::Errno,
    files, host,
    weak::{weak, weak_data},
};

/// The status of an image that cannot start.
pub const NOT_STARTED: u8 = 125;
/// `RUMP_SIGMODEL_RAISE`.
const RAISE_SIGNALS: c_int = 3;
/// The stack of a program's first thread, in bytes. All of it is there from the start.
const MAIN_STACK: usize = 256 << 10;
/// The least memory beside the image, in bytes. Half of it is the kernel's, which waits for ever for more with less than 1 MiB.
const LEAST_MEMORY: u64 = 2 << 20;
/// What libpthread takes for other threads, in KiB.
const THREAD_STACK: &[u8] = b"PTHREAD_STACKSIZE=64";
/// `AT_PHDR`, `AT_PHNUM`, `AT_STACKBASE`, `AT_NULL`.
const PROGRAM_HEADERS: u64 = 3;
const PROGRAM_HEADER_COUNT: u64 = 5;
const STACK_BASE: u64 = 13;
const NO_MORE: u64 = 0;
/// `PT_GNU_EH_FRAME`, readable.
const EXCEPTION_FRAMES: u64 = 0x6474_e550 | 4 << 32;

weak! {
    /// Starts libc.
    fn _libc_init();
    /// Sets up a thread's attributes.
    fn pthread_attr_init(*mut c_void) -> c_int;
    /// Asks for a stack.
    fn pthread_attr_setstacksize(*mut c_void, usize) -> c_int;
    /// Makes a detached thread: nobody joins a program's.
    fn pthread_attr_setdetachstate(*mut c_void, c_int) -> c_int;
    /// Starts a thread.
    fn pthread_create(*mut *mut c_void, *const c_void, unsafe extern "C" fn(*mut c_void) -> *mut c_void, *mut c_void) -> c_int;
}

weak_data! {
    /// The environment.
    static environ: *mut *mut c_char;
    /// The program's name.
    static __progname: *const c_char;
    /// Where libc finds the auxiliary vector.
    static __ps_strings: *const ProcessStrings;
}

/// `struct ps_strings`.
#[repr(C)]
struct ProcessStrings {
    arguments: *const usize,
    argument_count: c_int,
    environment: *const usize,
    environment_count: c_int,
}

/// `main`, and functions that run before it, with its arguments.
type Main = unsafe extern "C" fn(c_int, *mut *mut c_char, *mut *mut c_char) -> c_int;
/// What runs after a program, or after all of them.
pub type Finaliser = unsafe extern "C" fn();

/// A program, as the baker lists it.
#[repr(C)]
struct Linked {
    main: Main,
    initialisers: *const Main,
    finalisers: *const Finaliser,
    end: *const Finaliser,
}

// SAFETY: addresses of what the linker put together, never written.
unsafe impl Sync for Linked {}

impl Linked {
    fn initialisers(&self) -> &'static [Main] {
        enclosed(self.initialisers as usize, self.finalisers as usize)
    }

    fn finalisers(&self) -> &'static [Finaliser] {
        enclosed(self.finalisers as usize, self.end as usize)
    }
}

core::arch::global_asm!(
    ".pushsection .data.rel.ro.weak, \"aw\", @progbits",
    ".balign 8",
    ".weak netbsd_programs_start, netbsd_programs_end",
    ".weak netbsd_init_start, netbsd_init_end, netbsd_fini_start, netbsd_fini_end",
    ".global netbsd_arrays",
    "netbsd_arrays: .quad netbsd_programs_start, netbsd_programs_end",
    ".quad netbsd_init_start, netbsd_init_end, netbsd_fini_start, netbsd_fini_end",
    ".weak netbsd_eh_frame_hdr",
    ".global netbsd_exception_frames",
    "netbsd_exception_frames: .quad netbsd_eh_frame_hdr",
    ".popsection",
);

/// Arrays of functions that the linker puts together: programs, initialisers, finalisers.
fn array<T>(index: usize) -> &'static [T] {
    unsafe extern "C" {
        static netbsd_arrays: [usize; 6];
    }
    // SAFETY: the words stand above and are never written.
    let words = unsafe { netbsd_arrays };
    enclosed(words[2 * index], words[2 * index + 1])
}

/// What the linker script encloses: values of the type that is asked for.
fn enclosed<T>(start: usize, end: usize) -> &'static [T] {
    if start == end {
        return &[];
    }
    // SAFETY: the addresses are the linker's, around an array of this type, which stays.
    unsafe { core::slice::from_raw_parts(start as *const T, (end - start) / size_of::<T>()) }
}

fn give_up(reason: &str) -> ! {
    host::console(format!("cannot start: {reason}\n").as_bytes());
    host::set_status(NOT_STARTED);
    host::rumpuser_exit(0)
}

/// Ends the image if what its configuration says can't be had.
fn or_shut_down(result: Result<(), String>) {
    if let Err(reason) = result {
        host::console(format!("cannot start: {reason}\n").as_bytes());
        process::shut_down(NOT_STARTED);
    }
}

/// Runs the image. Called once, in the first thread.
pub fn start(payload: &'static [u8], command_line: &str) -> ! {
    let payload = Payload::parse(payload).unwrap_or_else(|error| give_up(&format!("{error}")));
    let mut configuration: Configuration = postcard::from_bytes(payload.configuration())
        .unwrap_or_else(|_| give_up("its configuration cannot be read"));
    CommandLine::parse(command_line.as_bytes()).apply(&mut configuration);
    memory::create_address_space();
    memory::enter_address_space();
    let block = thread_storage::_rtld_tls_allocate();
    if block.is_null() {
        give_up("too little memory");
    }
    rumpuser_set_thread_pointer(block as usize);
    lwp::initialise_first();
    rumpuser::rumpuser_set_trap_handler(super::trap::handle);
    host::set_hostname(&configuration.hostname);
    host::set_parameters(&configuration.parameters);
    start_kernel();
    let root = RootFs::parse(payload.rootfs()).unwrap_or_else(|_| give_up("its files cannot be read"));
    files::set_root(root);
    super::root::fill(&root);
    host::apply_parameters();
    or_shut_down(crate::mounts::mount_local(&configuration.mounts));
    crate::mounts::attached::follow();
    start_userspace(&configuration);
    crate::network::configure(&configuration, None);
    or_shut_down(crate::mounts::mount_remote(&configuration.mounts));
    or_shut_down(crate::nfs::server::start(&configuration.mounts));
    crate::proxy::start(&configuration);
    let status = run_programs(&configuration);
    process::finish(None, array(2));
    process::shut_down(status)
}

/// Starts the rump kernel. The calling thread, which needs a control block, gets a process of it.
pub fn start_kernel() {
    let memory = rumpuser_memory_statistics().total;
    if memory < LEAST_MEMORY {
        give_up(&format!(
            "too little memory: {} KiB are left beside the image, {} KiB are needed at the least",
            memory >> 10,
            LEAST_MEMORY >> 10
        ));
    }
    // SAFETY: the kernel's own functions, in the order that it wants.
    unsafe {
        if let Some(set) = rump::rump_boot_setsigmodel() {
            set(RAISE_SIGNALS);
        }
        if let Some(initialise) = rump::rump_init() {
            let error = initialise();
            if error != 0 {
                give_up(&format!("the rump kernel's start fails with error {error}"));
            }
        }
        // A process of its own for this thread, so that it has an LWP always.
        if let Some(fork) = rump::rump_pub_lwproc_rfork() {
            fork(rump::COPY_DESCRIPTORS);
        }
    }
    crate::time_counter::register();
}

fn leak(bytes: &[u8]) -> *mut c_char {
    let clean: Vec<u8> = bytes.iter().copied().filter(|&byte| byte != 0).collect();
    CString::new(clean).unwrap_or_default().into_raw()
}

/// A null-terminated array of strings, for ever.
fn leak_all(strings: impl Iterator<Item = *mut c_char>) -> *mut *mut c_char {
    let all: Vec<_> = strings.chain([null_mut()]).collect();
    Vec::leak(all).as_mut_ptr()
}

/// The variables of a program: its own over the image's.
fn environment(configuration: &Configuration, program: Option<&Program>) -> *mut *mut c_char {
    let own = program.map_or(&[][..], |program| &program.environment);
    let all =
        configuration.environment.iter().filter(|(name, _)| !own.iter().any(|(other, _)| other == name));
    let mut lines: Vec<Vec<u8>> =
        all.chain(own).map(|(name, value)| [name.as_slice(), b"=", value].concat()).collect();
    let name = &THREAD_STACK[..=THREAD_STACK.iter().position(|&byte| byte == b'=').unwrap_or(0)];
    if !lines.iter().any(|line| line.starts_with(name)) {
        lines.push(THREAD_STACK.to_vec());
    }
    leak_all(lines.iter().map(|line| leak(line)))
}

fn start_userspace(configuration: &Configuration) {
    let base = core::ptr::from_ref(configuration) as u64;
    unsafe extern "C" {
        static netbsd_exception_frames: u64;
    }
    // SAFETY: the word stands above and is never written.
    let frames = unsafe { netbsd_exception_frames };
    // The program header that unwinding asks for (`Elf64_Phdr`: type and flags, offset, address...).
    let header: &[u64] = Vec::leak(vec![EXCEPTION_FRAMES, 0, frames, frames, 0, 0, 4]);
    // No arguments, no environment, then the auxiliary vector.
    let headers = header.as_ptr() as u64;
    let vector: &[u64] = Vec::leak(vec![
        0,
        0,
        PROGRAM_HEADERS,
        headers,
        PROGRAM_HEADER_COUNT,
        1,
        STACK_BASE,
        base,
        NO_MORE,
        0,
    ]);
    let strings = ProcessStrings {
        arguments: vector.as_ptr().cast(),
        argument_count: 0,
        environment: vector.as_ptr().cast(),
        environment_count: 0,
    };
    set(environ(), environment(configuration, None));
    set(__ps_strings(), Box::leak(Box::new(strings)));
    set(__progname(), leak(b"rumprun"));
    // SAFETY: libc's start, then the image's initialisers, before any program runs.
    unsafe {
        if let Some(initialise) = _libc_init() {
            initialise();
        }
        for function in array::<Finaliser>(1) {
            function();
        }
    }
}

/// Writes a variable of libc's, if the image has it.
fn set<T>(place: *mut T, value: T) {
    if !place.is_null() {
        // SAFETY: the address of a variable of this type.
        unsafe { place.write(value) };
    }
}

/// Runs all programs; returns the status of the last in the foreground, or else of the last.
fn run_programs(configuration: &Configuration) -> u8 {
    let all = array::<Linked>(0);
    let mut status = 0;
    let mut background = Vec::new();
    let mut input = None;
    for (program, linked) in configuration.programs.iter().zip(all) {
        let (descriptors, next) = pipe_for(program.then, input.take());
        input = next;
        let running = match launch(configuration, program, linked, descriptors) {
            Ok(running) => running,
            Err(reason) => {
                host::console(format!("{}: {reason}\n", String::from_utf8_lossy(&program.path)).as_bytes());
                status = NOT_STARTED;
                continue;
            }
        };
        if program.then == Then::Wait {
            status = running.wait();
        } else {
            background.push(running);
        }
    }
    let waited = configuration.programs.iter().any(|program| program.then == Then::Wait);
    for running in background {
        let ended = running.wait();
        if !waited {
            status = ended;
        }
    }
    status
}

/// What becomes a program's standard input and output; -1 leaves it.
type Descriptors = [c_int; 2];

/// The descriptors of a program, and the input of the one behind it.
fn pipe_for(then: Then, input: Option<c_int>) -> (Descriptors, Option<c_int>) {
    let mut ends = [-1; 2];
    if then == Then::Pipe
        && let Some(pipe) = rump::rump_sys_pipe()
    {
        // SAFETY: a place for two descriptors.
        unsafe { pipe(ends.as_mut_ptr()) };
    }
    ([input.unwrap_or(-1), ends[1]], (ends[0] >= 0).then_some(ends[0]))
}

/// What a program's first thread gets.
struct Launch {
    linked: &'static Linked,
    arguments: *mut *mut c_char,
    count: c_int,
    environment: *mut *mut c_char,
    kernel_lwp: KernelLwp,
    number: usize,
}

fn launch(
    configuration: &Configuration,
    program: &Program,
    linked: &'static Linked,
    descriptors: Descriptors,
) -> Result<Arc<process::Program>, &'static str> {
    let name = program.path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let (running, number) = process::add(&String::from_utf8_lossy(name), linked.finalisers());
    let directory = program.working_directory.as_ref().unwrap_or(&configuration.working_directory);
    let launch = Box::new(Launch {
        linked,
        arguments: leak_all(program.arguments.iter().map(|argument| leak(argument))),
        count: program.arguments.len() as c_int,
        environment: environment(configuration, Some(program)),
        kernel_lwp: new_process(directory, descriptors).map_err(|_| "no process can be made for it")?,
        number,
    });
    set(environ(), launch.environment);
    set(__progname(), leak(name));
    let launch = Box::into_raw(launch);
    if !start_thread(launch.cast()) {
        // SAFETY: no thread has it.
        drop(unsafe { Box::from_raw(launch) });
        return Err("too little memory for its first thread");
    }
    Ok(running)
}

/// A process of the kernel with these descriptors, in a directory; its LWP.
fn new_process(directory: &[u8], descriptors: Descriptors) -> Result<KernelLwp, Errno> {
    let taken = || descriptors.into_iter().enumerate().filter(|&(_, descriptor)| descriptor >= 0);
    // SAFETY: functions of the kernel, with descriptors that it looks up.
    let close = |descriptor| rump::rump___sysimpl_close().map(|close| unsafe { close(descriptor) });
    let made = KernelLwp::in_new_process(|| {
        for (target, descriptor) in taken() {
            if let Some(duplicate) = rump::rump___sysimpl_dup2() {
                // SAFETY: as above.
                unsafe { duplicate(descriptor, target as c_int) };
                close(descriptor);
            }
        }
        if let Some(change) = rump::rump___sysimpl_chdir() {
            let path = leak(directory);
            // SAFETY: a string of ours.
            unsafe {
                change(path);
                drop(CString::from_raw(path));
            }
        }
    });
    taken().for_each(|(_, descriptor)| _ = close(descriptor));
    made
}

/// Starts a program's first thread, by libpthread if the image has it; whether there was memory for it.
fn start_thread(argument: *mut c_void) -> bool {
    if let Some(create) = pthread_create() {
        // `pthread_attr_t`: three words.
        let mut attributes = [0usize; 8];
        let mut thread = null_mut();
        let place = attributes.as_mut_ptr().cast::<c_void>();
        // SAFETY: libpthread's functions, with room for what they write.
        unsafe {
            if let (Some(initialise), Some(stack), Some(detach)) =
                (pthread_attr_init(), pthread_attr_setstacksize(), pthread_attr_setdetachstate())
            {
                initialise(place);
                stack(place, MAIN_STACK);
                detach(place, 1);
                return create(&mut thread, place, first_of_pthread, argument) == 0;
            }
            return create(&mut thread, core::ptr::null(), first_of_pthread, argument) == 0;
        }
    }
    let stack = memory::mmap(null_mut(), MAIN_STACK, 3, 0x1000, -1, 0);
    let block = thread_storage::_rtld_tls_allocate();
    if stack as isize == -1 || block.is_null() {
        return false;
    }
    let mut id = 0;
    // SAFETY: the stack and the block are new.
    unsafe { lwp::create(first, argument, block, stack, MAIN_STACK, 0, &mut id).is_ok() }
}

unsafe extern "C" fn first_of_pthread(argument: *mut c_void) -> *mut c_void {
    // SAFETY: as `start_thread` passes it.
    unsafe { first(argument) };
    null_mut()
}

/// The first thread of a program.
unsafe extern "C" fn first(argument: *mut c_void) {
    // SAFETY: from `start_thread`, once.
    let launch = unsafe { Box::from_raw(argument.cast::<Launch>()) };
    let Launch { linked, arguments, count, environment, kernel_lwp, number } = *launch;
    if let Some(lwp) = lwp::current() {
        lwp.program.store(number, core::sync::atomic::Ordering::Relaxed);
    }
    // The LWP that the thread was made with is of the wrong process.
    kernel_lwp.enter();
    process::note_pid();
    // SAFETY: the program's functions, with arrays that stay.
    let status = unsafe {
        for function in linked.initialisers() {
            function(count, arguments, environment);
        }
        (linked.main)(count, arguments, environment)
    };
    process::exit_program(status)
}
