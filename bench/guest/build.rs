//! Links the agent into two segments instead of four.
//!
//! Each segment is a mapping that every exec sets up and every exit tears down: two fewer take 5 %
//! off vfork, exec and exit of this binary. Constants become executable by that, in a program whose
//! input is its own command line.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bins=-Wl,-z,noseparate-code,-z,norelro,--build-id=none");
}
