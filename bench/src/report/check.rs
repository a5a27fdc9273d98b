//! A check of the calibration, for a terminal.

use super::format::{self, Unit};
use super::terminal::wrapped;
use crate::calibrate::{Check, Figure};

/// The check with its figures.
pub fn render_check(check: &Check) -> String {
    let indent = " ".repeat(22);
    let first = format!("{:<10} {:<10} ", check.outcome.name(), check.name);
    let mut text = wrapped(&check.what, &first, &indent);
    for figure in &check.figures {
        text += &wrapped(&line(figure), &indent, &indent);
    }
    if !check.limit.is_empty() {
        text += &wrapped(&format!("must be: {}", check.limit), &indent, &indent);
    }
    text + &wrapped(&check.why, &indent, &indent)
}

fn line(figure: &Figure) -> String {
    let unit = if figure.unit == "×" { Unit::Ratio } else { Unit::parse(figure.unit) };
    let ends = format::ends(&figure.value, unit).map(|ends| format!(" [{ends}]"));
    format!(
        "{}: {}{}",
        figure.name,
        format::value(figure.value.value, unit),
        ends.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrate::Outcome;
    use crate::results::Estimate;

    #[test]
    fn test_check_is_shown_with_its_figures_limit_and_reason() {
        let check = Check {
            name: "hyperfine",
            what: "the same command".to_owned(),
            limit: "within 2 %".to_owned(),
            outcome: Outcome::Failed,
            why: "it is not".to_owned(),
            figures: vec![Figure {
                name: "tare ÷ hyperfine".to_owned(),
                unit: "×",
                value: Estimate { value: 1.1, low: Some(1.05), high: Some(1.2) },
            }],
        };
        let text = render_check(&check);
        assert!(text.starts_with("FAILED     hyperfine  the same command\n"), "{text}");
        for words in ["tare ÷ hyperfine: 1.10 × [1.05–1.20 ×]", "must be: within 2 %", "it is not"]
        {
            assert!(text.contains(words), "{text}");
        }
    }
}
