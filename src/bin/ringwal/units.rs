//! Sizes and durations as people write them, both ways.

use std::time::Duration;

const SIZES: [(&str, u64); 10] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("G", 1 << 30),
    ("M", 1 << 20),
    ("K", 1 << 10),
];

const TIMES: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

/// `64MiB`, `1G`, `4096`: a number of bytes.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text[digits.len()..].trim();
    let scale = match unit {
        "" | "B" => 1,
        _ => SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map_or(0, |(_, scale)| *scale),
    };
    let bytes = digits.parse::<u64>().ok().filter(|_| scale > 0).and_then(|n| n.checked_mul(scale));
    bytes.ok_or_else(|| "expected a number of bytes, as 4096, 64KiB, 64MiB or 1GiB".to_owned())
}

/// `5ms`, `30s`, `2m`: a duration.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text[digits.len()..].trim();
    let scale = match unit {
        "" if digits == "0" => 1,
        _ => TIMES.iter().find(|(name, _)| *name == unit).map_or(0, |(_, scale)| *scale),
    };
    let nanos = digits.parse::<u64>().ok().filter(|_| scale > 0).and_then(|n| n.checked_mul(scale));
    nanos.map(Duration::from_nanos).ok_or_else(|| "expected a duration, as 500us, 5ms, 30s or 2m".to_owned())
}

/// `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `12.3 MB`: for people; the exact number is in the JSON.
pub(crate) fn bytes_text(bytes: u64) -> String {
    let scales = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match scales.iter().find(|(scale, _)| bytes >= *scale) {
        Some((scale, name)) => format!("{:.1} {name}", ratio(bytes, *scale)),
        None => format!("{bytes} B"),
    }
}

/// One number divided by another; 0 where there is nothing to divide by.
#[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
pub(crate) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_a_unit() {
        let sizes: Vec<_> = ["7", "4096B", "64KiB", "64mib", "1 GiB", "2kB"].map(|t| parse_size(t).unwrap()).to_vec();
        assert_eq!(sizes, [7, 4096, 65_536, 64 << 20, 1 << 30, 2000]);
        for bad in ["", "x", "-1", "1.5M", "1 PiB", "99999999999999999999", "99999999999GiB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_need_a_unit_unless_they_are_zero() {
        assert_eq!(parse_duration("5ms"), Ok(Duration::from_millis(5)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        for bad in ["", "5", "ms", "5 parsecs", "-1s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_are_grouped_by_three() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn amounts_are_shown_in_a_fitting_unit() {
        assert_eq!((bytes_text(999), bytes_text(1_500_000)), ("999 B".to_owned(), "1.5 MB".to_owned()));
    }
}
