use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use proptest::prelude::*;
use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::super::Virtqueue;
use super::connection::BUFFER_BYTES;
use super::header::{SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, op};
use super::switch::CONNECTIONS_MAX;
use super::*;

const MEMORY_BYTES: usize = 4 << 20;
const CID: u64 = 7;
const PORT: u32 = 1024;
const NEXT: u16 = VRING_DESC_F_NEXT as u16;
const WRITE: u16 = VRING_DESC_F_WRITE as u16;
/// Where each queue's rings and buffers lie.
const QUEUE_BYTES: u64 = 0x1_0000;
const AVAILABLE: u64 = 0x4000;
const USED: u64 = 0x6000;
const BUFFERS: u64 = 0x10_0000;
const RX_BYTES: u32 = 4096;

/// A device and a driver in guest memory.
struct Bench {
    memory: GuestMemoryMmap,
    queues: [Virtqueue; 3],
    vsock: Vsock,
    directory: tempfile::TempDir,
    available: [u16; 3],
    used: [u16; 3],
}

impl Bench {
    /// With `buffers` empty buffers for packets to the guest.
    fn new(buffers: u16) -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let path = Some(directory.path().join("vsock"));
        let config = VsockConfig { guest_cid: CID as u32, path };
        Bench::with(buffers, directory, Vsock::open(&config, Streams::new()).unwrap())
    }

    /// With this device.
    fn with(buffers: u16, directory: tempfile::TempDir, vsock: Vsock) -> Bench {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).unwrap();
        let queues = [RX, TX, EVENT].map(|index| {
            let base = (index as u64 * QUEUE_BYTES) as u32;
            let mut queue = Virtqueue::new(QUEUE_SIZE);
            queue.set_table(Some(base), None);
            queue.set_available_ring(Some(base + AVAILABLE as u32), None);
            queue.set_used_ring(Some(base + USED as u32), None);
            queue.set_ready(&memory, true).unwrap();
            queue
        });
        let mut bench = Bench { memory, queues, vsock, directory, available: [0; 3], used: [0; 3] };
        for index in 0..buffers {
            let address = BUFFERS + u64::from(index) * u64::from(RX_BYTES);
            bench.describe(RX, index, (address, RX_BYTES, WRITE, 0));
            bench.offer(RX, index);
        }
        bench.ready().unwrap();
        bench
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("vsock")
    }

    fn port_path(&self) -> PathBuf {
        self.directory.path().join(format!("vsock_{PORT}"))
    }

    fn describe(&self, queue: usize, index: u16, (address, length, flags, next): Descriptor) {
        let at = queue as u64 * QUEUE_BYTES + 16 * u64::from(index);
        self.memory.write_obj(address, GuestAddress(at)).unwrap();
        self.memory.write_obj(length, GuestAddress(at + 8)).unwrap();
        self.memory.write_obj(flags, GuestAddress(at + 12)).unwrap();
        self.memory.write_obj(next, GuestAddress(at + 14)).unwrap();
    }

    fn offer(&mut self, queue: usize, head: u16) {
        let ring = queue as u64 * QUEUE_BYTES + AVAILABLE;
        let slot = ring + 4 + 2 * u64::from(self.available[queue] % QUEUE_SIZE);
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.available[queue] = self.available[queue].wrapping_add(1);
        self.memory.write_obj(self.available[queue], GuestAddress(ring + 2)).unwrap();
    }

    fn ready(&mut self) -> Result<(), Broken> {
        self.vsock.host_ready(&mut Queues::new(&self.memory, &mut self.queues))
    }

    /// What the device thread does, until the source is no longer readable.
    fn settle(&mut self) {
        let mut rounds = 0;
        while self.is_readable() {
            self.ready().unwrap();
            rounds += 1;
            assert!(rounds < 1000, "the source stays readable");
        }
    }

    fn is_readable(&self) -> bool {
        let fd = self.vsock.source().unwrap().as_raw_fd();
        let mut entry = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, and no time to wait.
        unsafe { libc::poll(&mut entry, 1, 0) == 1 }
    }

    fn notify(&mut self, queue: usize) -> Result<(), Broken> {
        self.vsock.notified(queue, &mut Queues::new(&self.memory, &mut self.queues))
    }

    /// The driver sends a packet.
    fn send(&mut self, header: Header, data: &[u8]) {
        let at = BUFFERS + 0x20_0000;
        self.memory.write_slice(&header.bytes(), GuestAddress(at)).unwrap();
        self.memory.write_slice(data, GuestAddress(at + 0x1000)).unwrap();
        let length = HEADER_BYTES as u32;
        self.describe(TX, 0, (at, length, if data.is_empty() { 0 } else { NEXT }, 1));
        self.describe(TX, 1, (at + 0x1000, data.len() as u32, 0, 0));
        self.offer(TX, 0);
        self.notify(TX).unwrap();
        self.settle();
    }

    /// Takes the next packet that the driver received, and gives its buffer again.
    fn receive(&mut self) -> Option<(Header, Vec<u8>)> {
        self.settle();
        let ring = RX as u64 * QUEUE_BYTES + USED;
        let used: u16 = self.memory.read_obj(GuestAddress(ring + 2)).unwrap();
        if used == self.used[RX] {
            return None;
        }
        let slot = ring + 4 + 8 * u64::from(self.used[RX] % QUEUE_SIZE);
        self.used[RX] = self.used[RX].wrapping_add(1);
        let head: u32 = self.memory.read_obj(GuestAddress(slot)).unwrap();
        let length: u32 = self.memory.read_obj(GuestAddress(slot + 4)).unwrap();
        let mut bytes = vec![0; length as usize];
        let at = BUFFERS + u64::from(head) * u64::from(RX_BYTES);
        self.memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        let header = Header::parse(bytes.first_chunk().unwrap());
        assert_eq!(header.length as usize, bytes.len() - HEADER_BYTES);
        self.offer(RX, head as u16);
        self.notify(RX).unwrap();
        Some((header, bytes.split_off(HEADER_BYTES)))
    }

    fn receive_op(&mut self) -> Option<u16> {
        self.receive().map(|(header, _)| header.op)
    }

    /// The driver connects to `PORT`, where a listener is.
    fn connect(&mut self, guest_port: u32) -> UnixStream {
        let listener = UnixListener::bind(self.port_path()).unwrap();
        self.send(packet(op::REQUEST, guest_port), &[]);
        let (header, _) = self.receive().unwrap();
        assert_eq!((header.op, header.source_port, header.target_port), (2, PORT, guest_port));
        assert_eq!((header.source_cid, header.target_cid), (HOST_CID, CID));
        assert_eq!(header.buffer_bytes, BUFFER_BYTES);
        let socket = listener.accept().unwrap().0;
        socket.set_nonblocking(true).unwrap();
        std::fs::remove_file(self.port_path()).unwrap();
        socket
    }
}

