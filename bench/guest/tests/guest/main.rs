//! The shipped agent as a plain process.

mod agent;
mod common;
mod conversation;
