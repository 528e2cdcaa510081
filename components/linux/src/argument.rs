//! How the six raw registers of a system call become the typed arguments of a handler.

use rumpkern::Result;

use crate::task::Task;

/// A type that a system call argument can have. Conversions truncate, as Linux's do.
pub trait FromArgument {
    /// The value that `raw` stands for.
    fn from_argument(raw: u64) -> Self;
}

macro_rules! from_integer {
    ($($kind:ty)*) => { $(
        impl FromArgument for $kind {
            fn from_argument(raw: u64) -> Self {
                raw as $kind
            }
        }
    )* };
}
from_integer!(i8 u8 i16 u16 i32 u32 i64 u64 isize usize);

/// A handler of a system call: a function of the calling task and up to six typed arguments.
pub trait Handler<Arguments> {
    /// How many arguments it takes.
    const COUNT: usize;
    /// Calls it.
    fn call(self, task: &Task, raw: &[u64; 6]) -> Result<usize>;
}

macro_rules! handler {
    ($count:literal $($argument:ident $index:literal)*) => {
        impl<F, $($argument: FromArgument),*> Handler<($($argument,)*)> for F
        where
            F: Fn(&Task, $($argument),*) -> Result<usize>,
        {
            const COUNT: usize = $count;

            #[inline(always)]
            fn call(self, task: &Task, raw: &[u64; 6]) -> Result<usize> {
                let _ = raw;
                self(task, $($argument::from_argument(raw[$index])),*)
            }
        }
    };
}
handler!(0);
handler!(1 A 0);
handler!(2 A 0 B 1);
handler!(3 A 0 B 1 C 2);
handler!(4 A 0 B 1 C 2 D 3);
handler!(5 A 0 B 1 C 2 D 3 E 4);
handler!(6 A 0 B 1 C 2 D 3 E 4 G 5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_truncate_as_in_linux() {
        assert_eq!(i32::from_argument(0xffff_ffff_0000_0003), 3);
        assert_eq!(i32::from_argument(0xffff_ffff), -1);
        assert_eq!(usize::from_argument(u64::MAX), usize::MAX);
    }
}