type Descriptor = (u64, u32, u16, u16);

fn packet(op: u16, guest_port: u32) -> Header {
    Header {
        source_cid: CID,
        target_cid: HOST_CID,
        source_port: guest_port,
        target_port: PORT,
        kind: STREAM,
        op,
        buffer_bytes: 1 << 20,
        ..Header::default()
    }
}

fn data(op: u16, guest_port: u32, length: usize) -> Header {
    Header { length: length as u32, ..packet(op, guest_port) }
}

#[test]
fn test_given_socket_is_reached_once_and_without_a_path_nothing_else() {
    let (mut host, ours) = UnixStream::pair().unwrap();
    let config = VsockConfig { guest_cid: CID as u32, path: None };
    let vsock = Vsock::open(&config, Streams::from([(PORT, ours)])).unwrap();
    let mut bench = Bench::with(8, tempfile::tempdir().unwrap(), vsock);
    // What waits there before the guest comes is not lost.
    host.write_all(b"early").unwrap();
    bench.send(packet(op::REQUEST, 50), &[]);
    assert_eq!(bench.receive_op(), Some(op::RESPONSE));
    let (header, bytes) = bench.receive().unwrap();
    assert_eq!((header.op, &bytes[..]), (op::RW, &b"early"[..]));
    bench.send(data(op::RW, 50, 4), b"back");
    let mut got = [0; 4];
    host.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"back");
    for port in [PORT, PORT + 1] {
        bench.send(Header { target_port: port, ..packet(op::REQUEST, 51) }, &[]);
        assert_eq!(bench.receive_op(), Some(op::RST));
    }
    drop(host);
    assert_eq!(bench.receive_op(), Some(op::SHUTDOWN));
}

