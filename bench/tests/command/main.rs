//! Tests of the `tare` command as its user has it: [`cli`] needs nothing, [`host`] needs root,
//! [`lab`] needs QEMU.

mod attended;
mod bench;
mod books;
mod busy;
mod calibrate;
mod cli;
mod common;
mod containers;
mod copies;
mod devices;
mod disks;
mod host;
mod images;
mod kernels;
mod lab;
mod leftovers;
mod lifecycles;
mod results;
mod runtimes;
mod variants;
