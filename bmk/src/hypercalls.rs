//! `rumpuser`'s hypercalls, in the guest. The kernel binary exports them: `rumpuser::provide!(bmk::hypercalls::Kernel)`.

use alloc::{string::String, sync::Arc};
use core::{arch::asm, sync::atomic::Ordering};

use rumpuser::{
    CpuSet, CpuStatistics, Frame, Halt, MachineTrap, MemoryStatistics, OutOfMemory, Pmap, Presence, Thread,
    ThreadSpec, Trap, UserContext, user::Fault,
};

use crate::{
    clock, console, cpu, hooks, machine,
    memory::{
        access,
        frames::{self, For},
        layout,
        pmap::KernelPmap,
    },
    platform::platform,
    schedule,
    trap::{self, constant, extended, user},
};

/// The implementation.
pub struct Kernel;

impl rumpuser::Hypercalls for Kernel {
    fn rumpuser_thread_create(spec: ThreadSpec) -> Result<Thread, OutOfMemory> {
        schedule::spawn(spec).map(|thread| thread as Thread)
    }

    fn rumpuser_thread_current() -> Thread {
        schedule::thread::current()
    }

    fn rumpuser_thread_exit() -> ! {
        schedule::exit()
    }

    fn rumpuser_park(deadline: u64) {
        schedule::park(deadline);
    }

    fn rumpuser_yield() {
        schedule::yield_now();
    }

    #[inline]
    fn rumpuser_curlwp() -> *mut () {
        cpu::curlwp()
    }

    fn rumpuser_set_curlwp(lwp: *mut ()) {
        cpu::set_curlwp(lwp);
    }

    fn rumpuser_set_presence(presence: Option<Arc<Presence>>) {
        let state = machine::interrupts_disable();
        let before = cpu::current_thread().set_presence(presence);
        schedule::interrupts_restore(state);
        drop(before);
    }

    fn rumpuser_set_thread_pointer(address: usize) {
        let state = machine::interrupts_disable();
        if cpu::current_thread().thread_pointer.replace(address as u64) == 0 {
            extended::begin_control();
        }
        // SAFETY: kernel code of ours leaves FS alone; whoever runs in user mode gets its own loaded before.
        unsafe { machine::wrmsr(machine::MSR_FS_BASE, address as u64) };
        cpu::current().loaded_fs.set(u64::MAX >> 1);
        schedule::interrupts_restore(state);
    }

    #[inline]
    fn rumpuser_interrupted() -> bool {
        cpu::current_thread().interrupted.load(Ordering::SeqCst)
    }

    fn rumpuser_clear_interrupt() {
        cpu::current_thread().interrupted.store(false, Ordering::SeqCst);
    }

    #[inline]
    fn rumpuser_preempt_disable() {
        // SAFETY: one instruction on a per-CPU word; not marked `nomem`, so nothing moves across it.
        unsafe { asm!("inc dword ptr gs:[{}]", const cpu::PREEMPT_COUNT, options(nostack)) };
    }

    #[inline]
    fn rumpuser_preempt_enable() {
        let pending: u32;
        // SAFETY: as above; with the count at 0 the flag may be another CPU's already, which does no harm.
        unsafe {
            asm!(
                "xor {0:e}, {0:e}",
                "dec dword ptr gs:[{1}]",
                "jnz 2f",
                "mov {0:e}, gs:[{2}]",
                "2:",
                out(reg) pending,
                const cpu::PREEMPT_COUNT,
                const cpu::RESCHEDULE,
                options(nostack),
            );
        }
        if pending != 0 {
            schedule::preempt_pending();
        }
    }

    #[inline]
    fn rumpuser_interrupts_disable() -> usize {
        machine::interrupts_disable()
    }

    #[inline]
    fn rumpuser_interrupts_restore(state: usize) {
        schedule::interrupts_restore(state);
    }

    #[inline]
    fn rumpuser_cpu() -> usize {
        cpu::number()
    }

    fn rumpuser_cpu_count() -> usize {
        cpu::possible()
    }

    fn rumpuser_cpu_online() -> CpuSet {
        cpu::online()
    }

    fn rumpuser_cpu_times(cpu: usize) -> (u64, u64, u64) {
        schedule::cpu_times(cpu)
    }

    fn rumpuser_cpu_statistics(cpu: usize) -> CpuStatistics {
        schedule::cpu_statistics(cpu)
    }

    fn rumpuser_cpu_info() -> (String, u64) {
        let mut name = [0; 48];
        if machine::cpuid(0x8000_0000, 0)[0] >= 0x8000_0004 {
            let words = (0..3).flat_map(|leaf| machine::cpuid(0x8000_0002 + leaf, 0));
            for (bytes, word) in name.chunks_exact_mut(4).zip(words) {
                bytes.copy_from_slice(&word.to_le_bytes());
            }
        }
        let text = String::from_utf8_lossy(&name);
        (text.trim_matches(['\0', ' ']).into(), clock::frequency() / 1000)
    }

