//! Sizes as Docker writes and reads them.

const DECIMAL: [&str; 9] = ["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];

/// A size in decimal units with at most `digits` significant digits: `4.26MB`.
pub(crate) fn size(bytes: u64, digits: u32) -> String {
    // An f64 holds sizes below 8 PiB exactly, and only a few digits are shown.
    #[allow(clippy::cast_precision_loss)]
    let mut value = bytes as f64;
    let mut unit = 0;
    // What rounds to 1000 is 1 of the next unit.
    while round(value, digits) >= 1000.0 && unit + 1 < DECIMAL.len() {
        value /= 1000.0;
        unit += 1;
    }
    let rounded = round(value, digits);
    format!("{rounded}{}", DECIMAL.get(unit).unwrap_or(&"B"))
}

/// A size as lists of images and containers show it.
pub(crate) fn short_size(bytes: u64) -> String {
    size(bytes, 3)
}

/// A size as `system df` shows it.
pub(crate) fn long_size(bytes: u64) -> String {
    size(bytes, 4)
}

/// A size in binary units, as `info` shows memory: `7.75GiB`.
pub(crate) fn binary_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    // As above.
    #[allow(clippy::cast_precision_loss)]
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{}{}", round(value, 4), UNITS.get(unit).unwrap_or(&"B"))
}

fn round(value: f64, digits: u32) -> f64 {
    if value == 0.0 {
        return 0.0;
    }
    let whole_digits = value.abs().log10().floor() + 1.0;
    let scale = 10f64.powf(f64::from(digits) - whole_digits);
    (value * scale).round() / scale
}

/// Reads a size in binary units as `-m` takes it: `64m`, `1.5GiB`, `1024`.
pub(crate) fn parse_binary(text: &str) -> Result<i64, String> {
    let bad = || format!("invalid size: '{text}'; give a number with b, k, m or g, such as 64m");
    let trimmed = text.trim();
    let end = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, suffix) = trimmed.split_at(end);
    let suffix = suffix.trim().to_ascii_lowercase();
    let power = match suffix.strip_suffix("ib").or_else(|| suffix.strip_suffix('b')).unwrap_or(&suffix) {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(bad()),
    };
    decimal(number, 1024i64.checked_pow(power).ok_or_else(bad)?).ok_or_else(bad)
}

/// `text` times `unit`, exactly; digits below one unit are cut off.
pub(crate) fn decimal(text: &str, unit: i64) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return None;
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction = fraction.get(..fraction.len().min(18))?;
    let part = if fraction.is_empty() {
        0
    } else {
        let scale = 10i128.pow(u32::try_from(fraction.len()).ok()?);
        fraction.parse::<i128>().ok()? * i128::from(unit) / scale
    };
    whole.checked_mul(unit)?.checked_add(i64::try_from(part).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_docker_writes_them() {
        let cases = [
            (0, "0B"),
            (2, "2B"),
            (999, "999B"),
            (1000, "1kB"),
            (4_261_574, "4.26MB"),
            (141_000_000, "141MB"),
            (1_200_000_000, "1.2GB"),
            (999_960, "1MB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(short_size(bytes), text);
        }
        assert_eq!(long_size(4_261_574), "4.262MB");
        assert_eq!(long_size(1_234_567_890), "1.235GB");
        assert_eq!(short_size(u64::MAX), "18.4EB");
    }

    #[test]
    fn sizes_are_read_in_binary_units() {
        assert_eq!(parse_binary("64m"), Ok(64 << 20));
        assert_eq!(parse_binary("1.5GiB"), Ok(3 << 29));
        assert_eq!(parse_binary("1024"), Ok(1024));
        assert_eq!(parse_binary("10kb"), Ok(10240));
        assert_eq!(parse_binary("32 MB"), Ok(32 << 20));
        for bad in ["", "m", "-1", "1x", "99999999p", "1.2.3"] {
            assert!(parse_binary(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn decimals_are_exact() {
        assert_eq!(decimal("0.1", 1_000_000_000), Some(100_000_000));
        assert_eq!(decimal(".5", 10), Some(5));
        assert_eq!(decimal("2", 1_000_000_000), Some(2_000_000_000));
        assert_eq!(decimal(".", 10), None);
    }
}
