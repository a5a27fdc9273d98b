//! Data between a box and a program of its host: where that program is, and what the two say.
//!
//! The host's program, the *peer*, waits for connections and serves one after the other
//! ([`serve`]). On each the box makes requests, of 32 bytes in little-endian numbers:
//!
//! | bytes | what |
//! |---|---|
//! | 0–3 | 1 *echo*, 2 *sink*, 3 *source* |
//! | 4–7 | bytes of a message, from 8 to 1 MiB |
//! | 8–15 | how many messages |
//! | 16–23 | seed of their contents: all messages of a request are the same |
//! | 24–31 | 1 if every byte is to be checked, 0 if only the first eight of each message |
//!
//! To *echo*, the peer sends each message back when it has it whole. As a *sink* it takes all of
//! them and then answers with two numbers of eight bytes: how many messages it has seen, and how
//! many of them were wrong. As a *source* it sends them.

mod peer;
mod request;
mod wire;

pub use peer::Peer;
pub(crate) use request::{Operation, Request};
pub use wire::serve;
pub(crate) use wire::{Wire, message};
