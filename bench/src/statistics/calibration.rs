//! Does the machinery keep its promises? Measured on simulated samples, with fixed seeds.
//!
//! Tolerances: 600 trials estimate a share of 95 % with a standard error of 0.9 points. Coverage
//! of a bootstrap must lie within 92–98.5 %, three standard errors and a little room for its known
//! small-sample error; that of an exact interval must not be below 92.3 %.

use super::*;

const TRIALS: usize = 600;

/// An exponential variable of scale 1 on a floor of 10: skewed, like times are.
fn skewed(rng: &mut Rng) -> f64 {
    10.0 - (1.0 - rng.unit()).ln()
}

fn draw(count: usize, rng: &mut Rng) -> Vec<f64> {
    (0..count).map(|_| skewed(rng)).collect()
}

fn share(trials: usize, mut holds: impl FnMut() -> bool) -> f64 {
    (0..trials).filter(|_| holds()).count() as f64 / trials as f64
}

#[test]
fn test_median_interval_holds_the_truth_as_often_as_promised() {
    let truth = 10.0 + 2.0_f64.ln();
    for count in [10, 30, 101] {
        let mut rng = Rng::new(20_260_101);
        let coverage = share(TRIALS, || {
            let samples = draw(count, &mut rng);
            median_interval(&samples, &mut rng).unwrap().contains(truth)
        });
        assert!((0.92..=0.985).contains(&coverage), "n = {count}: {coverage}");
    }
}

#[test]
fn test_p99_interval_holds_the_truth_as_often_as_promised() {
    let truth = 10.0 + 100.0_f64.ln();
    for count in [P99_MIN, 368, 1000] {
        let mut rng = Rng::new(20_260_102);
        let coverage = share(TRIALS, || p99(&draw(count, &mut rng)).unwrap().1.contains(truth));
        assert!(coverage >= 0.923, "n = {count}: {coverage}");
    }
}

#[test]
fn test_ratio_interval_holds_the_truth_as_often_as_promised() {
    let mut rng = Rng::new(20_260_103);
    let coverage = share(TRIALS, || {
        let slow: Vec<f64> = draw(30, &mut rng).iter().map(|value| value * 1.5).collect();
        let fast = draw(30, &mut rng);
        ratio_interval(&slow, &fast, &mut rng).unwrap().contains(1.5)
    });
    assert!((0.92..=0.985).contains(&coverage), "{coverage}");
}

#[test]
fn test_permutation_test_finds_no_difference_between_equals() {
    // At level 5 % an A/A comparison is a false alarm in 5 % of trials: within 2.5 points of it.
    let mut rng = Rng::new(20_260_104);
    let false_alarms = share(400, || {
        let (first, second) = (draw(20, &mut rng), draw(20, &mut rng));
        permutation_test(&first, &second, &mut rng).unwrap() <= 0.05
    });
    assert!(false_alarms <= 0.075, "{false_alarms}");
}

#[test]
fn test_injected_delay_is_recovered_within_its_interval() {
    // 0.5 added to samples around 10.7: found by the test, and its size held by the interval.
    let mut rng = Rng::new(20_260_105);
    let before = draw(200, &mut rng);
    let after: Vec<f64> = draw(200, &mut rng).iter().map(|value| value + 0.5).collect();
    assert!(permutation_test(&before, &after, &mut rng).unwrap() < 0.01);
    let truth = (10.5 + 2.0_f64.ln()) / (10.0 + 2.0_f64.ln());
    assert!(ratio_interval(&after, &before, &mut rng).unwrap().contains(truth));
}
