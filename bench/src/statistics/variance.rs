//! Where a metric varies: within an instance, or between instances.

/// Standard deviations of a metric of which each instance takes several values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Variation {
    /// Of values within one instance.
    pub within: f64,
    /// Of what instances have beyond that.
    pub between: f64,
}

/// The components of variance of values by instance; `None` where there are fewer than two instances
/// or no instance has two values.
///
/// A one-way random-effects model, its components by the method of moments for groups of any size
/// (Searle, Casella and McCulloch, "Variance Components", 1992, section 3.6): more values in an
/// instance narrow the first alone, and where the second prevails only more instances help
/// (Kalibera and Jones, "Rigorous benchmarking in reasonable time", 2013). A component whose estimate
/// is negative is zero.
pub fn variation(instances: &[&[f64]]) -> Option<Variation> {
    let groups: Vec<&[f64]> = instances.iter().copied().filter(|group| !group.is_empty()).collect();
    let count = groups.len() as f64;
    let total: f64 = groups.iter().map(|group| group.len() as f64).sum();
    if groups.len() < 2 || total <= count {
        return None;
    }
    let mean = |group: &[f64]| group.iter().sum::<f64>() / group.len() as f64;
    let grand = groups.iter().flat_map(|group| group.iter()).sum::<f64>() / total;
    let squares = |group: &[f64], middle: f64| -> f64 {
        group.iter().map(|value| (value - middle).powi(2)).sum()
    };
    let within =
        groups.iter().map(|group| squares(group, mean(group))).sum::<f64>() / (total - count);
    let between =
        groups.iter().map(|group| group.len() as f64 * (mean(group) - grand).powi(2)).sum::<f64>()
            / (count - 1.0);
    let sizes: f64 = groups.iter().map(|group| (group.len() as f64).powi(2)).sum();
    let size = (total - sizes / total) / (count - 1.0);
    let variation =
        Variation { within: within.sqrt(), between: ((between - within) / size).max(0.0).sqrt() };
    (variation.within.is_finite() && variation.between.is_finite()).then_some(variation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Rng;

    fn of(groups: &[Vec<f64>]) -> Option<Variation> {
        let groups: Vec<&[f64]> = groups.iter().map(Vec::as_slice).collect();
        variation(&groups)
    }

    #[test]
    fn test_variation_tells_the_components_apart() {
        // Of a uniform variable of width w the deviation is w / √12.
        let mut rng = Rng::new(5);
        let mut draw = |within: f64, between: f64| {
            let groups: Vec<Vec<f64>> = (0..400)
                .map(|_| {
                    let base = 100.0 + between * 12.0_f64.sqrt() * rng.unit();
                    (0..10).map(|_| base + within * 12.0_f64.sqrt() * rng.unit()).collect()
                })
                .collect();
            of(&groups).unwrap()
        };
        for (within, between) in [(1.0, 3.0), (2.0, 0.5), (1.0, 0.0)] {
            let found = draw(within, between);
            assert!((found.within - within).abs() < 0.1 * within, "{found:?}");
            assert!((found.between - between).abs() < 0.2, "{found:?}");
        }
    }

    #[test]
    fn test_variation_matches_worked_example() {
        // Means 2 and 6, squares within 2 and 2: 4 / (4 - 2) = 2; between 2·4 + 2·4 = 16, less 2, by 2.
        let found = of(&[vec![1.0, 3.0], vec![5.0, 7.0]]).unwrap();
        assert!((found.within - 2.0_f64.sqrt()).abs() < 1e-12, "{found:?}");
        assert!((found.between - 7.0_f64.sqrt()).abs() < 1e-12, "{found:?}");
    }

    #[test]
    fn test_variation_of_too_little_returns_none() {
        for groups in
            [vec![], vec![vec![1.0, 2.0]], vec![vec![1.0], vec![2.0]], vec![vec![], vec![1.0, 2.0]]]
        {
            assert_eq!(of(&groups), None, "{groups:?}");
        }
    }
}
