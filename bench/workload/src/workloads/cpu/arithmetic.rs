//! Kernels that compute: a prime sieve, an n-body simulation, SHA-256.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::arch::x86_64::{_mm_cvtsd_f64, _mm_set_sd, _mm_sqrt_sd};
use core::hint::black_box;

use sha2::{Digest, Sha256};

use super::Kernel;
use crate::clock::timed;
use crate::{Error, Report, Unit};

/// Sieve of Eratosthenes: integers, branches and a table that fits in the second-level cache.
pub(super) struct Sieve {
    passes: usize,
    composite: Box<[u8]>,
}

const SIEVE_LIMIT: usize = 100_000;
/// Primes below 100,000 (OEIS A006880).
const SIEVE_PRIMES: usize = 9_592;

impl Sieve {
    pub(super) fn new(passes: usize) -> Sieve {
        Sieve { passes, composite: alloc::vec![0; SIEVE_LIMIT].into_boxed_slice() }
    }

    fn pass(&mut self) -> usize {
        self.composite.fill(0);
        let mut primes = 0;
        for number in 2..SIEVE_LIMIT {
            if self.composite[number] == 0 {
                primes += 1;
                for multiple in (number * number..SIEVE_LIMIT).step_by(number) {
                    self.composite[multiple] = 1;
                }
            }
        }
        primes
    }
}

impl Kernel for Sieve {
    fn run(&mut self, repeats: usize, report: &mut Report) -> Result<(), Error> {
        let mut samples = Vec::with_capacity(repeats);
        for _ in 0..repeats {
            let (primes, sieve_ns) =
                timed(|| (0..self.passes).map(|_| black_box(self.pass())).sum::<usize>());
            expect("number of primes", SIEVE_PRIMES * self.passes, primes)?;
            samples.push(sieve_ns / (self.passes * SIEVE_LIMIT) as f64);
        }
        Ok(report.record("integer_ns", Unit::Nanoseconds, samples)?)
    }
}

#[derive(Debug, Clone, Copy)]
struct Body {
    position: [f64; 3],
    velocity: [f64; 3],
    mass: f64,
}

const BODIES: usize = 5;
const TIME_STEP: f64 = 1e-3;

/// Five bodies under gravity: double-precision multiplication, division and square root.
pub(super) struct Bodies {
    steps: usize,
}

impl Bodies {
    pub(super) fn new(steps: usize) -> Bodies {
        Bodies { steps }
    }

    /// A heavy body in the middle and four light ones on near-circular orbits.
    fn system() -> [Body; BODIES] {
        let orbit = |radius: f64, tilt: f64, mass: f64| {
            let speed = sqrt(1.0 / radius);
            Body { position: [radius, 0.0, tilt], velocity: [0.0, speed, 0.0], mass }
        };
        [
            Body { position: [0.0; 3], velocity: [0.0; 3], mass: 1.0 },
            orbit(1.0, 0.01, 1e-4),
            orbit(-1.7, 0.02, 2e-4).with_reversed_orbit(),
            orbit(2.6, -0.03, 1e-4),
            orbit(-3.9, 0.01, 3e-5).with_reversed_orbit(),
        ]
    }
}

impl Body {
    /// A negative radius places the body opposite; its speed is that of the positive one.
    fn with_reversed_orbit(self) -> Body {
        let speed = -sqrt(1.0 / self.position[0].abs());
        Body { velocity: [0.0, speed, 0.0], ..self }
    }
}

/// One step of the leapfrog method.
fn advance(bodies: &mut [Body; BODIES]) {
    for first in 0..BODIES {
        for second in first + 1..BODIES {
            let apart = difference(&bodies[first].position, &bodies[second].position);
            let square = dot(&apart, &apart);
            let pull = TIME_STEP / (square * sqrt(square));
            let (first_mass, second_mass) = (bodies[first].mass, bodies[second].mass);
            accelerate(&mut bodies[first], &apart, -second_mass * pull);
            accelerate(&mut bodies[second], &apart, first_mass * pull);
        }
    }
    for body in bodies {
        for axis in 0..3 {
            body.position[axis] += TIME_STEP * body.velocity[axis];
        }
    }
}

fn accelerate(body: &mut Body, direction: &[f64; 3], amount: f64) {
    for (velocity, direction) in body.velocity.iter_mut().zip(direction) {
        *velocity += direction * amount;
    }
}

