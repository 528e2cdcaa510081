//! Reads the ACPI tables into a [`Machine`]; without them, the MP table.

use alloc::vec::Vec;
use core::{mem::size_of, ptr::NonNull};

use acpi::{
    AcpiTables, Handler, PciAddress, RawPhysicalMapping,
    rsdp::Rsdp,
    sdt::{
        SdtHeader,
        fadt::Fadt,
        hpet::HpetInfo,
        madt::{Madt, MadtEntry},
        mcfg::Mcfg,
    },
};
use bmk::platform::BootInformation;
use rumpuser::sync::InterruptLock;

use crate::{aml, io_apic::Signal, local_apic, machine::Machine, mp_table, port, register::Register};

/// The `acpi` crate's way to memory.
#[derive(Clone, Copy)]
struct Memory;

/// What is mapped: (physical start, physical end, virtual start). Tables are looked at often, and stand together.
static MAPPED: InterruptLock<Vec<(u64, u64, usize)>> = InterruptLock::new(Vec::new());

/// Where a piece of the firmware's memory is mapped, for good.
fn map(physical: u64, length: usize) -> usize {
    const PAGE_MASK: u64 = 4095;
    let mut mapped = MAPPED.lock();
    let end = physical.saturating_add(length as u64);
    if let Some((start, _, address)) = mapped.iter().find(|window| window.0 <= physical && end <= window.1) {
        return address + (physical - start) as usize;
    }
    let start = physical & !PAGE_MASK;
    let pages_end = end.saturating_add(PAGE_MASK) & !PAGE_MASK;
    let address = bmk::memory::map_firmware(start, (pages_end - start) as usize);
    mapped.push((start, pages_end, address));
    address + (physical - start) as usize
}

macro_rules! memory_access {
    ($($read:ident $write:ident $kind:ty;)*) => { $(
        fn $read(&self, address: usize) -> $kind {
            // SAFETY: the crate asks for places that the tables name.
            unsafe { (map(address as u64, size_of::<$kind>()) as *const $kind).read_volatile() }
        }
        fn $write(&self, address: usize, value: $kind) {
            // SAFETY: as above.
            unsafe { (map(address as u64, size_of::<$kind>()) as *mut $kind).write_volatile(value) }
        }
    )* };
}

macro_rules! port_access {
    ($($read:ident $write:ident $port_read:ident $port_write:ident $kind:ty;)*) => { $(
        fn $read(&self, port: u16) -> $kind {
            port::$port_read(port)
        }
        fn $write(&self, port: u16, value: $kind) {
            port::$port_write(port, value);
        }
    )* };
}

macro_rules! pci_access {
    ($($read:ident $write:ident $size:literal $kind:ty;)*) => { $(
        fn $read(&self, address: PciAddress, offset: u16) -> $kind {
            let location = (address.bus(), address.device(), address.function());
            crate::pci::port_read(location, offset, $size) as $kind
        }
        fn $write(&self, address: PciAddress, offset: u16, value: $kind) {
            let location = (address.bus(), address.device(), address.function());
            crate::pci::port_write(location, offset, $size, value.into());
        }
    )* };
}

impl Handler for Memory {
    unsafe fn map_physical_region<T>(&self, physical_address: usize, size: usize) -> RawPhysicalMapping<T> {
        // Old tables are shorter than their structure; the crate looks at the rest before it knows.
        let address = map(physical_address as u64, size.max(size_of::<T>())) as *mut T;
        let address = NonNull::new(address).unwrap_or(NonNull::dangling());
        // SAFETY: just mapped, for good.
        unsafe { RawPhysicalMapping::new(physical_address, address, size, size) }
    }

    unsafe fn unmap_physical_region<T>(&self, _region: RawPhysicalMapping<T>) {}

