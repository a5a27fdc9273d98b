//! Virtqueues of every device.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::Input;
use super::driver::Driver;
use crate::devices::{Balloon, Block, Console, Control, Device, Net, Rng, Vsock};
use crate::mapping::memory_file;
use crate::{BalloonConfig, BlockConfig, ConsoleConfig, Streams, VsockConfig};

const DISK_BYTES: u64 = 64 << 10;
const GUEST_CID: u32 = 3;
/// The host's port that has a program.
const PORT: u32 = 7;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
const PAGE_BYTES: u64 = 4096;
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

/// The balloon, with a host that asks for more and less of it.
pub fn balloon(data: &[u8]) {
    let mut input = Input(data);
    let flags = input.byte();
    let target_bytes = u64::from(input.half()) * PAGE_BYTES;
    let config = BalloonConfig {
        target_bytes,
        deflate_on_oom: flags & 1 == 1,
        free_page_reporting: flags & 2 == 2,
    };
    let device = must(Balloon::new(&config));
    let Some(Control::Balloon(control)) = device.control() else {
        panic!("a balloon that nobody can hold")
    };
    let (mut target, mut asked) = (target_bytes, 0);
    drive(Box::new(device), &mut input, |input| {
        let flags = input.byte();
        if flags & 1 == 1 {
            target = u64::from(input.half()) * PAGE_BYTES;
            control.set_target(target);
        }
        if flags & 2 == 2 {
            control.request_statistics();
            asked += 1;
        }
    });
    let state = control.state();
    assert_eq!(state.target_bytes, target, "the target is the host's");
    assert!((state.inflated_bytes | state.reported_bytes).is_multiple_of(PAGE_BYTES), "{state:?}");
    assert!(config.free_page_reporting || state.reported_bytes == 0, "{state:?}");
    assert_eq!(state.statistics.is_some(), state.statistics_count > 0, "{state:?}");
    assert!(state.statistics_count <= asked, "{state:?}: {asked}");
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

/// The console, between programs that write and read when it suits them.
pub fn console(data: &[u8]) {
    let (mut host, guests) = must(UnixStream::pair());
    must(host.set_nonblocking(true));
    let fd = Some(guests.as_raw_fd());
    let config = ConsoleConfig { input: fd, output: fd, size: (80, 25) };
    let device = must(Console::open(&config));
    let Some(Control::Console(control)) = device.control() else {
        panic!("a console that nobody can hold")
    };
    drop(guests);
    drive(Box::new(device), &mut Input(data), |input| match input.byte() % 4 {
        0 => control.resize(input.half(), input.half()),
        // The other side hangs up, in one direction or both.
        1 => drop(host.shutdown([Shutdown::Read, Shutdown::Write][usize::from(input.byte() % 2)])),
        _ => {
            let count = usize::from(input.byte());
            let _ = host.write(input.take(count));
            let _ = host.read(&mut [0; HOST_BYTES]);
        }
    });
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
