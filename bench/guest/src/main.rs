//! `tare-guest`: the agent that runs one workload, the same binary in all boxes.
//!
//! As PID 1 of a microVM it is all of user space; in a container it is the first process; as a plain
//! process it is the baseline. Its arguments are a [`Job`](tare_workload::Job); what it does and
//! what it sends is in [`agent`].
//!
//! The time it takes to start is part of every start-up figure. So there is no runtime: `main` is
//! the C entry point, nothing installs handlers or asks the processor who it is (a CPUID
//! instruction leaves a microVM), and the `init` mark is pushed before anything is allocated or
//! even understood.
//!
//! The shipped binary (profile `guest`) is built without std, which would add 350 kB of panic
//! machinery to its 200. Other profiles unwind and take std's; nothing else differs.
//!
//! `tare-guest exit` ends at once: the smallest thing this binary can do, for floors.

#![no_main]
#![cfg_attr(panic = "abort", no_std)]

extern crate alloc;

mod agent;
mod end;
mod ioport;
mod line;
mod modules;
mod mount;
mod network;
mod outlet;
mod renewal;
#[cfg(panic = "abort")]
mod runtime;

use core::ffi::{CStr, c_char, c_int};
use core::slice;

use outlet::Port;
use tare_workload::{Channel, PARK_WORD};

/// The C entry point: argument count and vector as the kernel left them on the stack.
///
/// # Safety
/// `argv` must point to `argc` NUL-terminated strings, all of which live as long as the process.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    let count = usize::try_from(argc).unwrap_or(0);
    // SAFETY: the caller's.
    let pointers: &'static [*const c_char] = unsafe { slice::from_raw_parts(argv, count) };
    let arguments = pointers.iter().skip(1).map(|pointer| {
        // SAFETY: the caller's.
        unsafe { CStr::from_ptr(*pointer) }.to_bytes()
    });
    if arguments.clone().next() == Some(b"exit") {
        return 0;
    }
    let Some(channel) = arguments.clone().find_map(Channel::from_word) else {
        return outlet::complain("tare-guest: no channel=fd:NUMBER and no channel=com1 is given");
    };
    let parks = arguments.clone().any(|word| word == PARK_WORD.as_bytes());
    match Port::open(channel, parks) {
        Ok(port) => agent::main(port, arguments),
        Err(why) => outlet::complain(why),
    }
}
