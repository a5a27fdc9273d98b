use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::bench::*;
use super::*;

#[test]
fn test_request_reads_into_scattered_buffers() {
    each_engine(false, |mut bench| {
        bench.header(blk::VIRTIO_BLK_T_IN, 2);
        let buffers = [(DATA, 100, WRITE), (DATA + 0x1000, 924, WRITE)];
        assert_eq!(bench.request(&buffers), Ok((0, 1025)));
        assert_eq!(bench.data(DATA, 100), [2; 100]);
        assert_eq!(bench.data(DATA + 0x1000, 412), [2; 412]);
        assert_eq!(bench.data(DATA + 0x1000 + 412, 512), [3; 512]);
    });
}

#[test]
fn test_request_writes_and_flushes() {
    each_engine(false, |mut bench| {
        bench.memory.write_slice(&[0xaa; 1024], GuestAddress(DATA)).unwrap();
        bench.header(blk::VIRTIO_BLK_T_OUT, 127 - 1);
        assert_eq!(bench.request(&[(DATA, 512, 0), (DATA + 512, 512, 0)]), Ok((0, 1)));
        bench.header(blk::VIRTIO_BLK_T_FLUSH, 0);
        assert_eq!(bench.request(&[]), Ok((0, 1)));
        let disk = bench.disk();
        assert_eq!(disk.len() as u64, DISK_BYTES);
        assert_eq!(disk[disk.len() - 1024..], [0xaa; 1024]);
        assert_eq!(disk[disk.len() - 1025], 125);
    });
}

#[test]
fn test_request_header_and_status_shared_with_data() {
    each_engine(false, |mut bench| {
        // Framing is the driver's choice: the header in two parts, the status behind the data.
        bench.header(blk::VIRTIO_BLK_T_IN, 5);
        bench.describe(0, (HEADER, 5, NEXT, 1));
        bench.describe(1, (HEADER + 5, 11, NEXT, 2));
        bench.describe(2, (DATA, 513, WRITE, 0));
        assert_eq!(bench.offer(0), Ok(true));
        assert_eq!(bench.data(DATA, 513), [&[5; 512][..], &[0]].concat());
    });
}

#[test]
fn test_request_get_id_returns_the_devices_name() {
    each_engine(false, |mut bench| {
        bench.header(blk::VIRTIO_BLK_T_GET_ID, 0);
        assert_eq!(bench.request(&[(DATA, 20, WRITE)]), Ok((0, 21)));
        assert_eq!(&bench.data(DATA, 12), b"tare-disk-3\0");
        assert_eq!(bench.request(&[(DATA, 19, WRITE)]), Ok((1, 1)));
    });
}

#[test]
fn test_request_in_scattered_pages_is_one_request() {
    each_engine(false, |mut bench| {
        bench.header(blk::VIRTIO_BLK_T_IN, 0);
        // All of the disk. One of 128 KiB is 32 pages, of the 254 that fit the queue.
        let buffers: Vec<_> = (0..16).map(|page| (DATA + page * 8192, 4096, WRITE)).collect();
        assert_eq!(bench.request(&buffers), Ok((0, 65537)));
        assert_eq!(bench.data(DATA + 15 * 8192 + 4095, 1), [127]);
    });
}

#[test]
fn test_request_out_of_range_or_unaligned_returns_io_error() {
    each_engine(false, |mut bench| {
        let before = bench.disk();
        for (sector, length) in
            [(128, 512), (127, 1024), (u64::MAX, 512), (u64::MAX / 512, 512), (0, 511), (0, 1)]
        {
            bench.header(blk::VIRTIO_BLK_T_IN, sector);
            assert_eq!(bench.request(&[(DATA, length, WRITE)]), Ok((1, 1)), "{sector} {length}");
            bench.header(blk::VIRTIO_BLK_T_OUT, sector);
            assert_eq!(bench.request(&[(DATA, length, 0)]), Ok((1, 1)), "{sector} {length}");
        }
        assert!(bench.disk() == before);
    });
}

#[test]
fn test_request_write_to_read_only_returns_io_error() {
    each_engine(true, |mut bench| {
        let before = bench.disk();
        bench.header(blk::VIRTIO_BLK_T_OUT, 0);
        assert_eq!(bench.request(&[(DATA, 512, 0)]), Ok((1, 1)));
        assert!(bench.disk() == before);
        assert_ne!(bench.block.features() & 1 << blk::VIRTIO_BLK_F_RO, 0);
    });
}

#[test]
fn test_request_of_unknown_kind_returns_unsupported() {
    each_engine(false, |mut bench| {
        for kind in [2, 3, 5, 12, 14, u32::MAX] {
            bench.header(kind, 0);
            assert_eq!(bench.request(&[(DATA, 512, WRITE)]), Ok((2, 1)));
        }
    });
}

#[test]
fn test_serve_chain_that_loops_returns_endless() {
    each_engine(false, |mut bench| {
        bench.describe(0, (HEADER, 16, NEXT, 1));
        bench.describe(1, (DATA, 512, NEXT, 0));
        assert_eq!(bench.offer(0), Err(Broken::Endless));
    });
}

#[test]
fn test_serve_broken_links_return_cut() {
    each_engine(false, |mut bench| {
        bench.describe(0, (HEADER, 16, NEXT, QUEUE_SIZE));
        assert_eq!(bench.offer(0), Err(Broken::Cut));
        assert_eq!(bench.offer(QUEUE_SIZE), Err(Broken::Cut));
        assert_eq!(bench.offer(u16::MAX), Err(Broken::Cut));
        // An indirect table of no whole descriptors, and one within another.
        bench.describe(2, (DATA, 17, INDIRECT, 0));
        assert_eq!(bench.offer(2), Err(Broken::Cut));
        bench.memory.write_slice(&[0; 16], GuestAddress(DATA)).unwrap();
        bench.memory.write_obj(INDIRECT, GuestAddress(DATA + 12)).unwrap();
        bench.describe(3, (DATA, 16, INDIRECT, 0));
        assert_eq!(bench.offer(3), Err(Broken::Cut));
    });
}

