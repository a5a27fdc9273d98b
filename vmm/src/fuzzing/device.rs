//! Virtqueues of every device.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::Input;
use super::driver::Driver;
use crate::devices::{Block, Device, Net, Rng, Vsock};
use crate::mapping::memory_file;
use crate::{BlockConfig, Streams, VsockConfig};

const DISK_BYTES: u64 = 64 << 10;
const GUEST_CID: u32 = 3;
/// The host's port that has a program.
const PORT: u32 = 7;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
/// What a host's program takes at once.
const HOST_BYTES: usize = 4096;

/// Runs a driver that has set its device up, or that does so itself.
fn drive(device: Box<dyn Device>, input: &mut Input<'_>, host: impl FnMut(&mut Input<'_>)) {
    let mut driver = Driver::new(device);
    let flags = input.byte();
    if flags & 1 == 0 {
        let features = input.number(8);
        driver.start(features);
    }
    driver.run(input, host);
}

/// The block device over a file in memory.
pub fn block(data: &[u8]) {
    let mut input = Input(data);
    let file = must(memory_file(c"tare-fuzz-disk"));
    must(file.set_len(DISK_BYTES));
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let read_only = input.byte() & 1 == 1;
    let device = Block::open(&BlockConfig { read_only, ..BlockConfig::new(path) }, 0);
    drive(Box::new(must(device)), &mut input, |_| {});
    // A guest cannot make its disk larger.
    assert_eq!(must(file.metadata()).len(), DISK_BYTES);
}

/// The source of random bytes.
pub fn rng(data: &[u8]) {
    drive(Box::new(Rng::new()), &mut Input(data), |_| {});
}

/// The network device over something like a tap.
pub fn net(data: &[u8]) {
    let mut pair = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: the array has room for two descriptors.
    let done = unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) };
    assert_eq!(done, 0, "no socket pair");
    // SAFETY: the kernel has just handed them out.
    let [tap, host] = pair.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    let mut host = File::from(host);
    let device = must(Net::over(tap, MAC));
    drive(Box::new(device), &mut Input(data), |input| {
        let mut packet = vec![0; usize::from(input.half())];
        let start = input.take(12.min(packet.len()));
        packet[..start.len()].copy_from_slice(start);
        // A full socket, as a full tap, loses packets; and so it is emptied.
        let _ = host.write(&packet);
        let _ = host.read(&mut [0; HOST_BYTES]);
    });
}

/// The socket device, with a program on one port of the host.
pub fn vsock(data: &[u8]) {
    let (mut host, guests) = must(UnixStream::pair());
    must(host.set_nonblocking(true));
    let streams = Streams::from([(PORT, guests)]);
    let config = VsockConfig { guest_cid: GUEST_CID, path: None };
    let device = must(Vsock::open(&config, streams));
    drive(Box::new(device), &mut Input(data), |input| {
        let count = usize::from(input.byte());
        let _ = host.write(input.take(count));
        let _ = host.read(&mut [0; HOST_BYTES]);
    });
}

/// What fuzzing itself needs of the host.
fn must<T, E: std::fmt::Display>(result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("the host cannot fuzz: {error}"),
    }
}
