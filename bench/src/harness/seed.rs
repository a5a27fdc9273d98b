//! Where a run's seed comes from.

use std::fs::File;
use std::io::{self, Read};

/// A seed for a run that was given none: 53 random bits, so that it survives as a JSON number.
///
/// # Errors
/// Where `/dev/urandom` cannot be read.
pub fn fresh() -> io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes) >> 11)
}
