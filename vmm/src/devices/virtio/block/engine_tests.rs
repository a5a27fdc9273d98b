//! The engine on io_uring: what is in flight, who hears of its end, and what a reset waits for.

use vm_memory::{Bytes, GuestAddress};

use super::bench::*;
use super::*;

const HEADERS: u64 = 0x2_0000;
const STATUSES: u64 = 0x2_4000;
const TABLES: u64 = 0x2_8000;
/// Further than any disk here.
const BYTES: u32 = 512;

fn ring_bench(change: impl FnOnce(&mut BlockConfig)) -> Bench {
    Bench::with(|config| {
        config.engine = BlockEngine::IoUring;
        change(config);
    })
}

/// Makes `count` requests available, each behind an indirect descriptor of its own; request N is
/// for sector N modulo 128 and for the block of memory N.
fn add(bench: &mut Bench, kind: u32, count: u16) {
    let flag = if kind == blk::VIRTIO_BLK_T_IN { WRITE } else { 0 };
    for index in 0..count {
        let at = u64::from(index);
        let table = TABLES + at * 48;
        bench.header_at(HEADERS + at * 16, kind, at % 128);
        bench.memory.write_obj(0xff_u8, GuestAddress(STATUSES + at)).unwrap();
        bench.describe_at(table, (HEADERS + at * 16, 16, NEXT, 1));
        bench.describe_at(table + 16, (block_of(index), BYTES, NEXT | flag, 2));
        bench.describe_at(table + 32, (STATUSES + at, 1, WRITE, 0));
        bench.describe(at, (table, 48, INDIRECT, 0));
        bench.add(0, index);
    }
}

fn block_of(index: u16) -> u64 {
    0x4_0000 + u64::from(index) * u64::from(BYTES)
}

fn check_reads(bench: &Bench, count: u16) {
    assert_eq!(bench.data(STATUSES, count.into()), vec![0; count.into()]);
    for index in 0..count {
        assert_eq!(bench.data(block_of(index), 512), [(index % 128) as u8; 512], "{index}");
    }
}

#[test]
fn test_more_requests_than_fit_the_ring_are_all_served() {
    for direct in [false, true] {
        let mut bench = ring_bench(|config| config.direct = direct);
        add(&mut bench, blk::VIRTIO_BLK_T_IN, QUEUE_SIZE);
        bench.tell(0).unwrap();
        while bench.used(0) < QUEUE_SIZE {
            assert!(bench.hears(5000), "what waits is forgotten");
            bench.host_ready().unwrap();
        }
        check_reads(&bench, QUEUE_SIZE);
        assert!(bench.block.ring.as_ref().unwrap().is_idle());
    }
}

#[test]
fn test_what_ends_at_once_wakes_nobody() {
    // The page cache has it all: it was just written.
    let mut bench = ring_bench(|_| {});
    bench.disk();
    for _ in 0..20 {
        add(&mut bench, blk::VIRTIO_BLK_T_IN, 8);
        bench.tell(0).unwrap();
        assert!(!bench.hears(0), "the device thread would wake for nothing");
    }
    assert_eq!(bench.used(0), 160);
}

#[test]
fn test_reset_waits_for_what_is_in_flight() {
    for direct in [false, true] {
        let mut bench = ring_bench(|config| config.direct = direct);
        add(&mut bench, blk::VIRTIO_BLK_T_IN, 200);
        bench.tell(0).unwrap();
        let used = bench.used(0);
        bench.block.negotiated(0);
        assert!(bench.block.ring.as_ref().unwrap().is_idle());
        // Nobody is told, and nothing comes any more.
        assert_eq!(bench.used(0), used);
        assert!(!bench.hears(0));
        bench.host_ready().unwrap();
        assert_eq!(bench.used(0), used);
    }
}

#[test]
fn test_settle_gives_all_back_and_what_waits_is_remembered() {
    let mut bench = ring_bench(|config| config.direct = true);
    add(&mut bench, blk::VIRTIO_BLK_T_IN, 200);
    bench.tell(0).unwrap();
    bench.settle().unwrap();
    let used = bench.used(0);
    assert!(used >= 128, "{used}");
    assert!(bench.block.ring.as_ref().unwrap().is_idle());
    // The guest goes on after the snapshot: the rest is served without a word of the driver's.
    while bench.used(0) < 200 {
        assert!(bench.hears(5000));
        bench.host_ready().unwrap();
    }
    check_reads(&bench, 200);
}

#[test]
fn test_device_dropped_with_requests_in_flight_lets_go_of_memory_first() {
    let mut bench = ring_bench(|config| config.direct = true);
    add(&mut bench, blk::VIRTIO_BLK_T_IN, 128);
    bench.tell(0).unwrap();
    let Bench { memory, block, .. } = bench;
    drop(block);
    let mut statuses = [0xff; 128];
    memory.read_slice(&mut statuses, GuestAddress(STATUSES)).unwrap();
    assert_eq!(statuses, [0; 128]);
}