    fn rumpuser_clock_monotonic() -> u64 {
        clock::now()
    }

    fn rumpuser_clock_realtime() -> u64 {
        clock::realtime()
    }

    fn rumpuser_clock_set_realtime(now: u64) {
        clock::set_realtime(now);
    }

    fn rumpuser_clock_page() -> Frame {
        clock::page()
    }

    fn rumpuser_frame_alloc() -> Result<Frame, OutOfMemory> {
        let frame = frames::allocate(0, For::User)?;
        frames::zero(frame, 1);
        Ok(frame)
    }

    fn rumpuser_frame_alloc_uninitialised() -> Result<Frame, OutOfMemory> {
        frames::allocate(0, For::User)
    }

    fn rumpuser_frames_alloc(order: u32) -> Result<Frame, OutOfMemory> {
        let frame = frames::allocate(order as usize, For::User)?;
        frames::zero(frame, 1 << order);
        Ok(frame)
    }

    fn rumpuser_frame_retain(frame: Frame) {
        frames::retain(frame);
    }

    fn rumpuser_frame_release(frame: Frame) {
        frames::release(frame);
    }

    fn rumpuser_frame_references(frame: Frame) -> u32 {
        frames::count(frame)
    }

    #[inline]
    fn rumpuser_frame_address(frame: Frame) -> *mut u8 {
        layout::direct(frame.physical()) as *mut u8
    }

    fn rumpuser_frame_of(address: *const u8) -> Frame {
        Frame(layout::physical(address as usize) / rumpuser::memory::PAGE_SIZE as u64)
    }

    fn rumpuser_memory_statistics() -> MemoryStatistics {
        frames::statistics()
    }

    fn rumpuser_pmap_create() -> Result<Arc<dyn Pmap>, OutOfMemory> {
        KernelPmap::create().map(|pmap| pmap as Arc<dyn Pmap>)
    }

    fn rumpuser_pmap_activate(pmap: Option<Arc<dyn Pmap>>) {
        schedule::set_pmap(pmap);
    }

    fn rumpuser_user_execute(context: &mut UserContext) -> Trap {
        user::execute(context)
    }

    fn rumpuser_set_constant_call(number: usize, value: Option<u32>) {
        constant::set(number, value);
    }

    fn rumpuser_copyin(source: usize, destination: &mut [u8]) -> usize {
        access::copyin(source, destination)
    }

    fn rumpuser_copyout(source: &[u8], destination: usize) -> usize {
        access::copyout(source, destination)
    }

    fn rumpuser_user_load(address: usize) -> Result<u32, Fault> {
        access::user_load(address)
    }

    fn rumpuser_user_compare_exchange(address: usize, old: u32, new: u32) -> Result<u32, Fault> {
        access::user_compare_exchange(address, old, new)
    }

    fn rumpuser_set_fault_handler(handler: fn(address: usize, write: bool) -> bool) {
        access::set_fault_handler(handler);
    }

    fn rumpuser_extended_state_save(context: &mut UserContext, area: &mut [u8]) -> usize {
        extended::save(context, area)
    }

    fn rumpuser_extended_state_load(context: &mut UserContext, area: &[u8]) {
        extended::load(context, area);
    }

    fn rumpuser_set_trap_handler(handler: fn(&mut MachineTrap) -> bool) {
        hooks::set_trap_handler(handler);
    }

    fn rumpuser_set_trap_stack(top: usize) {
        cpu::current_thread().trap_stack.set(top as u64 & !15);
    }

    fn rumpuser_trap_state_save(context: &UserContext, area: &mut [u8]) -> usize {
        extended::save_trapped(context, area)
    }

    fn rumpuser_resume(context: &UserContext, area: &[u8]) -> ! {
        trap::resume(context, area)
    }

    fn rumpuser_copy_guarded(source: usize, destination: usize, length: usize) -> usize {
        access::copy_guarded(source, destination, length)
    }

    fn rumpuser_console_write(bytes: &[u8]) {
        console::write(bytes);
    }

    fn rumpuser_trace_write(lines: &str) {
        console::write_trace(lines);
    }

    fn rumpuser_console_set_input(handler: fn(bytes: &[u8])) {
        hooks::set_console_input(handler);
    }

    fn rumpuser_getrandom(bytes: &mut [u8]) {
        let mut filled = 0;
        while filled < bytes.len() {
            filled += platform().entropy(&mut bytes[filled..]);
        }
    }

    fn rumpuser_set_stop_handler(handler: fn()) {
        hooks::set_stop_handler(handler);
    }

    fn rumpuser_halt(how: Halt) -> ! {
        platform().halt(how)
    }
}

/// All CPUs, for threads that may run anywhere.
pub const ANY_CPU: CpuSet = CpuSet::MAX;