#[test]
fn test_serve_buffer_outside_memory_returns_buffer() {
    each_engine(false, |mut bench| {
        let end = MEMORY_BYTES as u64;
        for address in [end, end - 511, u64::MAX, u64::MAX - 511] {
            bench.header(blk::VIRTIO_BLK_T_IN, 0);
            assert_eq!(
                bench.request(&[(address, 512, WRITE)]),
                Err(Broken::Buffer),
                "{address:#x}"
            );
        }
        assert_eq!(bench.request(&[(0, u32::MAX - 16, WRITE)]), Err(Broken::Buffer));
    });
}

#[test]
fn test_serve_readable_after_writable_returns_order() {
    each_engine(false, |mut bench| {
        bench.header(blk::VIRTIO_BLK_T_IN, 0);
        let buffers = [(DATA, 512, WRITE), (DATA + 512, 512, 0)];
        assert_eq!(bench.request(&buffers), Err(Broken::Order));
    });
}

#[test]
fn test_serve_without_header_or_status_returns_frame() {
    each_engine(false, |mut bench| {
        bench.header(blk::VIRTIO_BLK_T_IN, 0);
        for descriptor in
            [(HEADER, 15, 0, 0), (HEADER, 0, 0, 0), (HEADER, 16, 0, 0), (STATUS, 1, WRITE, 0)]
        {
            bench.describe(0, descriptor);
            assert_eq!(bench.offer(0), Err(Broken::Frame), "{descriptor:?}");
        }
    });
}

#[test]
fn test_serve_available_index_far_ahead_returns_available_index() {
    each_engine(false, |mut bench| {
        bench.memory.write_obj(QUEUE_SIZE + 1, GuestAddress(AVAILABLE + 2)).unwrap();
        let served = bench.notify();
        assert_eq!(served, Err(Broken::AvailableIndex));
    });
}

#[test]
fn test_serve_chain_of_more_than_4_gib_returns_cut() {
    each_engine(false, |mut bench| {
        bench.header(blk::VIRTIO_BLK_T_IN, 0);
        assert_eq!(bench.request(&[(0, u32::MAX - 15, WRITE)]), Err(Broken::Cut));
    });
}

#[test]
fn test_serve_requests_that_refill_the_ring_ends_after_a_queue_full() {
    let mut bench = Bench::with(|_| {});
    // Each request reads two sectors: one over the available ring, with an index one higher and a
    // ring full of descriptor 0, and one over the header, which becomes the next such request.
    const ROUNDS: u16 = 400;
    bench.file.as_file().set_len(u64::from(ROUNDS) * 1024).unwrap();
    for round in 0..ROUNDS {
        let ring = [[0, 0], (round + 2).to_le_bytes()].concat();
        let next = u64::from(round + 1) * 2;
        let header = [u64::from(blk::VIRTIO_BLK_T_IN), next].map(u64::to_le_bytes).concat();
        for (bytes, sector) in [(ring, next - 2), (header, next - 1)] {
            let mut bytes = bytes;
            bytes.resize(512, 0);
            bench.file.as_file().write_all_at(&bytes, sector * 512).unwrap();
        }
    }
    let config = BlockConfig { read_only: true, ..BlockConfig::new(bench.file.path()) };
    bench.block = Block::open(&config, 0).unwrap();
    bench.header(blk::VIRTIO_BLK_T_IN, 0);
    bench.memory.write_obj(1_u16, GuestAddress(AVAILABLE + 2)).unwrap();
    bench.describe(0, (HEADER, 16, NEXT, 1));
    bench.describe(1, (AVAILABLE, 512, WRITE | NEXT, 2));
    bench.describe(2, (HEADER, 512, WRITE | NEXT, 3));
    bench.describe(3, (DATA, 1, WRITE, 0));
    assert_eq!(bench.notify(), Ok(true));
    assert_eq!(bench.memory.read_obj::<u16>(GuestAddress(USED + 2)).unwrap(), QUEUE_SIZE);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Whatever the descriptors say: no panic, no access outside guest memory (which would be a
    /// fault), no change of the disk's size, and an end.
    #[test]
    fn test_serve_any_descriptors_is_safe(
        ring in any::<bool>(),
        kind in prop_oneof![0_u32..14, any::<u32>()],
        sector in prop_oneof![0_u64..130, any::<u64>()],
        descriptors in prop::collection::vec(
            (
                prop_oneof![0..MEMORY_BYTES as u64, Just(HEADER), Just(TABLE), any::<u64>()],
                prop_oneof![0_u32..2048, Just(16), Just(1), any::<u32>()],
                0_u16..8,
                prop_oneof![0_u16..8, any::<u16>()],
            ),
            8,
        ),
        heads in prop::collection::vec(prop_oneof![0_u16..8, any::<u16>()], 1..6),
    ) {
        let engine = if ring { BlockEngine::IoUring } else { BlockEngine::Sync };
        let mut bench = Bench::with(|config| config.engine = engine);
        bench.header(kind, sector);
        for (index, descriptor) in (0..).zip(descriptors) {
            bench.describe(index, descriptor);
        }
        for head in heads {
            // The rings may lie under the data; then later offers are as wild as the rest.
            let _ = bench.offer(head);
        }
        prop_assert_eq!(bench.disk().len() as u64, DISK_BYTES);
    }
}
