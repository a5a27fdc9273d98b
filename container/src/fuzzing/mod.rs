//! Entry points for fuzzing: each takes any bytes and must come back, whatever they are.
//!
//! They are run by cargo-fuzz (`container/fuzz/`, `make fuzz`), and briefly by this crate's own
//! tests, which also replay the corpus that is kept there.

#[cfg(test)]
mod corpus;

pub use crate::build::fuzzing::dockerfile;
pub use crate::image::fuzzing::{document, layer, name, stream};

/// A target.
pub type Target = fn(&[u8]);

/// Every target by the name of its directory of the corpus.
pub const TARGETS: [(&str, Target); 5] = [
    ("dockerfile", dockerfile),
    ("document", document),
    ("layer", layer),
    ("name", name),
    ("stream", stream),
];
