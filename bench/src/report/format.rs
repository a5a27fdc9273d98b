//! Numbers with units that a person reads: three significant digits, one unit for an interval.

use crate::results::Estimate;

/// A unit on a scale: its name and how many base units it is.
type Step = (&'static str, f64);

const TIMES: [Step; 4] = [("ns", 1.0), ("µs", 1e3), ("ms", 1e6), ("s", 1e9)];
const SIZES: [Step; 4] =
    [("B", 1.0), ("KiB", 1024.0), ("MiB", 1024.0 * 1024.0), ("GiB", 1024.0 * 1024.0 * 1024.0)];
const RATES: [Step; 4] = [("B/s", 1.0), ("kB/s", 1e3), ("MB/s", 1e6), ("GB/s", 1e9)];

/// How a unit of the results file is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit<'a> {
    Time,
    Size,
    Rate,
    /// A multiple of something.
    Ratio,
    /// Any other, as it stands in the file.
    Other(&'a str),
}

impl<'a> Unit<'a> {
    /// The unit by its name in the results file.
    pub(super) fn parse(name: &'a str) -> Unit<'a> {
        match name {
            "ns" => Unit::Time,
            "bytes" => Unit::Size,
            "bytes/s" => Unit::Rate,
            "count" => Unit::Other(""),
            other => Unit::Other(other),
        }
    }

    /// Name and size of the unit that suits a value.
    pub(super) fn step(self, value: f64) -> (&'a str, f64) {
        let steps: &[Step] = match self {
            Unit::Time => &TIMES,
            Unit::Size => &SIZES,
            Unit::Rate => &RATES,
            Unit::Ratio => return ("×", 1.0),
            Unit::Other(name) => return (name, 1.0),
        };
        // 999.6 is shown as 1000 of the unit below: the next one serves better.
        let fits = |step: &&Step| value.abs() >= step.1 * 0.9995;
        steps.iter().rev().find(fits).or(steps.first()).copied().unwrap_or(("", 1.0))
    }
}

/// `1.23 ms`.
pub(super) fn value(value: f64, unit: Unit<'_>) -> String {
    let (name, scale) = unit.step(value);
    with_unit(&digits(value / scale), name)
}

/// `1.20–1.31 ms`: both ends in the unit that suits `middle`.
pub(super) fn ends(estimate: &Estimate, unit: Unit<'_>) -> Option<String> {
    let interval = estimate.interval()?;
    let (name, scale) = unit.step(estimate.value);
    let (low, high) = (digits(interval.low / scale), digits(interval.high / scale));
    // A minus sign beside a dash cannot be read.
    let dash = if low.starts_with('-') || high.starts_with('-') { " to " } else { "–" };
    Some(with_unit(&format!("{low}{dash}{high}"), name))
}

/// `±3 %`: the farther end of the interval from the value, relative to the value.
pub(super) fn margin(estimate: &Estimate) -> Option<String> {
    let interval = estimate.interval()?;
    if estimate.value == 0.0 {
        return None;
    }
    let farther = (interval.high - estimate.value).max(estimate.value - interval.low);
    let percent = 100.0 * farther / estimate.value.abs();
    Some(match percent {
        0.0 => "±0%".to_owned(),
        p if p < 0.95 => format!("±{p:.1}%").replace("±0.0%", "±0.1%"),
        p if p < 999.0 => format!("±{p:.0}%"),
        _ => "±>9×".to_owned(),
    })
}

fn with_unit(number: &str, unit: &str) -> String {
    if unit.is_empty() { number.to_owned() } else { format!("{number} {unit}") }
}

/// Three significant digits, without exponents for what a report contains.
pub(super) fn digits(value: f64) -> String {
    let magnitude = value.abs();
    if value == 0.0 {
        return "0".to_owned();
    }
    if !(1e-3..1e9).contains(&magnitude) {
        return format!("{value:.2e}");
    }
    // 9.996 is 10.0, not 10.00: round first, then count the digits before the point.
    let rounded: f64 = format!("{value:.2e}").parse().unwrap_or(value);
    let before_point = rounded.abs().log10().floor() as i32 + 1;
    let decimals = usize::try_from(3 - before_point).unwrap_or(0);
    format!("{value:.decimals$}")
}

/// `12,345`.
pub(super) fn count(value: usize) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Interval;

    #[test]
    fn test_value_picks_the_unit_that_suits() {
        for (number, unit, expected) in [
            (0.0, Unit::Time, "0 ns"),
            (0.4, Unit::Time, "0.400 ns"),
            (71.25, Unit::Time, "71.2 ns"),
            (999.4, Unit::Time, "999 ns"),
            (999.6, Unit::Time, "1.00 µs"),
            (9_996.0, Unit::Time, "10.0 µs"),
            (41_234_567.0, Unit::Time, "41.2 ms"),
            (123e9, Unit::Time, "123 s"),
            (-2048.0, Unit::Size, "-2.00 KiB"),
            (1e6, Unit::Size, "977 KiB"),
            (3.1e9, Unit::Rate, "3.10 GB/s"),
            (1.0, Unit::Ratio, "1.00 ×"),
            (1234.0, Unit::Ratio, "1234 ×"),
            (41.0, Unit::parse("count"), "41.0"),
            (41.0, Unit::parse("exits"), "41.0 exits"),
            (1e12, Unit::parse("exits"), "1.00e12 exits"),
        ] {
            assert_eq!(value(number, unit), expected);
        }
    }

    #[test]
    fn test_ends_share_the_unit_of_the_value() {
        let estimate = Estimate::new(1.1e6, Some(Interval { low: 0.95e6, high: 1.25e6 }));
        assert_eq!(ends(&estimate, Unit::Time).unwrap(), "0.950–1.25 ms");
        let estimate = Estimate::new(1024.0, Some(Interval { low: -1024.0, high: 4096.0 }));
        assert_eq!(ends(&estimate, Unit::Size).unwrap(), "-1.00 to 4.00 KiB");
        assert_eq!(ends(&Estimate::new(1.0, None), Unit::Time), None);
    }

    #[test]
    fn test_margin_is_the_farther_end() {
        let margin_of =
            |low, high| margin(&Estimate::new(100.0, Some(Interval { low, high }))).unwrap();
        assert_eq!(margin_of(100.0, 100.0), "±0%");
        assert_eq!(margin_of(99.99, 100.0), "±0.1%");
        assert_eq!(margin_of(99.5, 100.2), "±0.5%");
        assert_eq!(margin_of(98.0, 112.0), "±12%");
        assert_eq!(margin_of(98.0, 99_999.0), "±>9×");
    }

    #[test]
    fn test_count_groups_digits() {
        assert_eq!(count(7), "7");
        assert_eq!(count(12_345), "12,345");
        assert_eq!(count(1_000_000), "1,000,000");
    }
}
