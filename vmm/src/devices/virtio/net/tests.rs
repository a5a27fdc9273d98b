use std::os::fd::{FromRawFd, OwnedFd};

use proptest::prelude::*;
use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::NetBackend;

const MEMORY_BYTES: usize = 4 << 20;
const NEXT: u16 = VRING_DESC_F_NEXT as u16;
const WRITE: u16 = VRING_DESC_F_WRITE as u16;
const QUEUE_BYTES: u64 = 0x1_0000;
const AVAILABLE: u64 = 0x4000;
const USED: u64 = 0x6000;
const BUFFERS: u64 = 0x10_0000;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

/// A device whose tap is a pair of packet sockets, and a driver in guest memory.
struct Bench {
    memory: GuestMemoryMmap,
    queues: [Virtqueue; 2],
    net: Net,
    host: OwnedFd,
    available: [u16; 2],
    used: [u16; 2],
}

impl Bench {
    fn new(features: u64) -> Bench {
        let [tap, host] = wire();
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).unwrap();
        let queues = [RX, TX].map(|index| {
            let base = (index as u64 * QUEUE_BYTES) as u32;
            let mut queue = Virtqueue::new(QUEUE_SIZE);
            queue.set_table(Some(base), None);
            queue.set_available_ring(Some(base + AVAILABLE as u32), None);
            queue.set_used_ring(Some(base + USED as u32), None);
            queue.set_ready(&memory, true).unwrap();
            queue
        });
        let net = Net::new(Tap::from_fd(tap), config_of(MAC).unwrap()).unwrap();
        let mut bench = Bench { memory, queues, net, host, available: [0; 2], used: [0; 2] };
        bench.net.negotiated(features);
        bench.ready().unwrap();
        bench
    }

    fn describe(&self, queue: usize, index: u16, address: u64, length: u32, flags: u16, next: u16) {
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

    /// The next chain that the device has used, and how much it wrote.
    fn used(&mut self, queue: usize) -> Option<(u32, u32)> {
        let ring = queue as u64 * QUEUE_BYTES + USED;
        let index: u16 = self.memory.read_obj(GuestAddress(ring + 2)).unwrap();
        if index == self.used[queue] {
            return None;
        }
        let slot = ring + 4 + 8 * u64::from(self.used[queue] % QUEUE_SIZE);
        self.used[queue] = self.used[queue].wrapping_add(1);
        let read = |at| self.memory.read_obj::<u32>(GuestAddress(at)).unwrap();
        Some((read(slot), read(slot + 4)))
    }

    fn ready(&mut self) -> Result<(), Broken> {
        self.net.host_ready(&mut Queues::new(&self.memory, &mut self.queues))
    }

    fn notify(&mut self, queue: usize) -> Result<(), Broken> {
        self.net.notified(queue, &mut Queues::new(&self.memory, &mut self.queues))
    }

    fn is_readable(&self) -> bool {
        let fd = self.net.source().unwrap().as_raw_fd();
        let mut entry = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, and no time to wait.
        unsafe { libc::poll(&mut entry, 1, 0) == 1 }
    }

    /// Offers so many buffers of that size for packets to the guest.
    fn room(&mut self, count: u16, bytes: u32) {
        for index in 0..count {
            let address = BUFFERS + u64::from(index) * u64::from(bytes);
            self.describe(RX, index, address, bytes, WRITE, 0);
            self.offer(RX, index);
        }
        self.notify(RX).unwrap();
    }

    /// The host sends a packet with its header.
    fn send(&self, packet: &[u8]) {
        // SAFETY: pointer and length are of one slice.
        let sent =
            unsafe { libc::send(self.host.as_raw_fd(), packet.as_ptr().cast(), packet.len(), 0) };
        assert_eq!(sent, packet.len() as isize);
    }

    /// What the host receives, if anything.
    fn received(&self) -> Option<Vec<u8>> {
        let mut packet = vec![0; 70_000];
        // SAFETY: pointer and length are of one vector.
        let got = unsafe {
            libc::recv(self.host.as_raw_fd(), packet.as_mut_ptr().cast(), packet.len(), 0)
        };
        usize::try_from(got).ok().map(|length| {
            packet.truncate(length);
            packet
        })
    }
}

