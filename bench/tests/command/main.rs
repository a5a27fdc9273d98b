//! Tests of the `tare` command as its user has it: [`cli`] needs nothing, [`host`] needs root,
//! [`lab`] needs QEMU.

mod attended;
mod bench;
mod busy;
mod cli;
mod common;
mod copies;
mod devices;
mod disks;
mod host;
mod kernels;
mod lab;
mod leftovers;
mod runtimes;
mod variants;
