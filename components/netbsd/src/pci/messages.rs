//! MSI-X for the tree's drivers: `pci_intr_alloc(9)`, `pci_intr_type(9)` and `pci_intr_release(9)` in the place of the PCI
//! component's own, which know pins alone. Those are weak, as these are, and the platform is linked first; a set whose
//! component has its own for good keeps them.

use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::ffi::{c_int, c_uint, c_void};

use rumpuser::{device::InterruptHandler, sync::SpinLock};

use super::{
    bus::Function,
    interrupt::{self, Line},
};
use crate::{
    errno::{EINVAL, Errno},
    weak::{alias, weak},
};

/// `pci_intr_type_t`: the pin, and MSI-X; they index the counts.
const PIN: c_int = 0;
const MSI_X: c_int = 2;
/// The capability, its control word, and the mask of its count of vectors less one.
const CAPABILITY: u8 = 0x11;
const CONTROL: u16 = 2;
const COUNT: u32 = 0x7ff;
/// As many vectors as one driver gets.
const MOST: usize = 32;

weak! {
    fn rumpns_default_pci_intr_alloc(*const c_void, *mut *mut u64, *mut c_int, c_int) -> c_int;
    fn rumpns_default_pci_intr_release(*mut c_void, *mut u64, c_int);
    fn rumpns_pci_intr_map(*const c_void, *mut u64) -> c_int;
}

alias! {
    rumpns_pci_intr_alloc = netbsd_pci_intr_alloc;
    rumpns_pci_intr_type = netbsd_pci_intr_type;
    rumpns_pci_intr_release = netbsd_pci_intr_release;
}

/// The vectors that are allocated, by cookie.
static VECTORS: SpinLock<Vec<(c_uint, Arc<Line>)>> = SpinLock::new(Vec::new());

/// The vector that a cookie stands for.
pub fn find(cookie: c_uint) -> Option<Arc<Line>> {
    VECTORS.lock().iter().find(|(known, _)| *known == cookie).map(|(_, line)| line.clone())
}

/// Whether the function has that many vectors.
fn has(function: &Function, vectors: usize) -> bool {
    let capability = function.device.capabilities(CAPABILITY).first().copied();
    capability.and_then(|capability| capability.checked_add(CONTROL)).is_some_and(|control| {
        let offered = (function.device.config_read(control, 2) & COUNT) as usize + 1;
        (1..=offered.min(MOST)).contains(&vectors)
    })
}

/// Turns MSI-X on for the function of the cookies, a vector for each.
fn establish(cookies: &[c_uint]) -> Option<()> {
    let function = interrupt::function(*cookies.first()?)?;
    if !has(&function, cookies.len()) {
        return None;
    }
    let lines: Vec<_> = cookies.iter().map(|_| Line::new(function.clone())).collect();
    let handlers = lines.iter().cloned().map(|line| Box::new(move || line.interrupt()) as InterruptHandler);
    if !function.device.establish_interrupts(handlers.collect()) {
        return None;
    }
    function.enable_bus_master();
    VECTORS.lock().extend(cookies.iter().copied().zip(lines));
    Some(())
}

/// Allocates vectors where the driver takes them and the function has as many, else what the component's own does.
///
/// # Safety
/// `attach` is a `struct pci_attach_args`, `handles` a place for an array's address, `counts` three numbers or null.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn netbsd_pci_intr_alloc(
    attach: *const c_void,
    handles: *mut *mut u64,
    counts: *mut c_int,
    most: c_int,
) -> Errno {
    // SAFETY: the caller's promise.
    let wanted = if counts.is_null() || most < MSI_X { 0 } else { unsafe { *counts.add(MSI_X as usize) } };
    if let Some(map) = rumpns_pci_intr_map()
        && let Some(wanted) = usize::try_from(wanted).ok().filter(|wanted| (1..=MOST).contains(wanted))
    {
        let mut cookies = alloc::vec![0; wanted].into_boxed_slice();
        // SAFETY: the component's function, with the caller's argument and a place for a cookie.
        let mapped = cookies.iter_mut().all(|cookie| unsafe { map(attach, cookie) } == 0);
        let numbers: Vec<_> = cookies.iter().map(|&cookie| cookie as c_uint).collect();
        if mapped && establish(&numbers).is_some() {
            // SAFETY: the caller's promise; `netbsd_pci_intr_release` takes it back.
            unsafe { *handles = Box::into_raw(cookies).cast() };
            return 0;
        }
    }
    let Some(default) = rumpns_default_pci_intr_alloc() else { return EINVAL };
    // SAFETY: the component's function, with the caller's arguments.
    unsafe { default(attach, handles, counts, most) }
}

/// How the interrupt of a handle is signalled.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn netbsd_pci_intr_type(_chipset: *mut c_void, handle: u64) -> c_int {
    if find(handle as c_uint).is_some() { MSI_X } else { PIN }
}

/// Turns the vectors off that were allocated.
///
/// # Safety
/// `handles` came from `pci_intr_alloc`, and isn't used any more; nor are handlers of theirs established.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn netbsd_pci_intr_release(chipset: *mut c_void, handles: *mut u64, count: c_int) {
    // SAFETY: there is one at least.
    let first = unsafe { *handles };
    let Some(function) = find(first as c_uint).and(interrupt::function(first as c_uint)) else {
        if let Some(default) = rumpns_default_pci_intr_release() {
            // SAFETY: the component's function, for what its own allocated.
            unsafe { default(chipset, handles, count) };
        }
        return;
    };
    let length = usize::try_from(count).unwrap_or(0);
    // SAFETY: `netbsd_pci_intr_alloc` made it with as many.
    let cookies = unsafe { Box::from_raw(core::ptr::slice_from_raw_parts_mut(handles, length)) };
    function.device.release_interrupts();
    VECTORS.lock().retain(|(cookie, _)| !cookies.contains(&u64::from(*cookie)));
}

#[cfg(test)]
mod tests {
    use super::{super::bus::tests::with_vectors, *};

    #[test]
    fn a_function_gets_no_more_vectors_than_it_has() {
        let function = with_vectors(3);
        let given = [0, 1, 3, 4].map(|wanted| has(&function, wanted));
        assert_eq!(given, [false, true, true, false]);
        assert!(!has(&with_vectors(2048), MOST + 1));
        assert!(!has(&with_vectors(0), 1));
    }

    #[test]
    fn handles_without_vectors_are_pins() {
        assert_eq!(netbsd_pci_intr_type(core::ptr::null_mut(), u64::MAX), PIN);
    }
}
