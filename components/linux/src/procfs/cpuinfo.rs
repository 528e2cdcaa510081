//! /proc/cpuinfo.

use alloc::{string::String, vec::Vec};
use core::fmt::Write;

use raw_cpuid::CpuId;
use rumpuser::{rumpuser_cpu_info, rumpuser_cpu_online};

/// The text. All CPUs are alike.
pub(super) fn text() -> Vec<u8> {
    let (name, frequency) = rumpuser_cpu_info();
    let cpuid = CpuId::new();
    let vendor = cpuid.get_vendor_info().map_or_else(String::new, |vendor| String::from(vendor.as_str()));
    let feature = cpuid.get_feature_info();
    let (family, model, stepping) =
        feature.as_ref().map_or((0, 0, 0), |info| (info.family_id(), info.model_id(), info.stepping_id()));
    let (physical, linear) = cpuid
        .get_processor_capacity_feature_info()
        .map_or((36, 48), |info| (info.physical_address_bits(), info.linear_address_bits()));
    let line = feature.as_ref().map_or(64, |info| u32::from(info.cflush_cache_line_size()) * 8);
    let online = rumpuser_cpu_online();
    let count = online.count_ones();
    let flags = flags(&cpuid);
    // Without a loop that was timed, twice the frequency is what Linux shows.
    let bogomips = frequency * 2;
    let mut text = String::new();
    for cpu in (0..64).filter(|cpu| online & 1 << cpu != 0) {
        let _ = write!(
            text,
            "processor\t: {cpu}\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\n\
             model name\t: {name}\nstepping\t: {stepping}\ncpu MHz\t\t: {}.{:03}\nphysical id\t: 0\n\
             siblings\t: {count}\ncore id\t\t: {cpu}\ncpu cores\t: {count}\napicid\t\t: {cpu}\n\
             initial apicid\t: {cpu}\nfpu\t\t: yes\nfpu_exception\t: yes\ncpuid level\t: 13\nwp\t\t: yes\n\
             flags\t\t: {flags}\nbugs\t\t:\nbogomips\t: {}.{:02}\nclflush size\t: {line}\n\
             cache_alignment\t: 64\naddress sizes\t: {physical} bits physical, {linear} bits virtual\n\
             power management:\n\n",
            frequency / 1000,
            frequency % 1000,
            bogomips / 1000,
            bogomips % 1000 / 10,
        );
    }
    text.into_bytes()
}

/// The features by Linux's names, in its order.
fn flags(cpuid: &CpuId<raw_cpuid::CpuIdReaderNative>) -> String {
    let mut names: Vec<&str> = Vec::new();
    let mut add = |present: bool, name| {
        if present {
            names.push(name);
        }
    };
    if let Some(info) = cpuid.get_feature_info() {
        add(info.has_fpu(), "fpu");
        add(info.has_vme(), "vme");
        add(info.has_de(), "de");
        add(info.has_pse(), "pse");
        add(info.has_tsc(), "tsc");
        add(info.has_msr(), "msr");
        add(info.has_pae(), "pae");
        add(info.has_mce(), "mce");
        add(info.has_cmpxchg8b(), "cx8");
        add(info.has_apic(), "apic");
        add(info.has_sysenter_sysexit(), "sep");
        add(info.has_mtrr(), "mtrr");
        add(info.has_pge(), "pge");
        add(info.has_mca(), "mca");
        add(info.has_cmov(), "cmov");
        add(info.has_pat(), "pat");
        add(info.has_pse36(), "pse36");
        add(info.has_clflush(), "clflush");
        add(info.has_mmx(), "mmx");
        add(info.has_fxsave_fxstor(), "fxsr");
        add(info.has_sse(), "sse");
        add(info.has_sse2(), "sse2");
        add(info.has_ss(), "ss");
        add(info.has_htt(), "ht");
    }
    if let Some(info) = cpuid.get_extended_processor_and_feature_identifiers() {
        add(info.has_syscall_sysret(), "syscall");
        add(info.has_execute_disable(), "nx");
        add(info.has_1gib_pages(), "pdpe1gb");
        add(info.has_rdtscp(), "rdtscp");
        add(info.has_64bit_mode(), "lm");
    }
    add(true, "constant_tsc");
    if let Some(info) = cpuid.get_feature_info() {
        add(info.has_sse3(), "pni");
        add(info.has_pclmulqdq(), "pclmulqdq");
        add(info.has_ssse3(), "ssse3");
        add(info.has_fma(), "fma");
        add(info.has_cmpxchg16b(), "cx16");
        add(info.has_pcid(), "pcid");
        add(info.has_sse41(), "sse4_1");
        add(info.has_sse42(), "sse4_2");
        add(info.has_x2apic(), "x2apic");
        add(info.has_movbe(), "movbe");
        add(info.has_popcnt(), "popcnt");
        add(info.has_aesni(), "aes");
        add(info.has_xsave(), "xsave");
        add(info.has_avx(), "avx");
        add(info.has_f16c(), "f16c");
        add(info.has_rdrand(), "rdrand");
        add(info.has_hypervisor(), "hypervisor");
    }
    if let Some(info) = cpuid.get_extended_processor_and_feature_identifiers() {
        add(info.has_lahf_sahf(), "lahf_lm");
        add(info.has_lzcnt(), "abm");
        add(info.has_sse4a(), "sse4a");
        add(info.has_prefetchw(), "3dnowprefetch");
    }
    if let Some(info) = cpuid.get_extended_feature_info() {
        add(info.has_fsgsbase(), "fsgsbase");
        add(info.has_bmi1(), "bmi1");
        add(info.has_avx2(), "avx2");
        add(info.has_smep(), "smep");
        add(info.has_bmi2(), "bmi2");
        add(info.has_rep_movsb_stosb(), "erms");
        add(info.has_avx512f(), "avx512f");
        add(info.has_avx512dq(), "avx512dq");
        add(info.has_rdseed(), "rdseed");
        add(info.has_adx(), "adx");
        add(info.has_smap(), "smap");
        add(info.has_clflushopt(), "clflushopt");
        add(info.has_avx512cd(), "avx512cd");
        add(info.has_sha(), "sha_ni");
        add(info.has_avx512bw(), "avx512bw");
        add(info.has_avx512vl(), "avx512vl");
    }
    names.join(" ")
}