#[test]
fn test_header_bytes_are_in_the_order_of_the_standard() {
    let header = Header {
        source_cid: 1 << 32 | 2,
        target_cid: 3,
        source_port: 4,
        target_port: 5,
        length: 6,
        kind: 7,
        op: 8,
        flags: 9,
        buffer_bytes: 10,
        forwarded: 11,
    };
    let bytes = header.bytes();
    let places: Vec<_> = (0..44).filter(|&at| bytes[at] != 0).map(|at| (at, bytes[at])).collect();
    let want = [(0, 2), (4, 1), (8, 3), (16, 4), (20, 5), (24, 6), (28, 7), (30, 8), (32, 9)];
    assert_eq!(places, [&want[..], &[(36, 10), (40, 11)]].concat());
    assert_eq!(Header::parse(&bytes), header);
}

#[test]
fn test_stream_from_guest_carries_both_ways_under_credit() {
    const BYTES: usize = 1 << 20;
    let mut bench = Bench::new(16);
    let mut socket = bench.connect(50);
    let want: Vec<u8> = (0..BYTES).map(|index| (index * 7 + index / 251) as u8).collect();
    // To the host, as far as the device gives credit.
    let (mut got, mut sent, mut forwarded) = (Vec::new(), 0, 0);
    let mut buffer = vec![0; 10_000];
    while got.len() < BYTES {
        let room = (BUFFER_BYTES as usize - (sent - forwarded)).min(4000).min(BYTES - sent);
        if room > 0 {
            bench.send(data(op::RW, 50, room), &want[sent..sent + room]);
            sent += room;
        } else if let Ok(length) = socket.read(&mut buffer) {
            got.extend_from_slice(&buffer[..length]);
        }
        while let Some((header, _)) = bench.receive() {
            assert_eq!(header.op, op::CREDIT_UPDATE);
            forwarded = header.forwarded as usize;
        }
    }
    assert!(got == want);
    // To the guest, which takes 10000 bytes at a time.
    let (mut got, mut sent) = (Vec::new(), 0);
    bench.send(Header { buffer_bytes: 10_000, ..packet(op::CREDIT_UPDATE, 50) }, &[]);
    while got.len() < BYTES {
        sent += socket.write(&want[sent..]).unwrap_or(0);
        let before = got.len();
        while let Some((header, bytes)) = bench.receive() {
            assert!(matches!(header.op, op::RW | op::CREDIT_REQUEST), "{header:?}");
            got.extend_from_slice(&bytes);
        }
        assert!(got.len() > before && got.len() <= before + 10_000);
        let forwarded = got.len() as u32;
        let header = Header { buffer_bytes: 10_000, forwarded, ..packet(op::CREDIT_UPDATE, 50) };
        bench.send(header, &[]);
    }
    assert!(got == want);
}

#[test]
fn test_stream_from_host_is_answered_and_ends_both_ways() {
    let mut bench = Bench::new(16);
    let mut socket = UnixStream::connect(bench.path()).unwrap();
    socket.write_all(b"CONN").unwrap();
    assert_eq!(bench.receive(), None);
    socket.write_all(b"ECT 80\nearly").unwrap();
    let (request, _) = bench.receive().unwrap();
    assert_eq!((request.op, request.target_port), (op::REQUEST, 80));
    assert_eq!(bench.receive(), None);
    let host_port = request.source_port;
    let reply = |op| Header { target_port: host_port, ..packet(op, 80) };
    bench.send(reply(op::RESPONSE), &[]);
    let mut answer = [0; 14];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *format!("OK {host_port}\n").as_bytes());
    assert_eq!(bench.receive().unwrap().1, b"early");
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    let (header, _) = bench.receive().unwrap();
    assert_eq!((header.op, header.flags), (op::SHUTDOWN, SHUTDOWN_SEND));
    bench.send(Header { length: 3, ..reply(op::RW) }, b"bye");
    bench.send(Header { flags: SHUTDOWN_BOTH, ..reply(op::SHUTDOWN) }, &[]);
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"bye");
    assert_eq!(bench.receive_op(), Some(op::RST));
    assert!(bench.vsock.switch.connections.is_empty());
}

