//! Images built from Dockerfiles.
//!
//! [`Build`] carries out a [`Dockerfile`](crate::dockerfile::Dockerfile) in containers of this crate
//! and leaves an image in a [`Store`](crate::image::Store).
//!
//! # Rules
//!
//! * **The same input gives the same image**, digest for digest: layers are written in the order of
//!   their paths, every time in them is the build's epoch, and the history tells of nothing else.
//!   What a command makes is its own affair.
//! * **The context is hostile, and so is a base image.** Paths are looked up in the layers without
//!   mounting them, and their links are followed inside; a command is run in a full container,
//!   without privileges to gain (`no_new_privs`) and without a network unless one is asked for.
//! * **A layer is found again by what it was made of**: the layers below it, and the command with
//!   its environment or the files with their content. Times of files do not count.
//! * **Nothing is left** of a build that fails, is interrupted or killed, but whole layers, which the
//!   next one uses.

mod builder;
mod cache;
mod config;
mod copying;
mod entry;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod glob;
mod ignore;
mod layer;
mod merged;
mod plan;
mod running;
mod scope;
mod stage;
mod staging;
mod tree;
mod unpacking;
mod upper;
mod users;

pub use builder::{Build, BuiltImage, StepReport};
pub use error::BuildError;
pub use tree::Tree;

#[cfg(test)]
mod tests;
