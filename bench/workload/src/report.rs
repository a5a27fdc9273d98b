//! What a workload measured, and its text form on the way from the box to the host.
//!
//! One line a metric: name, unit and samples, separated by single spaces.
//!
//! ```text
//! getpid_ns ns 71.5 70.25 70
//! seqread_bytes_per_s bytes/s 2147483648
//! ```
//!
//! A box is not trusted: [`Report::decode`] accepts nothing but finite numbers within the limits
//! below, and everything that [`Report::record`] accepts fits in one frame.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};

/// A report with more metrics is refused.
pub const REPORT_METRICS_MAX: usize = 64;
/// A report with more samples, over all metrics, is refused.
pub const REPORT_SAMPLES_MAX: usize = 32 * 1024;
/// A metric's name is at most this long.
pub const METRIC_NAME_MAX_BYTES: usize = 48;

/// What a sample counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Nanoseconds.
    Nanoseconds,
    /// Bytes.
    Bytes,
    /// Bytes per second.
    BytesPerSecond,
    /// A number of things.
    Count,
}

impl Unit {
    /// Its written form.
    pub const fn as_str(self) -> &'static str {
        match self {
            Unit::Nanoseconds => "ns",
            Unit::Bytes => "bytes",
            Unit::BytesPerSecond => "bytes/s",
            Unit::Count => "count",
        }
    }

    /// Reads the written form.
    pub fn parse(text: &str) -> Option<Unit> {
        [Unit::Nanoseconds, Unit::Bytes, Unit::BytesPerSecond, Unit::Count]
            .into_iter()
            .find(|unit| unit.as_str() == text)
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// One measured quantity and all its samples, in the order they were taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// Name, with the unit in it: `[a-z0-9_]`.
    pub name: String,
    /// What a sample counts.
    pub unit: Unit,
    /// At least one; all finite.
    pub samples: Vec<f64>,
}

/// Everything a workload measured, in the order it was recorded.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    metrics: Vec<Metric>,
    samples: usize,
}

/// A metric cannot be part of a report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// A name is empty, too long, or has a character outside `[a-z0-9_]`.
    #[error("'{0}' is not a metric name: 1 to {METRIC_NAME_MAX_BYTES} of a-z, 0-9 and _")]
    Name(String),
    /// The unit is not one of [`Unit`].
    #[error("metric '{name}' has unknown unit '{unit}'")]
    Unit {
        /// The metric.
        name: String,
        /// The unit as written.
        unit: String,
    },
    /// A name occurs twice.
    #[error("metric '{0}' occurs twice")]
    Duplicate(String),
    /// A metric has no samples.
    #[error("metric '{0}' has no samples")]
    Empty(String),
    /// A sample is not a finite number.
    #[error("metric '{name}' has the sample '{sample}', which is not a finite number")]
    Sample {
        /// The metric.
        name: String,
        /// The sample as written.
        sample: String,
    },
    /// There are more than [`REPORT_METRICS_MAX`] metrics or [`REPORT_SAMPLES_MAX`] samples.
    #[error(
        "the report is over its limit of {REPORT_METRICS_MAX} metrics \
         or {REPORT_SAMPLES_MAX} samples"
    )]
    TooLarge,
    /// The text is not UTF-8.
    #[error("the report is not UTF-8 text")]
    NotText,
}

impl Report {
    /// An empty report.
    pub const fn new() -> Report {
        Report { metrics: Vec::new(), samples: 0 }
    }

    /// Adds a metric.
    ///
    /// # Errors
    /// [`ReportError`], and the report is unchanged.
    pub fn record(
        &mut self,
        name: &str,
        unit: Unit,
        samples: impl Into<Vec<f64>>,
    ) -> Result<(), ReportError> {
        let samples = samples.into();
        if !is_metric_name(name) {
            return Err(ReportError::Name(clipped(name)));
        }
        if self.metric(name).is_some() {
            return Err(ReportError::Duplicate(name.to_owned()));
        }
        if samples.is_empty() {
            return Err(ReportError::Empty(name.to_owned()));
        }
        if let Some(sample) = samples.iter().find(|sample| !sample.is_finite()) {
            let sample = alloc::format!("{sample}");
            return Err(ReportError::Sample { name: name.to_owned(), sample });
        }
        if self.metrics.len() >= REPORT_METRICS_MAX
            || samples.len() > REPORT_SAMPLES_MAX - self.samples
        {
            return Err(ReportError::TooLarge);
        }
        self.samples += samples.len();
        self.metrics.push(Metric { name: name.to_owned(), unit, samples });
        Ok(())
    }

    /// All metrics, in the order they were recorded.
    pub fn metrics(&self) -> &[Metric] {
        &self.metrics
    }

    /// The metric called `name`.
    pub fn metric(&self, name: &str) -> Option<&Metric> {
        self.metrics.iter().find(|metric| metric.name == name)
    }