#[test]
fn test_flush_ends_after_writes_that_were_asked_for_before() {
    let mut bench = ring_bench(|config| config.direct = true);
    add(&mut bench, blk::VIRTIO_BLK_T_OUT, 64);
    bench.header(blk::VIRTIO_BLK_T_FLUSH, 0);
    bench.describe(100, (HEADER, 16, NEXT, 101));
    bench.describe(101, (STATUS, 1, WRITE, 0));
    bench.add(0, 100);
    bench.notify().unwrap();
    assert_eq!(bench.used(0), 65);
    let last: u32 = bench.memory.read_obj(GuestAddress(USED + 4 + 8 * 64)).unwrap();
    assert_eq!(last, 100, "the flush was not the last to end");
    assert_eq!(bench.data(STATUS, 1), [0]);
}

#[test]
fn test_request_beyond_a_file_that_shrank_returns_io_error() {
    each_engine(false, |mut bench| {
        bench.file.as_file().set_len(4096).unwrap();
        bench.header(blk::VIRTIO_BLK_T_IN, 7);
        assert_eq!(bench.request(&[(DATA, 1024, WRITE)]), Ok((1, 1)));
    });
}

#[test]
fn test_open_bad_queue_counts_return_queues_error() {
    for queues in [0, BLOCK_QUEUES_MAX + 1] {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(512).unwrap();
        let config = BlockConfig { queues, ..BlockConfig::new(file.path()) };
        let error = Block::open(&config, 0).unwrap_err();
        assert!(matches!(error, BlockError::Queues { limit: BLOCK_QUEUES_MAX, .. }), "{error}");
    }
}

#[test]
fn test_queues_are_told_of_and_served_each() {
    for engine in [BlockEngine::Sync, BlockEngine::IoUring] {
        let mut bench = Bench::with(|config| (config.engine, config.queues) = (engine, 3));
        assert_ne!(bench.block.features() & 1 << blk::VIRTIO_BLK_F_MQ, 0);
        assert_eq!(bench.block.config()[CONFIG_NUM_QUEUES..CONFIG_NUM_QUEUES + 2], [3, 0]);
        assert_eq!(bench.block.queues().len(), 3);
        bench.header(blk::VIRTIO_BLK_T_IN, 9);
        let table = TABLE + 2 * STRIDE;
        bench.describe_at(table, (HEADER, 16, NEXT, 1));
        bench.describe_at(table + 16, (DATA, 513, WRITE, 0));
        bench.add(2, 0);
        bench.tell(2).unwrap();
        assert_eq!([0, 1, 2].map(|queue| bench.used(queue)), [0, 0, 1]);
        assert_eq!(bench.data(DATA, 512), [9; 512]);
    }
    assert_eq!(Bench::with(|_| {}).block.features() & 1 << blk::VIRTIO_BLK_F_MQ, 0);
}

/// Each kind of thread may do all that either engine needs.
#[test]
fn test_confined_threads_serve_every_request() {
    use crate::confine::{Filters, Kind as Thread};

    for thread in [Thread::Vcpu, Thread::Device] {
        each_engine(false, |mut bench| {
            // The thread of a vCPU may not wait for events.
            bench.settles = thread == Thread::Vcpu;
            // SAFETY: the child uses what a forked child of a threaded process may: it allocates
            // nothing but through musl's allocator, whose lock a fork leaves free, and ends by
            // _exit.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                let filters = Filters::new(false);
                let served = filters.is_ok_and(|filters| filters.apply(thread).is_ok()) && {
                    let is_ok =
                        |answer: Result<(u8, u32), Broken>| answer.is_ok_and(|(s, _)| s == 0);
                    bench.header(blk::VIRTIO_BLK_T_IN, 1);
                    let read = is_ok(bench.request(&[(DATA, 512, WRITE)]));
                    bench.header(blk::VIRTIO_BLK_T_OUT, 1);
                    let written = is_ok(bench.request(&[(DATA, 512, 0)]));
                    bench.header(blk::VIRTIO_BLK_T_FLUSH, 1);
                    let flushed = is_ok(bench.request(&[]));
                    bench.memory.write_slice(&[0; 16], GuestAddress(DATA)).unwrap();
                    bench.memory.write_obj(8_u32, GuestAddress(DATA + 8)).unwrap();
                    bench.header(blk::VIRTIO_BLK_T_DISCARD, 0);
                    let discarded = is_ok(bench.request(&[(DATA, 16, 0)]));
                    bench.header(blk::VIRTIO_BLK_T_WRITE_ZEROES, 0);
                    let zeroed = is_ok(bench.request(&[(DATA, 16, 0)]));
                    let filled = bench.block.disk.fill_with_zeroes(0, 4096).is_ok();
                    read && written && flushed && discarded && zeroed && filled
                };
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(i32::from(!served)) };
            }
            let mut status = 0;
            // SAFETY: the status is valid for writing, and the child this process's.
            assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
            assert_eq!(status, 0, "{thread:?}: {status:#x}");
        });
    }
}