/// Kinetic and potential energy, which motion leaves as it is.
fn energy(bodies: &[Body; BODIES]) -> f64 {
    let mut energy = 0.0;
    for (index, body) in bodies.iter().enumerate() {
        energy += 0.5 * body.mass * dot(&body.velocity, &body.velocity);
        for other in &bodies[index + 1..] {
            let apart = difference(&body.position, &other.position);
            energy -= body.mass * other.mass / sqrt(dot(&apart, &apart));
        }
    }
    energy
}

fn difference(left: &[f64; 3], right: &[f64; 3]) -> [f64; 3] {
    [left[0] - right[0], left[1] - right[1], left[2] - right[2]]
}

fn dot(left: &[f64; 3], right: &[f64; 3]) -> f64 {
    left[0] * right[0] + left[1] * right[1] + left[2] * right[2]
}

/// The processor's own square root: `core` has none.
fn sqrt(value: f64) -> f64 {
    // SAFETY: SSE2 is part of x86-64.
    unsafe {
        let value = _mm_set_sd(value);
        _mm_cvtsd_f64(_mm_sqrt_sd(value, value))
    }
}

impl Kernel for Bodies {
    fn run(&mut self, repeats: usize, report: &mut Report) -> Result<(), Error> {
        let mut samples = Vec::with_capacity(repeats);
        for _ in 0..repeats {
            let mut bodies = black_box(Bodies::system());
            let before = energy(&bodies);
            let ((), step_ns) = timed(|| (0..self.steps).for_each(|_| advance(&mut bodies)));
            let after = energy(&black_box(bodies));
            let drift = ((after - before) / before).abs();
            if drift.is_nan() || drift > 1e-3 {
                return Err(Error::Wrong {
                    what: "energy of the simulated bodies",
                    expected: alloc::format!("{before}"),
                    got: alloc::format!("{after}"),
                });
            }
            samples.push(step_ns / self.steps as f64);
        }
        Ok(report.record("float_ns", Unit::Nanoseconds, samples)?)
    }
}

/// SHA-256 (FIPS 180-4) of a buffer that fits in the second-level cache.
pub(super) struct Sha {
    passes: usize,
    buffer: Vec<u8>,
}

const SHA_BUFFER_BYTES: usize = 64 << 10;

impl Sha {
    /// Hashes once: the code asks the processor by CPUID whether it has SHA instructions, and in a
    /// microVM each CPUID leaves the guest. That is no part of hashing.
    pub(super) fn new(passes: usize) -> Result<Sha, Error> {
        // "abc" and the first four bytes of its digest, from the standard's example.
        let digest = Sha256::digest(b"abc");
        expect("SHA-256 of 'abc'", 0xBA78_16BF, first_word(&digest))?;
        Ok(Sha { passes, buffer: alloc::vec![0x5A; SHA_BUFFER_BYTES] })
    }
}

fn first_word(digest: &[u8]) -> usize {
    digest.iter().take(4).fold(0, |word, byte| word << 8 | usize::from(*byte))
}

impl Kernel for Sha {
    fn run(&mut self, repeats: usize, report: &mut Report) -> Result<(), Error> {
        let mut samples = Vec::with_capacity(repeats);
        let mut digests = Vec::with_capacity(repeats);
        for _ in 0..repeats {
            let (digest, hash_ns) = timed(|| {
                let mut hasher = Sha256::new();
                (0..self.passes).for_each(|_| hasher.update(&self.buffer));
                hasher.finalize()
            });
            digests.push(first_word(&digest));
            samples.push((self.passes * SHA_BUFFER_BYTES) as f64 / hash_ns * 1e9);
        }
        for digest in &digests {
            expect("repeated SHA-256", digests[0], *digest)?;
        }
        Ok(report.record("sha256_bytes_per_s", Unit::BytesPerSecond, samples)?)
    }
}

fn expect(what: &'static str, expected: usize, got: usize) -> Result<(), Error> {
    if expected == got {
        return Ok(());
    }
    let (expected, got) = (alloc::format!("{expected}"), alloc::format!("{got}"));
    Err(Error::Wrong { what, expected, got })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_sieve_finds_the_known_number_of_primes() {
        assert_eq!(Sieve::new(1).pass(), SIEVE_PRIMES);
    }

    #[test]
    fn test_bodies_keep_their_energy_over_many_steps() {
        let mut bodies = Bodies::system();
        let before = energy(&bodies);
        (0..200_000).for_each(|_| advance(&mut bodies));
        let drift = ((energy(&bodies) - before) / before).abs();
        assert!(drift < 1e-3, "{drift}");
    }

    #[test]
    fn test_square_root_is_the_exact_one() {
        for value in [0.0, 2.0, 1e-300, 1e300] {
            assert_eq!(sqrt(value), value.sqrt());
        }
    }
}