/// Both ends of what carries packets whole.
fn wire() -> [OwnedFd; 2] {
    let mut pair = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_NONBLOCK;
    // SAFETY: the array has room for two descriptors, which nobody else owns.
    unsafe {
        assert_eq!(libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()), 0);
        pair.map(|fd| OwnedFd::from_raw_fd(fd))
    }
}

fn packet(bytes: usize) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..HEADER_BYTES + bytes).map(|index| index as u8).collect();
    packet[..HEADER_BYTES].fill(0);
    packet
}

#[test]
fn test_transmit_sends_each_chain_as_one_packet() {
    let mut bench = Bench::new(0);
    let sent = packet(100);
    bench.memory.write_slice(&sent, GuestAddress(BUFFERS)).unwrap();
    bench.describe(TX, 0, BUFFERS, HEADER_BYTES as u32, NEXT, 1);
    bench.describe(TX, 1, BUFFERS + HEADER_BYTES as u64, 100, 0, 0);
    bench.offer(TX, 0);
    bench.offer(TX, 0);
    bench.notify(TX).unwrap();
    assert_eq!(bench.received().unwrap(), sent);
    assert_eq!(bench.received().unwrap(), sent);
    assert_eq!(bench.received(), None);
    assert_eq!(
        (bench.used(TX), bench.used(TX), bench.used(TX)),
        (Some((0, 0)), Some((0, 0)), None)
    );
}

#[test]
fn test_transmit_sends_a_packet_of_an_indirect_table() {
    let mut bench = Bench::new(0);
    let sent = packet(100);
    bench.memory.write_slice(&sent, GuestAddress(BUFFERS)).unwrap();
    let table = BUFFERS + 0x1000;
    let parts =
        [(BUFFERS, HEADER_BYTES as u32, NEXT, 1_u16), (BUFFERS + HEADER_BYTES as u64, 100, 0, 0)];
    for (at, (address, length, flags, next)) in (table..).step_by(16).zip(parts) {
        bench.memory.write_obj(address, GuestAddress(at)).unwrap();
        bench.memory.write_obj(length, GuestAddress(at + 8)).unwrap();
        bench.memory.write_obj(flags, GuestAddress(at + 12)).unwrap();
        bench.memory.write_obj(next, GuestAddress(at + 14)).unwrap();
    }
    assert_ne!(bench.net.features() & 1 << VIRTIO_RING_F_INDIRECT_DESC, 0);
    bench.describe(TX, 5, table, 32, VRING_DESC_F_INDIRECT as u16, 0);
    bench.offer(TX, 5);
    bench.notify(TX).unwrap();
    assert_eq!(bench.received().unwrap(), sent);
    assert_eq!(bench.used(TX), Some((5, 0)));
}

#[test]
fn test_gathers_while_the_host_sends_large_packets() {
    let mut bench = Bench::new(1 << net::VIRTIO_NET_F_MRG_RXBUF);
    bench.room(16, 4096);
    for (bytes, gathers) in [(60, false), (9000, true), (60, false)] {
        bench.send(&packet(bytes));
        bench.ready().unwrap();
        assert_eq!(bench.net.gathers(), gathers, "{bytes}");
    }
}

#[test]
fn test_receive_gives_packets_in_order_and_counts_buffers() {
    let mut bench = Bench::new(0);
    bench.room(4, 2048);
    bench.send(&packet(60));
    bench.send(&packet(1500));
    assert!(bench.is_readable());
    bench.ready().unwrap();
    assert_eq!(bench.used(RX), Some((0, 72)));
    assert_eq!(bench.used(RX), Some((1, 1512)));
    let mut got = vec![0; 1512];
    bench.memory.read_slice(&mut got, GuestAddress(BUFFERS + 2048)).unwrap();
    // num_buffers is 1 (section 5.1.6.4).
    assert_eq!(got[HEADER_BUFFERS..HEADER_BYTES], [1, 0]);
    assert_eq!(got[HEADER_BYTES..], packet(1500)[HEADER_BYTES..]);
    assert!(!bench.is_readable());
}