    /// True where nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.metrics.is_empty()
    }

    /// The text form. It is shorter than [`FRAME_PAYLOAD_MAX_BYTES`](crate::FRAME_PAYLOAD_MAX_BYTES).
    pub fn encode(&self) -> String {
        let mut text = String::new();
        for metric in &self.metrics {
            text.push_str(&metric.name);
            text.push(' ');
            text.push_str(metric.unit.as_str());
            for sample in &metric.samples {
                text.push(' ');
                encode_sample(&mut text, *sample);
            }
            text.push('\n');
        }
        text
    }

    /// Reads the text form.
    ///
    /// # Errors
    /// [`ReportError`] at the first line that [`encode`](Report::encode) would not write.
    pub fn decode(bytes: &[u8]) -> Result<Report, ReportError> {
        let text = core::str::from_utf8(bytes).map_err(|_| ReportError::NotText)?;
        let mut report = Report::new();
        for line in text.lines() {
            let mut words = line.split(' ');
            let name = words.next().unwrap_or_default();
            let unit = words.next().unwrap_or_default();
            let unit = Unit::parse(unit)
                .ok_or_else(|| ReportError::Unit { name: clipped(name), unit: clipped(unit) })?;
            let mut samples = Vec::new();
            for word in words {
                if samples.len() >= REPORT_SAMPLES_MAX {
                    return Err(ReportError::TooLarge);
                }
                samples.push(word.parse().map_err(|_| ReportError::Sample {
                    name: clipped(name),
                    sample: clipped(word),
                })?);
            }
            report.record(name, unit, samples)?;
        }
        Ok(report)
    }
}

/// The shortest text that reads back as the same number; never a long run of zeros.
fn encode_sample(text: &mut String, sample: f64) {
    let magnitude = sample.abs();
    let result = if magnitude == 0.0 || (1e-5..1e16).contains(&magnitude) {
        write!(text, "{sample}")
    } else {
        write!(text, "{sample:e}")
    };
    debug_assert!(result.is_ok(), "writing to a String cannot fail");
}

fn is_metric_name(name: &str) -> bool {
    (1..=METRIC_NAME_MAX_BYTES).contains(&name.len())
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

/// The start of a word from outside: an error message must not carry a megabyte of it.
pub(crate) fn clipped(word: &str) -> String {
    word.chars().take(METRIC_NAME_MAX_BYTES).collect()
}

#[cfg(test)]
mod tests {
    use std::string::ToString;
    use std::vec;

    use proptest::prelude::*;

    use super::*;
    use crate::FRAME_PAYLOAD_MAX_BYTES;

    #[test]
    fn test_report_encodes_one_line_a_metric_in_order() {
        let mut report = Report::new();
        report.record("switch_ns", Unit::Nanoseconds, [1500.0, 0.25]).unwrap();
        report.record("read_bytes_per_s", Unit::BytesPerSecond, [1e300]).unwrap();
        assert_eq!(report.encode(), "switch_ns ns 1500 0.25\nread_bytes_per_s bytes/s 1e300\n");
        assert_eq!(Report::decode(report.encode().as_bytes()).unwrap(), report);
    }

    #[test]
    fn test_decode_invalid_text_returns_error() {
        let duplicate = ReportError::Duplicate("a".to_string());
        let sample = |sample: &str| ReportError::Sample { name: "a".into(), sample: sample.into() };
        for (text, error) in [
            (&b"a ns 1\na ns 2\n"[..], duplicate),
            (b"a ns\n", ReportError::Empty("a".into())),
            (b"a ns NaN\n", sample("NaN")),
            (b"a ns inf\n", sample("inf")),
            (b"a ns 1e999\n", sample("inf")),
            (b"a ns 1  2\n", sample("")),
            (b"a ns x\n", sample("x")),
            (b"a hours 1\n", ReportError::Unit { name: "a".into(), unit: "hours".into() }),
            (b"a\n", ReportError::Unit { name: "a".into(), unit: String::new() }),
            (b"\n", ReportError::Unit { name: String::new(), unit: String::new() }),
            (b"A ns 1\n", ReportError::Name("A".into())),
            (b" ns 1\n", ReportError::Name(String::new())),
            (b"\xff", ReportError::NotText),
        ] {
            assert_eq!(Report::decode(text), Err(error), "{:?}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn test_decode_too_many_samples_or_metrics_returns_too_large() {
        let many = std::format!("a ns{}\n", " 1".repeat(REPORT_SAMPLES_MAX + 1));
        assert_eq!(Report::decode(many.as_bytes()), Err(ReportError::TooLarge));
        let many: String = (0..=REPORT_METRICS_MAX).map(|n| std::format!("m{n} ns 1\n")).collect();
        assert_eq!(Report::decode(many.as_bytes()), Err(ReportError::TooLarge));
    }

    #[test]
    fn test_largest_report_fits_in_a_frame() {
        let mut report = Report::new();
        let widest = -2.2250738585072014e-308;
        for n in 0..REPORT_METRICS_MAX {
            let name = std::format!("{n:0>METRIC_NAME_MAX_BYTES$}");
            let samples = vec![widest; REPORT_SAMPLES_MAX / REPORT_METRICS_MAX];
            report.record(&name, Unit::BytesPerSecond, samples).unwrap();
        }
        assert_eq!(report.record("a", Unit::Count, [1.0]), Err(ReportError::TooLarge));
        assert!(report.encode().len() <= FRAME_PAYLOAD_MAX_BYTES);
    }

    proptest! {
        #[test]
        fn test_any_recorded_report_round_trips(
            metrics in proptest::collection::btree_map(
                "[a-z0-9_]{1,48}",
                proptest::collection::vec(
                    prop_oneof![proptest::num::f64::NORMAL, proptest::num::f64::ZERO,
                                proptest::num::f64::SUBNORMAL],
                    1..20,
                ),
                0..10,
            )
        ) {
            let mut report = Report::new();
            for (name, samples) in metrics {
                report.record(&name, Unit::Count, samples).unwrap();
            }
            prop_assert_eq!(Report::decode(report.encode().as_bytes()).unwrap(), report);
        }

        #[test]
        fn test_any_bytes_decode_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Report::decode(&bytes);
        }
    }
}
