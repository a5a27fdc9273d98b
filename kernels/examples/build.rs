//! Builds a kernel variant from Debian's source, or from a tree, and prints where it is:
//! `cargo run -p tare-kernels --example build -- [VARIANT [SOURCE-TREE]]`.

use std::error::Error;
use std::path::PathBuf;

use tare_kernels::{Build, Cache, PRACTICAL, Source, Stderr, Variant};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_else(|| PRACTICAL.name.to_owned());
    let variant = Variant::by_name(&name).ok_or_else(|| format!("no kernel variant `{name}`"))?;
    let source = arguments.next().map_or(Source::Debian, |tree| Source::Tree(PathBuf::from(tree)));
    let cache = Cache::open()?;
    let kernel = Build { cache: &cache, variant, source }.run(&Stderr::new())?;
    println!("{}", kernel.vmlinux.display());
    Ok(())
}