#[test]
fn test_receive_without_buffers_does_not_wake_until_there_are_some() {
    let mut bench = Bench::new(0);
    bench.send(&packet(60));
    assert!(!bench.is_readable(), "the device thread would wake for nothing");
    bench.ready().unwrap();
    assert!(!bench.is_readable(), "the device thread would spin");
    bench.room(1, 2048);
    assert_eq!(bench.used(RX), Some((0, 72)));
}

#[test]
fn test_restored_hears_another_tap_with_the_buffers_it_had() {
    let mut bench = Bench::new(0);
    bench.room(2, 2048);
    bench.net.settle(&mut Queues::new(&bench.memory, &mut bench.queues)).unwrap();
    let [tap, host] = wire();
    bench.host = host;
    bench.net = Net::new(Tap::from_fd(tap), config_of(MAC).unwrap()).unwrap();
    bench.net.negotiated(0);
    bench.net.restored();
    assert!(!bench.is_readable());
    bench.send(&packet(60));
    assert!(bench.is_readable(), "the packet is not heard");
    bench.ready().unwrap();
    assert_eq!(bench.used(RX), Some((0, 72)));
}

#[test]
fn test_receive_merges_buffers_for_a_long_packet_and_keeps_it_until_they_are_there() {
    let mut bench = Bench::new(1 << net::VIRTIO_NET_F_MRG_RXBUF);
    bench.room(2, 1024);
    bench.send(&packet(2500));
    bench.ready().unwrap();
    assert_eq!(bench.used(RX), None);
    assert!(!bench.is_readable());
    bench.describe(RX, 2, BUFFERS + 2048, 1024, WRITE, 0);
    bench.offer(RX, 2);
    bench.notify(RX).unwrap();
    let used = [bench.used(RX), bench.used(RX), bench.used(RX), bench.used(RX)];
    assert_eq!(used, [Some((0, 1024)), Some((1, 1024)), Some((2, 464)), None]);
    let mut got = vec![0; 2512];
    bench.memory.read_slice(&mut got, GuestAddress(BUFFERS)).unwrap();
    assert_eq!(got[HEADER_BUFFERS..HEADER_BYTES], [3, 0]);
    assert_eq!(got[HEADER_BYTES..], packet(2500)[HEADER_BYTES..]);
}

#[test]
fn test_receive_packets_of_all_lengths_arrive_whole_and_leave_the_rest_for_the_next() {
    let mut bench = Bench::new(1 << net::VIRTIO_NET_F_MRG_RXBUF);
    bench.room(200, 1024);
    let mut chain = 0;
    for bytes in [60, 2500, 1012, 1013, 60, 9000, 1, 30_000, 500] {
        let mut sent = packet(bytes);
        bench.send(&sent);
        bench.ready().unwrap();
        let count = sent.len().div_ceil(1024);
        sent[HEADER_BUFFERS] = count as u8;
        let mut got = vec![0; sent.len()];
        bench.memory.read_slice(&mut got, GuestAddress(BUFFERS + chain * 1024)).unwrap();
        assert!(got == sent, "{bytes}");
        for part in sent.chunks(1024) {
            assert_eq!(bench.used(RX), Some((chain as u32, part.len() as u32)), "{bytes}");
            chain += 1;
        }
        assert_eq!(bench.used(RX), None);
    }
}

#[test]
fn test_settle_leaves_the_buffers_in_the_queue() {
    let mut bench = Bench::new(1 << net::VIRTIO_NET_F_MRG_RXBUF);
    bench.room(3, 2048);
    for chain in 0..3 {
        bench.net.settle(&mut Queues::new(&bench.memory, &mut bench.queues)).unwrap();
        bench.send(&packet(60));
        bench.ready().unwrap();
        assert_eq!(bench.used(RX), Some((chain, 72)));
    }
}

