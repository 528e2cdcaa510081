//! What is linked into the image: modules and components in link sets, for `rumpuser_dl_bootstrap`.

use core::ffi::{c_char, c_int, c_void};

/// Modules of the kernel at once, and how many.
type ModuleInitialise = unsafe extern "C" fn(*const *const c_void, usize);
/// A symbol table, its size, and its strings; addresses in backtraces of the kernel stay numbers without it.
type LoadSymbols = unsafe extern "C" fn(*mut c_void, u64, *mut c_char, u64) -> c_int;
/// A component of the rump kernel.
type LoadComponent = unsafe extern "C" fn(*const c_void);

core::arch::global_asm!(
    ".pushsection .data.rel.ro.weak, \"aw\", @progbits",
    ".balign 8",
    ".weak __start_link_set_modules, __stop_link_set_modules",
    ".weak __start_link_set_rump_components, __stop_link_set_rump_components",
    ".global netbsd_link_sets",
    "netbsd_link_sets: .quad __start_link_set_modules, __stop_link_set_modules",
    ".quad __start_link_set_rump_components, __stop_link_set_rump_components",
    ".popsection",
);

/// The pointers of a link set: the first and the end of each; null where the image has none.
fn sets() -> [(*const *const c_void, usize); 2] {
    unsafe extern "C" {
        static netbsd_link_sets: [usize; 4];
    }
    // SAFETY: the words stand above and are never written.
    let [modules, modules_end, components, components_end] = unsafe { netbsd_link_sets };
    let set = |start: usize, end: usize| {
        (start as *const _, end.saturating_sub(start) / size_of::<*const c_void>())
    };
    [set(modules, modules_end), set(components, components_end)]
}

/// Hands the rump kernel everything that is linked in.
///
/// # Safety
/// The functions are the rump kernel's.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_dl_bootstrap(
    modules: ModuleInitialise,
    _symbols: Option<LoadSymbols>,
    component: Option<LoadComponent>,
) {
    let [(first_module, module_count), (first, count)] = sets();
    // SAFETY: the linker put pointers to modules and components one behind the other.
    unsafe {
        if module_count > 0 {
            modules(first_module, module_count);
        }
        for index in 0..count {
            if let Some(component) = component {
                component(*first.add(index));
            }
        }
    }
}
