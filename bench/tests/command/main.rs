//! Tests of the `tare` command as its user has it: [`cli`] needs nothing, [`host`] needs root,
//! [`lab`] needs QEMU.

mod attended;
mod bench;
mod busy;
mod cli;
mod common;
mod copies;
mod host;
mod lab;
mod leftovers;
