//! What it takes to unpack an image, and how much of that each part is.
//!
//! `cargo run --release -p tare-container --example unpack -- LAYOUT [ROUNDS] [STORE]` (as root):
//! the image of an OCI layout is imported into a fresh store ROUNDS times, below STORE or the
//! directory for temporary files, and the time of each is printed.

use std::path::PathBuf;
use std::time::Instant;

use tare_container::image::{Bundle, Import, Store};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let layout = PathBuf::from(arguments.next().ok_or("usage: unpack LAYOUT [ROUNDS] [STORE]")?);
    let rounds: usize = match arguments.next() {
        Some(text) => text.to_string_lossy().parse()?,
        None => 3,
    };
    let below = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    for _ in 0..rounds {
        let directory = below.join(format!("tare-unpack-{}", std::process::id()));
        let store = Store::open(&directory)?;
        let begin = Instant::now();
        let bundle = Bundle::open(&store, &layout)?;
        let reference = "unpacked".parse()?;
        let image = bundle.import(&store, bundle.select(None)?, &Import::new(&reference))?;
        let elapsed = begin.elapsed();
        println!("{:.3} s, {} layers", elapsed.as_secs_f64(), image.layers().len());
        std::fs::remove_dir_all(directory)?;
    }
    Ok(())
}
