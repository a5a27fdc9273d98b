//! Entry points for fuzzing: each takes any bytes and must come back, whatever they are.
//!
//! They are run by cargo-fuzz (`vmm/fuzz/`, `make fuzz`), and briefly by this crate's own tests,
//! which also replay the corpus that is kept there. Beside not to crash, a target checks what must
//! hold of the result.

mod boot;
#[cfg(test)]
mod corpus;
mod device;
mod driver;
mod registers;
mod snapshot;

pub use boot::{boot_parameters, kernel};
pub use device::{balloon, block, console, net, rng, vsock};
pub use registers::registers;
pub use snapshot::snapshot;

/// A target.
pub type Target = fn(&[u8]);

/// Every target by the name of its directory of the corpus.
pub const TARGETS: [(&str, Target); 10] = [
    ("balloon", balloon),
    ("block", block),
    ("boot_parameters", boot_parameters),
    ("console", console),
    ("kernel", kernel),
    ("net", net),
    ("registers", registers),
    ("rng", rng),
    ("snapshot", snapshot),
    ("vsock", vsock),
];

/// Bytes taken from the front, as long as there are some; then zeros.
#[derive(Debug)]
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn number(&mut self, bytes: usize) -> u64 {
        self.take(bytes).iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn byte(&mut self) -> u8 {
        self.number(1) as u8
    }

    fn half(&mut self) -> u16 {
        self.number(2) as u16
    }

    fn word(&mut self) -> u32 {
        self.number(4) as u32
    }
}
