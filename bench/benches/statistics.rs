//! What the statistics of a report cost: they are computed again on every load of a file.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use tare::statistics::{Rng, cliffs_delta, median_interval, p99, permutation_test, ratio_interval};

fn draw(count: usize, seed: u64) -> Vec<f64> {
    let mut rng = Rng::new(seed);
    (0..count).map(|_| 1e6 - 1e5 * (1.0 - rng.unit()).ln()).collect()
}

fn statistics(criterion: &mut Criterion) {
    for count in [20, 300] {
        let (first, second) = (draw(count, 1), draw(count, 2));
        let mut group = criterion.benchmark_group(format!("{count} samples"));
        group.bench_function("median_interval", |bencher| {
            bencher.iter(|| median_interval(black_box(&first), &mut Rng::new(3)));
        });
        group.bench_function("ratio_interval", |bencher| {
            bencher
                .iter(|| ratio_interval(black_box(&first), black_box(&second), &mut Rng::new(3)));
        });
        group.bench_function("permutation_test", |bencher| {
            bencher
                .iter(|| permutation_test(black_box(&first), black_box(&second), &mut Rng::new(3)));
        });
        group.bench_function("p99", |bencher| bencher.iter(|| p99(black_box(&first))));
        group.bench_function("cliffs_delta", |bencher| {
            bencher.iter(|| cliffs_delta(black_box(&first), black_box(&second)));
        });
        group.finish();
    }
}

criterion_group!(benches, statistics);
criterion_main!(benches);
