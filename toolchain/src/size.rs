//! Sizes as people write them: `512M`, `2G`.

/// Reads a size. A number without a suffix is shifted by `default_shift` (20: mebibytes, 0: bytes).
pub fn parse(text: &str, default_shift: u32) -> Result<u64, String> {
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" => default_shift,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        _ => return Err(format!("`{text}` is not a size, as 512M or 2G")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("`{text}` is not a size, as 512M or 2G"))?;
    number
        .checked_mul(1 << shift)
        .filter(|size| *size > 0 && *size < 1 << 60)
        .ok_or_else(|| format!("`{text}` is out of range"))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn suffixes() {
        assert_eq!(parse("16", 20), Ok(16 << 20));
        assert_eq!(parse("16", 0), Ok(16));
        assert_eq!(parse("8M", 0), Ok(8 << 20));
        assert_eq!(parse("2g", 20), Ok(2 << 30));
        assert_eq!(parse("64KiB", 20), Ok(64 << 10));
        for bad in ["2X", "", "0", "99999999999G", "-1", "1.5G", "é"] {
            assert!(parse(bad, 20).is_err(), "{bad}");
        }
    }
}