#[test]
fn test_host_that_closes_ends_the_guests_stream() {
    let mut bench = Bench::new(4);
    let mut socket = bench.connect(50);
    socket.write_all(b"last").unwrap();
    drop(socket);
    assert_eq!(bench.receive().unwrap().1, b"last");
    let (header, _) = bench.receive().unwrap();
    assert_eq!((header.op, header.flags), (op::SHUTDOWN, SHUTDOWN_BOTH));
    bench.send(packet(op::RST, 50), &[]);
    assert_eq!(bench.receive(), None);
    assert!(bench.vsock.switch.connections.is_empty());
}

#[test]
fn test_host_that_says_nonsense_is_dropped() {
    let mut bench = Bench::new(4);
    for line in
        ["GET /\n", "CONNECT \n", "CONNECT +1\n", "CONNECT 4294967295\n", "CONNECT 99999999999"]
    {
        let mut socket = UnixStream::connect(bench.path()).unwrap();
        socket.write_all(line.as_bytes()).unwrap();
        assert_eq!(bench.receive(), None, "{line}");
        assert_eq!(socket.read(&mut [0]).unwrap_or(0), 0, "{line}");
        assert!(bench.vsock.switch.connections.is_empty(), "{line}");
    }
}

#[test]
fn test_packet_that_breaks_the_rules_is_reset_or_dropped() {
    let mut bench = Bench::new(4);
    let refused = [
        packet(op::REQUEST, 9),
        packet(op::RESPONSE, 9),
        packet(op::RW, 9),
        packet(op::SHUTDOWN, 9),
        packet(op::CREDIT_REQUEST, 9),
        packet(0, 9),
        packet(8, 9),
        packet(u16::MAX, 9),
        data(op::RW, 9, 1),
        data(op::REQUEST, 9, u32::MAX as usize),
        Header { kind: 2, ..packet(op::REQUEST, 9) },
        Header { target_port: u32::MAX, ..packet(op::REQUEST, 9) },
    ];
    for header in refused {
        bench.send(header, &[]);
        let (reset, _) = bench.receive().unwrap();
        assert_eq!((reset.op, reset.kind), (op::RST, header.kind), "{header:?}");
        assert_eq!((reset.source_port, reset.target_port), (header.target_port, 9));
        assert_eq!((reset.source_cid, reset.target_cid), (HOST_CID, CID));
    }
    let dropped = [
        packet(op::RST, 9),
        Header { source_cid: CID + 1, ..packet(op::REQUEST, 9) },
        Header { source_cid: CID | 1 << 32, ..packet(op::REQUEST, 9) },
        Header { target_cid: 1, ..packet(op::REQUEST, 9) },
        Header { target_cid: CID, ..packet(op::REQUEST, 9) },
    ];
    for header in dropped {
        bench.send(header, &[]);
        assert_eq!(bench.receive(), None, "{header:?}");
    }
}

#[test]
fn test_packet_that_breaks_a_streams_rules_resets_it() {
    let wrong = [
        packet(op::REQUEST, 9),
        packet(op::RESPONSE, 9),
        packet(99, 9),
        data(op::RW, 9, 5),
        data(op::RW, 9, DATA_BYTES + 1),
    ];
    for header in wrong {
        let mut bench = Bench::new(4);
        let mut socket = bench.connect(9);
        bench.send(header, &[]);
        assert_eq!(bench.receive_op(), Some(op::RST), "{header:?}");
        assert_eq!(socket.read(&mut [0]).unwrap(), 0);
        assert!(bench.vsock.switch.connections.is_empty());
    }
}

#[test]
fn test_guest_that_sends_more_than_its_credit_is_reset() {
    let mut bench = Bench::new(16);
    let _socket = bench.connect(9);
    let part = [1; 4096];
    let mut parts = 0;
    let ended = loop {
        bench.send(data(op::RW, 9, part.len()), &part);
        parts += 1;
        assert!(parts < 1000, "the device takes everything");
        if let Some(op) = bench.receive_op().filter(|&op| op != op::CREDIT_UPDATE) {
            break op;
        }
    };
    assert_eq!(ended, op::RST);
    assert!(parts > BUFFER_BYTES as usize / part.len());
}

