//! The kernel's function symbols, for backtraces: addresses in order, then names.
//!
//! Layout: count (u32), then per symbol address offset from [`BASE`] (u32) and name offset (u32, from the
//! end of this table), ascending; then the names, demangled, each ended by a NUL.

/// What the addresses are relative to: the start of the kernel's top 2 GiB.
pub const BASE: u64 = 0xffff_ffff_8000_0000;

fn word(table: &[u8], index: usize) -> Option<u32> {
    let start = index.checked_mul(4)?;
    Some(u32::from_le_bytes(table.get(start..start.checked_add(4)?)?.try_into().ok()?))
}

/// The symbol that `address` is in, and the offset from its start.
pub fn find(table: &[u8], address: u64) -> Option<(&str, u64)> {
    let offset = u32::try_from(address.checked_sub(BASE)?).ok()?;
    let count = word(table, 0)? as usize;
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = (low + high) / 2;
        if word(table, 1 + 2 * middle)? <= offset {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    let index = low.checked_sub(1)?;
    let names = table.get(4 + 8 * count..)?;
    let name = names.get(word(table, 2 + 2 * index)? as usize..)?;
    let end = name.iter().position(|&byte| byte == 0)?;
    Some((core::str::from_utf8(&name[..end]).ok()?, u64::from(offset - word(table, 1 + 2 * index)?)))
}

/// Every symbol in order of addresses.
pub fn all(table: &[u8]) -> impl Iterator<Item = (u64, &str)> {
    let count = word(table, 0).unwrap_or(0) as usize;
    (0..count).filter_map(move |index| {
        let address = BASE.checked_add(word(table, 1 + 2 * index)?.into())?;
        find(table, address).map(|(name, _)| (address, name))
    })
}

/// Builds a table from (address, name) pairs; those outside the top 2 GiB are left out.
#[cfg(feature = "std")]
pub fn build(mut symbols: Vec<(u64, String)>) -> Vec<u8> {
    symbols
        .retain(|(address, _)| address.checked_sub(BASE).is_some_and(|offset| offset <= u64::from(u32::MAX)));
    symbols.sort();
    symbols.dedup_by_key(|(address, _)| *address);
    let mut table = (symbols.len() as u32).to_le_bytes().to_vec();
    let mut names = Vec::new();
    for (address, name) in &symbols {
        table.extend(((address - BASE) as u32).to_le_bytes());
        table.extend((names.len() as u32).to_le_bytes());
        names.extend(name.as_bytes());
        names.push(0);
    }
    table.extend(names);
    table
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    #[test]
    fn finds_the_symbol_at_or_before_an_address() {
        let table = build(vec![(BASE + 0x200, "second".into()), (BASE + 0x100, "first".into())]);
        assert_eq!(find(&table, BASE + 0x0ff), None);
        assert_eq!(find(&table, BASE + 0x100), Some(("first", 0)));
        assert_eq!(find(&table, BASE + 0x1ff), Some(("first", 0xff)));
        assert_eq!(find(&table, BASE + 0x212), Some(("second", 0x12)));
        assert!(all(&table).eq([(BASE + 0x100, "first"), (BASE + 0x200, "second")]));
        assert_eq!(all(&table[..10]).count(), 0);
        assert_eq!(find(&[], BASE), None);
        assert_eq!(find(&table[..10], BASE + 0x300), None);
    }
}