    memory_access! {
        read_u8 write_u8 u8;
        read_u16 write_u16 u16;
        read_u32 write_u32 u32;
        read_u64 write_u64 u64;
    }
    port_access! {
        read_io_u8 write_io_u8 read8 write8 u8;
        read_io_u16 write_io_u16 read16 write16 u16;
        read_io_u32 write_io_u32 read32 write32 u32;
    }
    pci_access! {
        read_pci_u8 write_pci_u8 1 u8;
        read_pci_u16 write_pci_u16 2 u16;
        read_pci_u32 write_pci_u32 4 u32;
    }

    fn nanos_since_boot(&self) -> u64 {
        rumpuser::rumpuser_clock_monotonic()
    }

    fn stall(&self, microseconds: u64) {
        port::delay(microseconds.saturating_mul(crate::tsc::per_microsecond()));
    }

    fn sleep(&self, milliseconds: u64) {
        self.stall(milliseconds.saturating_mul(1000));
    }
}

/// Finds out what the machine has.
pub fn read(boot: &BootInformation) -> Machine {
    let mut machine = Machine { local_apic: 0xfee0_0000, ..Machine::default() };
    if let Some(tables) = find(boot) {
        machine.has_tables = true;
        read_fixed(&tables, &mut machine);
        read_interrupts(&tables, &mut machine);
        if let Some(windows) = tables.find_table::<Mcfg>() {
            machine.pci_windows = windows
                .entries()
                .iter()
                .map(|entry| {
                    (
                        entry.pci_segment_group,
                        entry.bus_number_start,
                        entry.bus_number_end,
                        entry.base_address,
                    )
                })
                .collect();
        }
        machine.hpet =
            HpetInfo::new(&tables).ok().map(|hpet| hpet.base_address as u64).filter(|address| *address != 0);
    }
    if machine.cpus.is_empty() && machine.io_apics.is_empty() && !mp_table::read(&mut machine) {
        machine.io_apics.push((0xfec0_0000, 0));
        // The timer of PCs that don't tell otherwise.
        machine.overrides.push((0, 2, Signal::ISA));
    }
    machine
}

fn find(boot: &BootInformation) -> Option<AcpiTables<Memory>> {
    let given = boot.rsdp.and_then(|address| {
        // SAFETY: the loader says that the RSDP is there; its signature and the tables' are checked.
        unsafe { AcpiTables::from_rsdp(Memory, address as usize) }.ok()
    });
    given.or_else(|| {
        // SAFETY: the BIOS area and the first MiB of a PC can be read without effect.
        let rsdp = unsafe { Rsdp::search_for_on_bios(Memory) }.ok()?;
        // SAFETY: the search checked it.
        unsafe { AcpiTables::from_rsdp(Memory, rsdp.raw().physical_start()) }.ok()
    })
}

/// A piece of the firmware's memory.
pub fn bytes(physical: u64, length: usize) -> &'static [u8] {
    // SAFETY: mapped for good; what the firmware left there stays unchanged.
    unsafe { core::slice::from_raw_parts(map(physical, length) as *const u8, length) }
}

/// The byte code of a definition block.
fn byte_code(address: usize, length: u32) -> &'static [u8] {
    let length = (length as usize).saturating_sub(size_of::<SdtHeader>());
    bytes((address + size_of::<SdtHeader>()) as u64, length)
}

