//! Sizes, durations, cores and credit: as people write them, and as people read them.

use wc_types::{Bytes, MicroNcu, Millis, Timestamp};

/// Units of size, largest first within each family, with their factor.
const SIZE_UNITS: [(&str, u64); 12] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("bytes", 1),
    ("B", 1),
    ("", 1),
];

/// Units of time, in milliseconds. `ms` stands before `s` and `m`, which it ends and begins with.
const TIME_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Multiplies a decimal such as `1.5` by `factor` without a detour through floating point, rounding down.
fn scaled(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 12 {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    let part = fraction.parse::<u128>().ok()? * u128::from(factor) / 10u128.pow(fraction.len() as u32);
    whole.checked_add(u64::try_from(part).ok()?)
}

/// Splits `256MiB` into number and unit.
fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start())
}

/// Reads a size.
///
/// # Errors
/// A sentence that says what a size looks like.
pub fn size(text: &str) -> Result<Bytes, String> {
    let (number, unit) = split_unit(text.trim());
    SIZE_UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .and_then(|(_, factor)| scaled(number, *factor))
        .map(Bytes)
        .ok_or_else(|| "must be a size such as 256MiB, 1.5GiB, 10GB or 4096".to_owned())
}

/// Reads a duration, such as `90s`, `5m` or `1h30m`.
///
/// # Errors
/// A sentence that says what a duration looks like.
pub fn duration(text: &str) -> Result<Millis, String> {
    let wrong = || "must be a duration such as 90s, 5m, 2h or 1h30m".to_owned();
    let mut rest = text.trim();
    let mut total = 0u64;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let (number, tail) = split_unit(rest);
        let unit_end = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, next) = tail.split_at(unit_end);
        let factor = TIME_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?.1;
        let millis = scaled(number, factor).ok_or_else(wrong)?;
        total = total.checked_add(millis).ok_or_else(wrong)?;
        rest = next.trim_start();
    }
    Ok(Millis(total))
}

/// Reads cores: `2`, `0.5`, or thousandths such as `500m`.
///
/// # Errors
/// A sentence that says what cores look like.
pub fn millicores(text: &str) -> Result<u32, String> {
    let text = text.trim();
    let value = match text.strip_suffix('m') {
        Some(thousandths) => thousandths.parse::<u32>().ok(),
        None => scaled(text, 1000).and_then(|value| u32::try_from(value).ok()),
    };
    value.ok_or_else(|| "must be a number of cores such as 2, 0.5 or 500m".to_owned())
}

/// Reads an amount of credit in NCU.
///
/// # Errors
/// A sentence that says what credit looks like.
pub fn ncu(text: &str) -> Result<MicroNcu, String> {
    scaled(text.trim(), 1_000_000)
        .map(MicroNcu)
        .ok_or_else(|| "must be an amount of NCU such as 2 or 0.5".to_owned())
}

/// Writes a size with three digits: `192 KiB`, `1.50 GiB`.
pub fn show_size(bytes: u64) -> String {
    for (name, factor) in &SIZE_UNITS[..4] {
        if bytes >= *factor {
            return format!("{} {name}", three_digits(bytes as f64 / *factor as f64));
        }
    }
    format!("{bytes} B")
}

/// Writes micro-NCU as NCU.
pub fn show_ncu(micro: i64) -> String {
    let sign = if micro < 0 { "-" } else { "" };
    let micro = micro.unsigned_abs();
    let fraction = format!("{:06}", micro % 1_000_000);
    let fraction = fraction.trim_end_matches('0');
    let fraction = if fraction.is_empty() { String::new() } else { format!(".{fraction}") };
    format!("{sign}{}{fraction} NCU", micro / 1_000_000)
}

/// Writes a length of time: `430 ms`, `2.5 s`, `3 m 20 s`, `2 h 5 m`, `4 d 3 h`.
pub fn show_duration(length: Millis) -> String {
    let seconds = length.0 / 1000;
    match seconds {
        0 => format!("{} ms", length.0),
        1..=59 => format!("{} s", three_digits(length.0 as f64 / 1000.0)),
        60..=3_599 => format!("{} m {} s", seconds / 60, seconds % 60),
        3_600..=86_399 => format!("{} h {} m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// Writes a moment as how long ago it was.
pub fn show_ago(at: Timestamp, now: Timestamp) -> String {
    if at > now {
        return format!("in {}", show_duration(at.since(now)));
    }
    match now.since(at).0 {
        0..1000 => "just now".to_owned(),
        millis => format!("{} ago", show_duration(Millis(millis / 1000 * 1000))),
    }
}

/// Writes a ratio of a million as a percentage.
pub fn show_ppm(ppm: u32) -> String {
    format!("{}.{} %", ppm / 10_000, ppm / 1_000 % 10)
}

fn three_digits(value: f64) -> String {
    match value {
        value if value >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_exactly() {
        let cases = [
            ("256MiB", Some(256 << 20)),
            ("1.5GiB", Some(3 << 29)),
            ("10 GB", Some(10_000_000_000)),
            ("4096", Some(4096)),
            ("0", Some(0)),
            ("12 B", Some(12)),
            ("", None),
            ("MiB", None),
            ("-1", None),
            ("1e3", None),
            ("10 potatoes", None),
            ("1..5MiB", None),
            ("99999999999999999999", None),
            ("99999999999TiB", None),
        ];
        for (text, expected) in cases {
            assert_eq!(size(text).ok().map(|bytes| bytes.0), expected, "{text}");
        }
    }

    #[test]
    fn durations_are_read_exactly() {
        let cases = [
            ("90s", Some(90_000)),
            ("5m", Some(300_000)),
            ("2h", Some(7_200_000)),
            ("1h30m", Some(5_400_000)),
            ("1h 30m", Some(5_400_000)),
            ("250ms", Some(250)),
            ("1.5s", Some(1_500)),
            ("7d", Some(604_800_000)),
            ("5", None),
            ("m", None),
            ("", None),
            ("5 minutes", None),
            ("-5m", None),
            ("999999999999999999d", None),
        ];
        for (text, expected) in cases {
            assert_eq!(duration(text).ok().map(|length| length.0), expected, "{text}");
        }
    }

    #[test]
    fn cores_and_credit_are_read_exactly() {
        assert_eq!(millicores("2"), Ok(2000));
        assert_eq!(millicores("0.5"), Ok(500));
        assert_eq!(millicores("250m"), Ok(250));
        assert!(
            millicores("two").is_err() && millicores("-1").is_err() && millicores("99999999999").is_err()
        );
        assert_eq!(ncu("2.5"), Ok(MicroNcu(2_500_000)));
        assert!(ncu("all").is_err());
    }

    #[test]
    fn amounts_are_shown_for_people() {
        assert_eq!(show_size(196_608), "192 KiB");
        assert_eq!(show_size(100), "100 B");
        assert_eq!(show_ncu(-1_500_000), "-1.5 NCU");
        assert_eq!(show_ncu(3_000_000), "3 NCU");
        assert_eq!(show_duration(Millis(430)), "430 ms");
        assert_eq!(show_duration(Millis(2_500)), "2.50 s");
        assert_eq!(show_duration(Millis(200_000)), "3 m 20 s");
        assert_eq!(show_ago(Timestamp(0), Timestamp(90_000_000)), "1 m 30 s ago");
        assert_eq!(show_ppm(1_000_000), "100.0 %");
    }
}