#[test]
fn test_guest_that_takes_no_more_leaves_the_source_quiet() {
    let mut bench = Bench::new(4);
    let mut socket = bench.connect(9);
    bench.send(Header { flags: SHUTDOWN_RECEIVE, ..packet(op::SHUTDOWN, 9) }, &[]);
    let _ = socket.write(&[1; 100]);
    bench.settle();
    assert_eq!(bench.receive(), None);
    assert!(!bench.is_readable());
    // The end of the guest's data, which the socket echoes as an event.
    let mut bench = Bench::new(4);
    let mut socket = bench.connect(9);
    bench.send(Header { flags: SHUTDOWN_SEND, ..packet(op::SHUTDOWN, 9) }, &[]);
    assert_eq!(socket.read(&mut [0]).unwrap(), 0);
    assert!(!bench.is_readable());
    // No credit at all.
    let mut bench = Bench::new(4);
    let mut socket = bench.connect(9);
    bench.send(Header { buffer_bytes: 0, ..packet(op::CREDIT_UPDATE, 9) }, &[]);
    socket.write_all(&[1; 100]).unwrap();
    assert_eq!(bench.receive_op(), Some(op::CREDIT_REQUEST));
    assert_eq!(bench.receive(), None);
    assert!(!bench.is_readable());
}

#[test]
fn test_guest_without_buffers_is_held_until_it_gives_some() {
    let mut bench = Bench::new(0);
    for _ in 0..QUEUE_SIZE * 2 {
        bench.send(packet(op::RW, 9), &[]);
    }
    assert_eq!(bench.vsock.switch.resets.len(), RESETS_MAX);
    let used: u16 = bench.memory.read_obj(GuestAddress(QUEUE_BYTES + USED + 2)).unwrap();
    assert_eq!(usize::from(used), RESETS_MAX);
    bench.describe(RX, 0, (BUFFERS, RX_BYTES, WRITE, 0));
    bench.offer(RX, 0);
    bench.notify(RX).unwrap();
    let resets = std::iter::from_fn(|| bench.receive_op()).filter(|&op| op == op::RST).count();
    assert_eq!(resets, usize::from(QUEUE_SIZE) * 2);
}

#[test]
fn test_connections_beyond_the_limit_are_refused() {
    let mut bench = Bench::new(4);
    let listener = UnixListener::bind(bench.port_path()).unwrap();
    let mut accepted = Vec::new();
    for port in 0..CONNECTIONS_MAX as u32 {
        bench.send(packet(op::REQUEST, port), &[]);
        assert_eq!(bench.receive_op(), Some(op::RESPONSE), "{port}");
        accepted.push(listener.accept().unwrap().0);
    }
    bench.send(packet(op::REQUEST, 5000), &[]);
    assert_eq!(bench.receive_op(), Some(op::RST));
    // One that the host has left makes room.
    accepted.pop();
    assert_eq!(bench.receive_op(), Some(op::SHUTDOWN));
    bench.send(packet(op::REQUEST, 5000), &[]);
    let mut ops = [bench.receive_op(), bench.receive_op()];
    ops.sort();
    assert_eq!(ops, [Some(op::RESPONSE), Some(op::RST)]);
}

#[test]
fn test_reset_ends_streams_and_silences_the_source() {
    let mut bench = Bench::new(4);
    let mut socket = bench.connect(9);
    bench.vsock.negotiated(0);
    assert_eq!(socket.read(&mut [0]).unwrap(), 0);
    let _waiting = UnixStream::connect(bench.path()).unwrap();
    assert!(!bench.is_readable());
    bench.ready().unwrap();
    assert!(bench.is_readable());
    bench.settle();
    assert_eq!(bench.vsock.switch.connections.len(), 1);
}

