//! Random requests on several queues against a disk that is a list of bytes.

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::bench::*;
use super::*;

/// Requests that are in flight together; each has a part of the disk to itself, for their order is
/// the device's choice.
const BATCH: usize = 8;
const SHARE_BYTES: usize = DISK_BYTES as usize / BATCH;
const QUEUES: u16 = 3;
const HEADERS: u64 = 0x8000;
const STATUSES: u64 = 0x9000;
const TABLES: u64 = 0xa000;

#[derive(Debug, Clone, Copy)]
enum Act {
    Read,
    Write,
    Flush,
    Discard,
    Zero { unmap: bool },
}

#[derive(Debug, Clone)]
struct Step {
    act: Act,
    queue: usize,
    /// Within the request's share of the disk, in sectors.
    first: usize,
    count: usize,
    /// Sizes of its buffers, in order, as far as they are needed.
    cuts: Vec<usize>,
    fill: u8,
    indirect: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let act = prop_oneof![
        3 => Just(Act::Read),
        3 => Just(Act::Write),
        1 => Just(Act::Flush),
        1 => Just(Act::Discard),
        1 => any::<bool>().prop_map(|unmap| Act::Zero { unmap }),
    ];
    let sectors = SHARE_BYTES / 512;
    let cuts = prop::collection::vec(prop_oneof![1_usize..1500, Just(512), Just(4096)], 0..4);
    (act, 0..usize::from(QUEUES), 0..sectors, 1..=sectors, cuts, any::<u8>(), any::<bool>())
        .prop_map(move |(act, queue, first, count, cuts, fill, indirect)| {
            let count = count.min(sectors - first);
            Step { act, queue, first, count, cuts, fill, indirect }
        })
}

/// Where request `index` of a batch has its data in memory.
fn block_of(index: usize) -> u64 {
    DATA + (index * SHARE_BYTES) as u64
}

/// Puts a request into its queue.
fn add(bench: &mut Bench, index: usize, step: &Step) {
    let at = index as u64;
    let sector = (index * SHARE_BYTES / 512 + step.first) as u64;
    let data = block_of(index);
    let bytes = step.count * 512;
    let (kind, flag, bytes) = match step.act {
        Act::Read => (blk::VIRTIO_BLK_T_IN, WRITE, bytes),
        Act::Write => {
            bench.memory.write_slice(&vec![step.fill; bytes], GuestAddress(data)).unwrap();
            (blk::VIRTIO_BLK_T_OUT, 0, bytes)
        }
        Act::Flush => (blk::VIRTIO_BLK_T_FLUSH, 0, 0),
        Act::Discard | Act::Zero { .. } => {
            let unmap = matches!(step.act, Act::Zero { unmap: true });
            bench.memory.write_obj(sector, GuestAddress(data)).unwrap();
            bench.memory.write_obj(step.count as u32, GuestAddress(data + 8)).unwrap();
            bench.memory.write_obj(u32::from(unmap), GuestAddress(data + 12)).unwrap();
            let is_discard = matches!(step.act, Act::Discard);
            let kind =
                if is_discard { blk::VIRTIO_BLK_T_DISCARD } else { blk::VIRTIO_BLK_T_WRITE_ZEROES };
            (kind, 0, 16)
        }
    };
    bench.header_at(HEADERS + at * 16, kind, sector);
    bench.memory.write_obj(0xff_u8, GuestAddress(STATUSES + at)).unwrap();
    let mut chain = vec![(HEADERS + at * 16, 16, 0)];
    let (mut done, mut cuts) = (0, step.cuts.iter());
    while done < bytes {
        let part = cuts.next().map_or(bytes - done, |cut| (*cut).min(bytes - done));
        chain.push((data + done as u64, part as u32, flag));
        done += part;
    }
    chain.push((STATUSES + at, 1, WRITE));
    // A table of its own, or eight descriptors of the queue's.
    let queue_table = TABLE + step.queue as u64 * STRIDE;
    let first = if step.indirect { 0 } else { at * 8 };
    let table = if step.indirect { TABLES + at * 128 } else { queue_table };
    let last = chain.len() - 1;
    for (number, (address, length, flags)) in chain.into_iter().enumerate() {
        let own = first + number as u64;
        let flags = if number == last { flags } else { flags | NEXT };
        bench.describe_at(table + own * 16, (address, length, flags, own as u16 + 1));
    }
    if step.indirect {
        let bytes = (last as u32 + 1) * 16;
        bench.describe_at(queue_table + at * 8 * 16, (table, bytes, INDIRECT, 0));
    }
    bench.add(step.queue, (at * 8) as u16);
}

fn run(engine: BlockEngine, direct: bool, batches: &[Vec<Step>]) {
    let mut bench = Bench::with(|config| {
        (config.engine, config.direct, config.queues) = (engine, direct, QUEUES);
    });
    let mut model = bench.disk();
    let mut used = [0_u16; QUEUES as usize];
    for batch in batches {
        for (index, step) in batch.iter().enumerate() {
            add(&mut bench, index, step);
            used[step.queue] += 1;
        }
        for queue in 0..used.len() {
            bench.tell(queue).unwrap();
        }
        let count = |bench: &Bench| [0, 1, 2].map(|queue| bench.used(queue));
        while count(&bench) != used {
            assert!(bench.hears(5000), "a request is lost: {:?} of {used:?}", count(&bench));
            bench.host_ready().unwrap();
        }
        assert_eq!(bench.data(STATUSES, batch.len()), vec![0; batch.len()]);
        let disk = bench.disk();
        for (index, step) in batch.iter().enumerate() {
            let from = index * SHARE_BYTES + step.first * 512;
            let range = from..from + step.count * 512;
            match step.act {
                Act::Read => {
                    let read = bench.data(block_of(index), range.len());
                    assert!(read == model[range], "{step:?} read something else");
                }
                Act::Write => model[range].fill(step.fill),
                Act::Zero { .. } => model[range].fill(0),
                // What is left there is the file system's affair.
                Act::Discard => model[range.clone()].copy_from_slice(&disk[range]),
                Act::Flush => {}
            }
        }
        assert!(disk == model, "the disk is not what {batch:?} makes of it");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn test_any_requests_leave_what_the_model_has(
        ring in any::<bool>(),
        direct in any::<bool>(),
        batches in prop::collection::vec(prop::collection::vec(step(), 1..=BATCH), 1..6),
    ) {
        let engine = if ring { BlockEngine::IoUring } else { BlockEngine::Sync };
        run(engine, direct, &batches);
    }
}
