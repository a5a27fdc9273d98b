//! Requests to discard and to write zeroes, honest and hostile.

use vm_memory::{Bytes, GuestAddress};

use super::bench::*;
use super::*;

const DISCARD: u32 = blk::VIRTIO_BLK_T_DISCARD;
const ZERO: u32 = blk::VIRTIO_BLK_T_WRITE_ZEROES;

/// Sends a list of (sector, sectors, flags).
fn send(bench: &mut Bench, kind: u32, ranges: &[(u64, u32, u32)]) -> u8 {
    for (index, &(sector, sectors, flags)) in (0..).zip(ranges) {
        let at = DATA + 16 * index;
        bench.memory.write_obj(sector, GuestAddress(at)).unwrap();
        bench.memory.write_obj(sectors, GuestAddress(at + 8)).unwrap();
        bench.memory.write_obj(flags, GuestAddress(at + 12)).unwrap();
    }
    bench.header(kind, u64::MAX);
    let answer = bench.request(&[(DATA, 16 * ranges.len() as u32, 0)]);
    let (status, written) = answer.unwrap();
    assert_eq!(written, 1);
    status
}

#[test]
fn test_zeroes_are_written_where_asked_and_nowhere_else() {
    each_engine(false, |mut bench| {
        let mut want = bench.disk();
        // Whole blocks, parts of one, and nothing at all.
        assert_eq!(send(&mut bench, ZERO, &[(8, 16, 0), (33, 1, 1), (40, 9, 1), (128, 0, 0)]), 0);
        for (sector, sectors) in [(8, 16), (33, 1), (40, 9)] {
            want[sector * 512..(sector + sectors) * 512].fill(0);
        }
        assert!(bench.disk() == want);
    });
}

#[test]
fn test_zeroes_without_the_file_systems_help_are_written() {
    let mut bench = Bench::with(|_| {});
    let mut want = bench.disk();
    bench.block.disk.fill_with_zeroes(512, 1024).unwrap();
    want[512..1536].fill(0);
    assert!(bench.disk() == want);
}

#[test]
fn test_discard_gives_the_space_up() {
    use std::os::unix::fs::MetadataExt;

    each_engine(false, |mut bench| {
        let size = bench.disk().len();
        bench.block.disk.flush().unwrap();
        let before = bench.file.as_file().metadata().unwrap().blocks();
        assert_eq!(send(&mut bench, DISCARD, &[(0, 64, 0), (64, 32, 0)]), 0);
        bench.block.disk.flush().unwrap();
        let after = bench.file.as_file().metadata().unwrap().blocks();
        assert!(after < before, "{after} of {before}: a file system that cannot punch holes?");
        let disk = bench.disk();
        assert_eq!(disk.len(), size);
        assert!(
            disk[96 * 512..].iter().enumerate().all(|(at, byte)| *byte == (96 + at / 512) as u8)
        );
    });
}

#[test]
fn test_ranges_that_cannot_be_change_nothing() {
    each_engine(false, |mut bench| {
        let before = bench.disk();
        for bad in
            [(128, 1, 0), (127, 2, 0), (u64::MAX, 1, 0), (u64::MAX / 512, 1, 0), (0, u32::MAX, 0)]
        {
            for kind in [DISCARD, ZERO] {
                // A good one before it is not done either.
                assert_eq!(send(&mut bench, kind, &[(0, 8, 0), bad]), 1, "{bad:?}");
            }
        }
        for flags in [2, 3, u32::MAX] {
            assert_eq!(send(&mut bench, ZERO, &[(0, 8, flags)]), 2);
        }
        for flags in [1, 2, u32::MAX] {
            assert_eq!(send(&mut bench, DISCARD, &[(0, 8, flags)]), 2);
        }
        assert_eq!(send(&mut bench, DISCARD, &[(0, 1, 0); RANGES_MAX as usize + 1]), 1);
        assert!(bench.disk() == before);
        assert_eq!(send(&mut bench, DISCARD, &[(0, 1, 0); RANGES_MAX as usize]), 0);
    });
}

#[test]
fn test_lists_of_odd_length_return_io_error() {
    each_engine(false, |mut bench| {
        let before = bench.disk();
        for length in [0, 1, 15, 17, 31] {
            bench.header(DISCARD, 0);
            assert_eq!(bench.request(&[(DATA, length, 0)]), Ok((1, 1)), "{length}");
        }
        // As long as the chain may be; and in a buffer that is the device's to write.
        bench.header(ZERO, 0);
        assert_eq!(bench.request(&[(0, MEMORY_BYTES as u32, 0)]), Ok((1, 1)));
        bench.header(ZERO, 0);
        assert_eq!(bench.request(&[(DATA, 16, WRITE)]), Ok((1, 1)));
        assert!(bench.disk() == before);
    });
}

#[test]
fn test_zeroes_of_more_than_the_limit_return_io_error() {
    let mut bench = Bench::with(|_| {});
    bench.file.as_file().set_len(64 << 20).unwrap();
    bench.block = Block::open(&BlockConfig::new(bench.file.path()), 0).unwrap();
    bench.block.negotiated(bench.block.features());
    assert_eq!(send(&mut bench, ZERO, &[(0, ZERO_SECTORS_MAX, 0)]), 0);
    assert_eq!(send(&mut bench, ZERO, &[(0, ZERO_SECTORS_MAX + 1, 0)]), 1);
}

#[test]
fn test_read_only_or_not_negotiated_is_refused() {
    each_engine(true, |mut bench| {
        let both = 1 << blk::VIRTIO_BLK_F_DISCARD | 1 << blk::VIRTIO_BLK_F_WRITE_ZEROES;
        assert_eq!(bench.block.features() & both, 0);
        let before = bench.disk();
        // Not even a driver that pretends gets through.
        for (features, status) in [(0, 2), (both, 1)] {
            bench.block.negotiated(features);
            for kind in [DISCARD, ZERO] {
                assert_eq!(send(&mut bench, kind, &[(0, 8, 0)]), status);
            }
        }
        assert!(bench.disk() == before);
    });
}
