//! References to functions of C that an image may lack: what isn't linked is null.

/// Declares functions of C that may be absent, each as a function that yields its address. Each is declared once.
macro_rules! weak {
    ($($(#[$attribute:meta])* fn $name:ident($($argument:ty),*) $(-> $result:ty)?;)*) => {
        core::arch::global_asm!(
            ".pushsection .data.rel.ro.weak, \"aw\", @progbits",
            ".balign 8",
            $(
                concat!(".weak ", stringify!($name)),
                concat!(".global weak_", stringify!($name)),
                concat!("weak_", stringify!($name), ": .quad ", stringify!($name)),
            )*
            ".popsection",
        );
        $(
            $(#[$attribute])*
            pub fn $name() -> Option<unsafe extern "C" fn($($argument),*) $(-> $result)?> {
                unsafe extern "C" {
                    #[link_name = concat!("weak_", stringify!($name))]
                    static ADDRESS: Option<unsafe extern "C" fn($($argument),*) $(-> $result)?>;
                }
                // SAFETY: the word stands above, holds a function of this type or null, and is never written.
                unsafe { ADDRESS }
            }
        )*
    };
}
pub(crate) use weak;

/// Declares variables of C that may be absent, each as a function that yields its address or null.
macro_rules! weak_data {
    ($($(#[$attribute:meta])* static $name:ident: $kind:ty;)*) => {
        core::arch::global_asm!(
            ".pushsection .data.rel.ro.weak, \"aw\", @progbits",
            ".balign 8",
            $(
                concat!(".weak ", stringify!($name)),
                concat!(".global weak_", stringify!($name)),
                concat!("weak_", stringify!($name), ": .quad ", stringify!($name)),
            )*
            ".popsection",
        );
        $(
            $(#[$attribute])*
            #[allow(non_snake_case, reason = "C's name")]
            fn $name() -> *mut $kind {
                unsafe extern "C" {
                    #[link_name = concat!("weak_", stringify!($name))]
                    static ADDRESS: *mut $kind;
                }
                // SAFETY: the word stands above, holds an address of this type or null, and is never written.
                unsafe { ADDRESS }
            }
        )*
    };
}
pub(crate) use weak_data;

/// Gives functions of this crate more names, which give way to others in the image.
macro_rules! alias {
    ($($name:ident = $target:ident;)*) => {
        #[cfg(not(test))]
        core::arch::global_asm!($(
            concat!(".weak ", stringify!($name)),
            concat!(".type ", stringify!($name), ", @function"),
            concat!(".set ", stringify!($name), ", ", stringify!($target)),
        )*);
    };
}
pub(crate) use alias;
