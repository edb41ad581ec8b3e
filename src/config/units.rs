//! Sizes, durations and shares as people write them, both ways: what is shown is read back as the same value.
//!
//! | written    | units                                                       | a bare number        |
//! |------------|-------------------------------------------------------------|----------------------|
//! | a size     | `B`, `KiB`, `MiB`, `GiB`, `TiB`, `kB`, `MB`, `GB`, `TB`      | bytes                |
//! | a duration | `ns`, `us`, `µs`, `ms`, `s`, `m`, `h`, `d`                  | refused, but for `0` |
//! | a share    | `%`                                                         | refused              |
//!
//! A part behind a point is taken if it comes out whole: `1.5GiB` and `0.1ms`, but not `0.5B`.

use std::time::Duration;

/// The first one that divides a size shows it; decimal ones are only read.
const SIZES: &[(&str, u64)] = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];
const BINARY_SIZES: usize = 4;

const TIMES: &[(&str, u64)] = &[
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
    ("µs", 1_000),
];

/// Most digits behind a point: more than any unit can make whole.
const DECIMALS_MAX: usize = 15;

/// `64MiB`, `1.5 GiB`, `4096`: a number of bytes.
#[cfg(any(feature = "config", feature = "lz4", feature = "zstd", test))]
pub(crate) fn read_size(text: &str) -> Option<u64> {
    let (number, unit) = split(text);
    let scale = match unit {
        "" => 1,
        _ => SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1,
    };
    scaled(number, scale)
}

/// `5ms`, `0.5s`, `2m`: a duration of at most 584 years.
pub(crate) fn read_time(text: &str) -> Option<Duration> {
    let (number, unit) = split(text);
    let scale = match unit {
        "" if number == "0" => 1,
        _ => TIMES.iter().find(|(name, _)| *name == unit)?.1,
    };
    scaled(number, scale).map(Duration::from_nanos)
}

/// `80%`: a share in percent.
#[cfg(any(feature = "config", test))]
pub(crate) fn read_percent(text: &str) -> Option<u64> {
    scaled(text.trim().strip_suffix('%')?.trim_end(), 1)
}

/// A size as it would be written: in the largest unit of which it is a multiple.
pub(crate) fn show_size(bytes: u64) -> String {
    let unit = SIZES[..BINARY_SIZES].iter().find(|(_, scale)| bytes > 0 && bytes.is_multiple_of(*scale));
    unit.map_or_else(|| bytes.to_string(), |(name, scale)| format!("{}{name}", bytes / scale))
}

/// A duration as it would be written.
pub(crate) fn show_time(time: Duration) -> String {
    let Some(nanos) = u64::try_from(time.as_nanos()).ok() else {
        return format!("{time:?}");
    };
    let unit = TIMES.iter().find(|(_, scale)| nanos > 0 && nanos.is_multiple_of(*scale));
    unit.map_or_else(|| "0".to_owned(), |(name, scale)| format!("{}{name}", nanos / scale))
}

/// The number and what stands behind it.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (text[..end].trim_end(), text[end..].trim_start())
}

/// A decimal number times `scale`, if that is whole.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > DECIMALS_MAX {
        return None;
    }
    let tens = 10_u128.pow(u32::try_from(part.len()).ok()?);
    let part = part.parse::<u128>().ok()? * u128::from(scale);
    let whole = whole.parse::<u64>().ok()?.checked_mul(scale)?;
    part.is_multiple_of(tens).then_some(())?;
    whole.checked_add(u64::try_from(part / tens).ok()?)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_a_unit() {
        let read = ["7", "4096B", "64KiB", " 64 mib ", "1.5GiB", "2kB", "1TiB"].map(|text| read_size(text).unwrap());
        assert_eq!(read, [7, 4096, 65_536, 64 << 20, 3 << 29, 2000, 1 << 40]);
        for bad in ["", "x", "-1", "0.3KiB", "1 PiB", "1.", ".5MiB", "1.2.3", "99999999999999999999", "99999999999GiB"]
        {
            assert_eq!(read_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_need_a_unit_unless_they_are_zero() {
        let read = ["5ms", "0.1ms", "2 m", "0", "1d"].map(|text| read_time(text).unwrap());
        assert_eq!(read.map(|time| time.as_micros()), [5000, 100, 120_000_000, 0, 86_400_000_000]);
        for bad in ["", "5", "ms", "5 parsecs", "-1s", "0.5ns", "5MS", "1s2ms"] {
            assert_eq!(read_time(bad), None, "{bad}");
        }
    }

    #[test]
    fn shares_need_their_sign() {
        assert_eq!((read_percent("80%"), read_percent(" 5 % ")), (Some(80), Some(5)));
        for bad in ["80", "0.8", "80.5%", "%", "-1%"] {
            assert_eq!(read_percent(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_shown_is_read_back_as_the_same() {
        for bytes in [0, 1, 1000, 1024, 1536 << 10, 65_537, 1 << 30, 5 << 40, u64::MAX] {
            assert_eq!(read_size(&show_size(bytes)), Some(bytes), "{}", show_size(bytes));
        }
        for nanos in [0, 1, 1500, 100_000, 5_000_000, 90_000_000_000, 86_400_000_000_000, u64::MAX] {
            let time = Duration::from_nanos(nanos);
            assert_eq!(read_time(&show_time(time)), Some(time), "{}", show_time(time));
        }
        assert_eq!(
            (show_size(1536 << 10), show_time(Duration::from_millis(1500))),
            ("1536KiB".into(), "1500ms".into())
        );
    }
}