#[test]
fn test_restored_tells_the_driver_that_connections_are_gone() {
    let mut bench = Bench::new(4);
    bench.vsock.restored();
    bench.settle();
    // Told as soon as there is room.
    bench.memory.write_slice(&[0xff; 4], GuestAddress(BUFFERS)).unwrap();
    bench.describe(EVENT, 0, (BUFFERS, 4, WRITE, 0));
    bench.offer(EVENT, 0);
    bench.notify(EVENT).unwrap();
    assert_eq!(bench.memory.read_obj::<u32>(GuestAddress(BUFFERS)).unwrap(), 0);
    // And once.
    bench.memory.write_slice(&[0xff; 4], GuestAddress(BUFFERS)).unwrap();
    bench.offer(EVENT, 0);
    bench.notify(EVENT).unwrap();
    assert_eq!(bench.memory.read_obj::<u32>(GuestAddress(BUFFERS)).unwrap(), u32::MAX);
}

#[test]
fn test_open_replaces_a_stale_socket_but_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vsock");
    let config = VsockConfig { guest_cid: 3, path: Some(path.clone()) };
    drop(UnixListener::bind(&path).unwrap());
    let vsock = Vsock::open(&config, Streams::new()).unwrap();
    assert!(matches!(Vsock::open(&config, Streams::new()), Err(VsockError::InUse { .. })));
    drop(vsock);
    assert!(!path.exists());
    std::fs::write(&path, "mine").unwrap();
    assert!(matches!(Vsock::open(&config, Streams::new()), Err(VsockError::InUse { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    let long = VsockConfig { guest_cid: 3, path: Some("x".repeat(97).into()) };
    assert!(matches!(Vsock::open(&long, Streams::new()), Err(VsockError::Path { limit: 96, .. })));
    for guest_cid in [0, 1, 2, u32::MAX] {
        let config = VsockConfig { guest_cid, path: Some(directory.path().join("other")) };
        assert!(matches!(Vsock::open(&config, Streams::new()), Err(VsockError::Cid { .. })));
    }
}

#[test]
fn test_broken_queue_returns_its_error() {
    let mut bench = Bench::new(4);
    bench.describe(TX, 0, (BUFFERS, 44, NEXT, 0));
    bench.offer(TX, 0);
    assert_eq!(bench.notify(TX), Err(Broken::Endless));
    let mut bench = Bench::new(4);
    bench.describe(TX, 0, (MEMORY_BYTES as u64, 44, 0, 0));
    bench.offer(TX, 0);
    assert_eq!(bench.notify(TX), Err(Broken::Buffer));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// Whatever the packets and descriptors say: no panic, no access outside guest memory, bounds
    /// kept, and an end.
    #[test]
    fn test_any_packets_and_descriptors_are_safe(
        packets in prop::collection::vec(
            (0_u16..9, 0_u32..3, prop_oneof![0_u32..100, any::<u32>()], any::<u32>(),
             any::<u32>(), prop_oneof![Just(STREAM), any::<u16>()]),
            1..30,
        ),
        wild in prop::collection::vec(
            (0_usize..3, prop_oneof![0..MEMORY_BYTES as u64, any::<u64>()],
             prop_oneof![0_u32..5000, any::<u32>()], 0_u16..8, prop_oneof![0_u16..8, any::<u16>()]),
            0..8,
        ),
    ) {
        let mut bench = Bench::new(8);
        let listener = UnixListener::bind(bench.port_path()).unwrap();
        for (op, port, length, buffer_bytes, forwarded, kind) in packets {
            let header = Header { length, buffer_bytes, forwarded, flags: forwarded, kind, ..packet(op, port) };
            bench.send(header, &[7; 60]);
            while bench.receive().is_some() {}
        }
        listener.set_nonblocking(true).unwrap();
        while listener.accept().is_ok() {}
        for (index, (queue, address, length, flags, next)) in (0_u16..).zip(wild) {
            bench.describe(queue, index, (address, length, flags, next));
            bench.offer(queue, index);
            let _ = bench.notify(queue);
            let _ = bench.ready();
        }
        prop_assert!(bench.vsock.switch.connections.len() <= CONNECTIONS_MAX);
        prop_assert!(bench.vsock.switch.resets.len() <= RESETS_MAX + CONNECTIONS_MAX);
    }
}