fn read_fixed(tables: &AcpiTables<Memory>, machine: &mut Machine) {
    let Some(fixed) = tables.find_table::<Fadt>() else { return };
    let main_block = tables.dsdt().ok().map(|table| byte_code(table.phys_address, table.length));
    let more_blocks = tables.ssdts().map(|table| byte_code(table.phys_address, table.length));
    let mut soft_off = None;
    for code in main_block.into_iter().chain(more_blocks) {
        soft_off = soft_off.or_else(|| aml::soft_off(code));
        machine.virtio_mmio.extend(aml::virtio_mmio(code));
        machine.event_device = machine.event_device.or_else(|| aml::event_device(code));
        if machine.pci_windows.is_empty() {
            machine.pci_windows.extend(aml::configuration_base(code).map(|base| (0, 0, u8::MAX, base)));
        }
    }

    let power = &mut machine.power;
    let flags = fixed.flags;
    if flags.system_is_hw_reduced_acpi() {
        let register = fixed.sleep_control_register().ok().flatten().and_then(Register::new);
        // Machines that have only S5 often don't name it; 5 is what their byte code says where it does.
        power.sleep_control = register.map(|register| (register, soft_off.map_or(5, |types| types.0)));
    } else {
        let control = [fixed.pm1a_control_block().ok(), fixed.pm1b_control_block().ok().flatten()];
        let types = soft_off.map(|(first, second)| [first, second]);
        for (index, block) in control.into_iter().enumerate() {
            let register = block.and_then(Register::new);
            power.control[index] = register.zip(types).map(|(register, types)| (register, types[index]));
        }
        let events = [fixed.pm1a_event_block().ok(), fixed.pm1b_event_block().ok().flatten()];
        for (index, block) in events.into_iter().enumerate() {
            let register = block.and_then(Register::new);
            let half = u16::from(fixed.pm1_event_length / 2);
            power.events[index] = register.map(|register| (register, register.offset(half)));
        }
        let general = fixed.gpe0_block().ok().flatten().and_then(Register::new);
        let half = u16::from(fixed.gpe0_block_length / 2);
        // Accessed two bytes at a time.
        power.general_events =
            general.filter(|_| half >= 2).map(|register| (register, register.offset(half)));
        power.interrupt = u8::try_from(fixed.sci_interrupt).ok();
        let command = u16::try_from(fixed.smi_cmd_port).unwrap_or(0);
        power.enable = (command != 0 && fixed.acpi_enable != 0).then_some((command, fixed.acpi_enable));
        let timer = fixed.pm_timer_block().ok().flatten().and_then(Register::new);
        machine.pm_timer = timer.map(|timer| (timer, flags.pm_timer_is_32_bit()));
    }
    if flags.supports_system_reset_via_fadt() {
        let register = fixed.reset_register().ok().and_then(Register::new);
        power.reset = register.map(|register| (register, fixed.reset_value));
    }
    machine.century_register = (fixed.century != 0).then_some(fixed.century);
}

fn read_interrupts(tables: &AcpiTables<Memory>, machine: &mut Machine) {
    const ENABLED: u32 = 1;
    let Some(table) = tables.find_table::<Madt>() else { return };
    machine.local_apic = table.get().local_apic_address.into();
    for entry in table.get().entries() {
        match entry {
            MadtEntry::LocalApic(cpu) if cpu.flags & ENABLED != 0 && cpu.apic_id != u8::MAX => {
                machine.cpus.push(cpu.apic_id.into());
            }
            MadtEntry::LocalX2Apic(cpu) if cpu.flags & ENABLED != 0 => machine.cpus.push(cpu.x2apic_id),
            MadtEntry::IoApic(io_apic) => {
                machine.io_apics.push((io_apic.io_apic_address.into(), io_apic.global_system_interrupt_base));
            }
            MadtEntry::InterruptSourceOverride(entry) if entry.bus == 0 => {
                // Where the flags say "as the bus has it", ISA means by edge and active high.
                let signal = Signal { level: entry.flags >> 2 & 3 == 3, low: entry.flags & 3 == 3 };
                machine.overrides.push((entry.irq, entry.global_system_interrupt, signal));
            }
            MadtEntry::LocalApicAddressOverride(entry) => machine.local_apic = entry.local_apic_address,
            _ => {}
        }
    }
}

/// Puts the boot CPU first and drops what can't be used. After the local APIC's mode is known.
pub fn order_cpus(machine: &mut Machine) {
    let boot_cpu = local_apic::identifier();
    let highest = local_apic::highest_identifier();
    let cpus = &mut machine.cpus;
    cpus.sort_unstable();
    cpus.dedup();
    cpus.retain(|cpu| *cpu != boot_cpu && *cpu <= highest);
    cpus.insert(0, boot_cpu);
}
