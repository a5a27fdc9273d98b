//! Axes: from values to pixels, and where the ticks go.

use super::format::{self, Unit};
use super::svg::{Anchor, Svg};

/// A horizontal axis.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    pub(super) kind: Kind,
    /// Least and greatest value.
    pub(super) domain: (f64, f64),
    /// Their places, in pixels.
    pub(super) range: (f64, f64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Linear,
    Logarithmic,
}

impl Axis {
    /// Place of a value, in pixels, within the axis.
    pub(super) fn at(&self, value: f64) -> f64 {
        let (low, high) = (self.scaled(self.domain.0), self.scaled(self.domain.1));
        let share = if high > low { (self.scaled(value) - low) / (high - low) } else { 0.0 };
        self.range.0 + share.clamp(0.0, 1.0) * (self.range.1 - self.range.0)
    }

    fn scaled(&self, value: f64) -> f64 {
        match self.kind {
            Kind::Linear => value,
            Kind::Logarithmic => value.max(f64::MIN_POSITIVE).log10(),
        }
    }

    /// Values along the axis that are round in their unit: sizes go by powers of two.
    fn ticks(&self, unit: Unit<'_>) -> Vec<f64> {
        match self.kind {
            Kind::Linear => {
                let (_, scale) = unit.step(self.domain.1);
                linear_ticks(self.domain.1 / scale).into_iter().map(|tick| tick * scale).collect()
            }
            Kind::Logarithmic => log_ticks(self.domain),
        }
    }

    /// Grid lines from `top` to `bottom` with labels below.
    pub(super) fn draw(&self, svg: &mut Svg, unit: Unit<'_>, top: f64, bottom: f64) {
        for tick in self.ticks(unit) {
            let x = self.at(tick);
            svg.line("grid", (x, top), (x, bottom));
            svg.text("tick", (x, bottom + 15.0), Anchor::Middle, label(tick, unit));
        }
    }

    /// The same for an axis that goes upwards: grid lines across, labels to their left.
    pub(super) fn draw_across(&self, svg: &mut Svg, unit: Unit<'_>, (left, right): (f64, f64)) {
        for tick in self.ticks(unit) {
            let y = self.at(tick);
            svg.line("grid", (left, y), (right, y));
            svg.text("tick", (left - 8.0, y + 4.0), Anchor::End, label(tick, unit));
        }
    }
}

/// A tick's label, without digits that say nothing.
fn label(value: f64, unit: Unit<'_>) -> String {
    let text = format::value(value, unit);
    let (number, name) = text.split_once(' ').unwrap_or((&text, ""));
    let number = if number.contains('.') && !number.contains('e') {
        number.trim_end_matches('0').trim_end_matches('.')
    } else {
        number
    };
    if name.is_empty() { number.to_owned() } else { format!("{number} {name}") }
}

/// From zero to the maximum in four to eight steps of 1, 2 or 5 times a power of ten.
fn linear_ticks(maximum: f64) -> Vec<f64> {
    if maximum.is_nan() || maximum <= 0.0 {
        return vec![0.0];
    }
    let rough = maximum / 6.0;
    let power = 10_f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    let step = power * steps.into_iter().find(|step| step * power >= rough).unwrap_or(10.0);
    (0..=20)
        .map(|index| f64::from(index) * step)
        .take_while(|tick| *tick <= maximum * 1.0001)
        .collect()
}

/// Powers of ten, with more between them where there are few, in steps where there are many.
fn log_ticks((low, high): (f64, f64)) -> Vec<f64> {
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let factors: &[f64] = match last - first {
        _ if high / low < 4.0 => &[1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
        0..=3 => &[1.0, 2.0, 5.0],
        _ => &[1.0],
    };
    let stride = usize::try_from((last - first) / 8).unwrap_or(0) + 1;
    let is_inside = |tick: &f64| *tick >= low * 0.9999 && *tick <= high * 1.0001;
    let powers = (first..=last).step_by(stride).map(|power| 10_f64.powi(power));
    powers
        .flat_map(|power| factors.iter().map(move |factor| factor * power))
        .filter(is_inside)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_at_maps_domain_to_range_and_clamps() {
        let axis = Axis { kind: Kind::Logarithmic, domain: (1.0, 100.0), range: (0.0, 200.0) };
        assert_eq!(
            [axis.at(1.0), axis.at(10.0), axis.at(100.0), axis.at(1e9)],
            [0.0, 100.0, 200.0, 200.0]
        );
        let axis = Axis { kind: Kind::Linear, domain: (0.0, 0.0), range: (5.0, 10.0) };
        assert_eq!(axis.at(3.0), 5.0);
    }

    #[test]
    fn test_ticks_are_round_and_few() {
        assert_eq!(linear_ticks(41.0), [0.0, 10.0, 20.0, 30.0, 40.0]);
        assert_eq!(linear_ticks(0.0), [0.0]);
        assert_eq!(log_ticks((0.5, 4.0)), [0.5, 1.0, 2.0]);
        assert_eq!(log_ticks((0.85, 1.6)), [0.9, 1.0, 1.2, 1.5]);
        assert!(log_ticks((1.0, 1e12)).len() <= 9);
    }

    #[test]
    fn test_ticks_of_sizes_are_round_in_their_unit() {
        let axis =
            Axis { kind: Kind::Linear, domain: (0.0, 20.0 * 1_048_576.0), range: (0.0, 1.0) };
        let labels: Vec<String> =
            axis.ticks(Unit::Size).iter().map(|tick| label(*tick, Unit::Size)).collect();
        assert_eq!(labels, ["0 B", "5 MiB", "10 MiB", "15 MiB", "20 MiB"]);
    }

    #[test]
    fn test_label_drops_empty_digits() {
        assert_eq!(label(2e6, Unit::Time), "2 ms");
        assert_eq!(label(500.0, Unit::Time), "500 ns");
        assert_eq!(label(0.5, Unit::Ratio), "0.5 ×");
    }
}