#[test]
fn test_receive_chain_with_a_readable_buffer_is_written_behind_it_only() {
    let mut bench = Bench::new(1 << net::VIRTIO_NET_F_MRG_RXBUF);
    for _ in 0..1000 {
        bench.describe(RX, 0, BUFFERS, 64, NEXT, 1);
        bench.describe(RX, 1, BUFFERS + 64, 2048, WRITE, 0);
        bench.offer(RX, 0);
        bench.notify(RX).unwrap();
        bench.send(&packet(60));
        bench.ready().unwrap();
        assert_eq!(bench.used(RX), Some((0, 72)));
        assert!(bench.net.room.buffers().readable().is_empty(), "kept for ever");
    }
    let mut got = [0xff; 64 + 72];
    bench.memory.read_slice(&mut got, GuestAddress(BUFFERS)).unwrap();
    assert_eq!(got[..64], [0; 64]);
    assert_eq!(got[64 + HEADER_BYTES..], packet(60)[HEADER_BYTES..]);
}

#[test]
fn test_receive_too_long_for_its_buffer_without_merging_is_lost() {
    let mut bench = Bench::new(0);
    bench.room(2, 1024);
    bench.send(&packet(2500));
    bench.send(&packet(60));
    bench.ready().unwrap();
    assert_eq!(bench.used(RX), Some((0, 72)));
    assert_eq!(bench.used(RX), None);
}

#[test]
fn test_receive_into_a_buffer_without_room_for_the_header_breaks() {
    let mut bench = Bench::new(0);
    bench.send(&packet(60));
    bench.describe(RX, 0, BUFFERS, HEADER_BYTES as u32 - 1, WRITE, 0);
    bench.offer(RX, 0);
    assert_eq!(bench.notify(RX), Err(Broken::Frame));
}

#[test]
fn test_host_that_is_gone_takes_the_link_down_once() {
    let mut bench = Bench::new(0);
    bench.room(2, 2048);
    assert_eq!(bench.net.config(), [2, 0, 0, 0, 0, 7, 1, 0]);
    let (end, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    bench.net.tap = Tap::from_fd(OwnedFd::from(std::fs::File::open("/").unwrap()));
    drop(end);
    let mut queues = Queues::new(&bench.memory, &mut bench.queues);
    bench.net.host_ready(&mut queues).unwrap();
    assert!(queues.config_changed);
    assert_eq!(bench.net.config(), [2, 0, 0, 0, 0, 7, 0, 0]);
    let mut queues = Queues::new(&bench.memory, &mut bench.queues);
    bench.net.host_ready(&mut queues).unwrap();
    assert!(!queues.config_changed);
}

#[test]
fn test_open_refuses_addresses_and_taps_that_cannot_be() {
    let open = |mac, tap: &str| {
        let tap = crate::TapSource::Name(tap.to_owned());
        Net::open(&NetConfig { tap, backend: NetBackend::User, mac }).unwrap_err()
    };
    for mac in [[0; 6], [1, 0, 0, 0, 0, 1], [0xff; 6]] {
        assert!(matches!(open(mac, "tap0"), NetError::Mac { .. }));
    }
    for name in ["", "sixteen-bytes-16", "a/b", "a%d", "a b"] {
        assert!(matches!(open(MAC, name), NetError::Name { .. }), "{name}");
    }
    let file = tempfile::tempfile().unwrap();
    let tap = crate::TapSource::Fd(file.as_raw_fd());
    let error = Net::open(&NetConfig { tap, backend: NetBackend::User, mac: MAC }).unwrap_err();
    assert!(matches!(error, NetError::Open { .. }), "{error}");
}

proptest! {
    /// Whatever the descriptors say, the device answers or breaks, and touches guest memory only.
    #[test]
    fn test_any_descriptors_are_safe(
        descriptors in prop::collection::vec(
            (0..MEMORY_BYTES as u64 + 0x1000, 0_u32..9000, 0_u16..8, 0_u16..16),
            16,
        ),
        heads in prop::collection::vec((0_usize..2, 0_u16..20), 1..8),
        merges in any::<bool>(),
    ) {
        let mut bench = Bench::new(u64::from(merges) << net::VIRTIO_NET_F_MRG_RXBUF);
        for (index, (address, length, flags, next)) in (0_u16..).zip(descriptors) {
            for queue in [RX, TX] {
                // Not over the rings.
                let address = address.max(BUFFERS);
                bench.describe(queue, index, address, length, flags, next);
            }
        }
        for (queue, head) in heads {
            bench.send(&packet(3000));
            bench.offer(queue, head);
            if bench.notify(queue).is_err() || bench.ready().is_err() {
                return Ok(());
            }
        }
    }
}
