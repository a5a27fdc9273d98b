use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestMemoryMmap};

use super::super::driver::{BUFFERS, Driver, NEXT, WRITE};
use super::*;
use crate::Pages;
use crate::filled::Run;
use crate::mapping::{NAME, memory_file};
use crate::memory::GuestRam;

const RAM_BYTES: u64 = 16 << 20;
const ALL: u64 = 1 << STATS_VQ | 1 << DEFLATE_ON_OOM | 1 << PAGE_REPORTING;
const REPORTING: usize = 3;
/// Pages that a test gives up.
const VICTIMS: u64 = 8 << 20;

struct Bench {
    driver: Driver,
    balloon: Balloon,
    control: BalloonControl,
    ram: GuestRam,
}

impl Bench {
    fn new() -> Bench {
        Bench::of(GuestRam::new(RAM_BYTES, Pages::Small, false).unwrap())
    }

    /// A guest that goes on from a file full of `byte`.
    fn restored(byte: u8) -> Bench {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&vec![byte; RAM_BYTES as usize], 0).unwrap();
        let bench = Bench::of(GuestRam::from_file(RAM_BYTES, &file, Vec::new()).unwrap());
        // The queues are in memory that was full of the same.
        bench.ram.write(0, &[0; 1 << 20]).unwrap();
        bench
    }

    /// A guest of which the first large page and the one in the middle were filled before.
    fn filled() -> Bench {
        let file = memory_file(NAME).unwrap();
        file.set_len(RAM_BYTES).unwrap();
        let runs = [Run { first: 0, count: 1 }, Run { first: 4, count: 1 }];
        Bench::of(GuestRam::filled(RAM_BYTES, Pages::Thp, false, &file, &runs).unwrap())
    }

    fn of(ram: GuestRam) -> Bench {
        let config =
            BalloonConfig { deflate_on_oom: true, free_page_reporting: true, ..<_>::default() };
        let mut balloon = Balloon::new(&config).unwrap();
        ram.write(0, &[0; 1 << 20]).unwrap();
        let driver = Driver::new(&balloon, GuestMemoryMmap::clone(ram.memory()));
        balloon.negotiated(ALL);
        let control = balloon.control.clone();
        let mut bench = Bench { driver, balloon, control, ram };
        bench.wake().unwrap();
        bench
    }

    /// The device thread's part; whether the driver is told of a new configuration.
    fn wake(&mut self) -> Result<bool, Broken> {
        let mut queues = self.driver.queues();
        self.balloon.host_ready(&mut queues)?;
        Ok(queues.config_changed)
    }

    fn notify(&mut self, queue: usize) -> Result<(), Broken> {
        self.balloon.notified(queue, &mut self.driver.queues())
    }

    fn inflate(&mut self, numbers: &[u32]) -> Result<(), Broken> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.ram.write(BUFFERS, &bytes).unwrap();
        self.driver.offer(INFLATE, 0, &[(BUFFERS, bytes.len() as u32, 0, 0)]);
        self.notify(INFLATE)
    }

    fn byte(&self, address: u64) -> u8 {
        self.ram.memory().read_obj(GuestAddress(address)).unwrap()
    }

    fn resident_bytes(&self) -> usize {
        let pages = RAM_BYTES as usize / 4096;
        let mut map = vec![0_u64; pages];
        let first = self.ram.host_range().start / 4096 * 8;
        let file = File::open("/proc/self/pagemap").unwrap();
        let bytes: &mut [u8] = zerocopy::IntoBytes::as_mut_bytes(map.as_mut_slice());
        file.read_exact_at(bytes, first as u64).unwrap();
        map.iter().filter(|entry| *entry >> 63 == 1).count() * 4096
    }
}

fn number(address: u64) -> u32 {
    (address / PAGE_BYTES) as u32
}

#[test]
fn test_inflated_pages_are_the_host_s_and_come_back_as_zeros() {
    let mut bench = Bench::new();
    bench.ram.write(VICTIMS, &vec![7; 4 << 20]).unwrap();
    bench.ram.write(BUFFERS, &[0]).unwrap();
    let before = bench.resident_bytes();
    let numbers: Vec<u32> = (0..256).rev().map(|index| number(VICTIMS) + index).collect();
    bench.inflate(&numbers).unwrap();
    assert_eq!(bench.driver.used(INFLATE), Some((0, 0)));
    assert_eq!(bench.control.state().inflated_bytes, 1 << 20);
    assert_eq!(before - bench.resident_bytes(), 1 << 20);
    assert_eq!((bench.byte(VICTIMS), bench.byte(VICTIMS + (1 << 20))), (0, 7));
    bench.driver.offer(DEFLATE, 0, &[(BUFFERS, 1024, 0, 0)]);
    bench.notify(DEFLATE).unwrap();
    assert_eq!(bench.driver.used(DEFLATE), Some((0, 0)));
    bench.ram.write(VICTIMS, &[1]).unwrap();
    assert_eq!(bench.byte(VICTIMS), 1);
}

#[test]
fn test_pages_that_were_filled_before_are_given_up_by_their_file_too() {
    let mut bench = Bench::filled();
    bench.ram.write(VICTIMS, &vec![7; 4 << 20]).unwrap();
    // Those of the file, those of no file, and two of each.
    let boundary = VICTIMS + (2 << 20);
    let file = File::open("/proc/self/maps").unwrap();
    let name = std::io::read_to_string(file).unwrap();
    assert!(name.contains("/memfd:tare-guest-ram"), "a part is of a file: {name}");
    let numbers: Vec<u32> = (0..4).map(|page| number(boundary) - 2 + page).collect();
    bench.inflate(&numbers).unwrap();
    assert_eq!(bench.control.state().inflated_bytes, 4 * 4096);
    let seen = [-3_i64, -2, -1, 0, 1, 2]
        .map(|page| bench.byte(boundary.checked_add_signed(page * 4096).unwrap()));
    assert_eq!(seen, [7, 0, 0, 0, 0, 7]);
    bench.ram.write(boundary - 4096, &[1]).unwrap();
    assert_eq!(bench.byte(boundary - 4096), 1);
}

#[test]
fn test_pages_of_a_restored_guest_do_not_show_the_snapshot_again() {
    let mut bench = Bench::restored(0xaa);
    assert_eq!(bench.byte(VICTIMS), 0xaa);
    bench.ram.write(VICTIMS, &[1; 4096]).unwrap();
    bench.inflate(&[number(VICTIMS), number(VICTIMS) + 2]).unwrap();
    let seen = [0, 1, 2, 3].map(|page| bench.byte(VICTIMS + page * 4096));
    assert_eq!(seen, [0, 0xaa, 0, 0xaa]);
    assert_eq!(bench.control.state().inflated_bytes, 8192);
    // And again, now that something else is there.
    bench.ram.write(VICTIMS, &[2]).unwrap();
    bench.inflate(&[number(VICTIMS)]).unwrap();
    assert_eq!(bench.byte(VICTIMS), 0);
}

#[test]
fn test_page_numbers_that_are_no_memory_are_left_aside() {
    let mut bench = Bench::new();
    bench.ram.write(VICTIMS, &[7; 8192]).unwrap();
    let end = number(RAM_BYTES);
    let numbers = [u32::MAX, end, number(VICTIMS), end - 1, 0xc_0000, number(VICTIMS), end + 1];
    bench.inflate(&numbers).unwrap();
    assert_eq!((bench.byte(VICTIMS), bench.byte(VICTIMS + 4096)), (0, 7));
    assert_eq!(bench.control.state().inflated_bytes, 8192);
}

#[test]
fn test_free_pages_are_given_back_but_for_parts_of_pages() {
    let mut bench = Bench::new();
    bench.ram.write(VICTIMS, &[7; 8 * 4096]).unwrap();
    let chain = [
        (VICTIMS + 1, 2 * 4096, WRITE | NEXT, 1),
        (VICTIMS + 4 * 4096, 4095, WRITE | NEXT, 2),
        (VICTIMS + 6 * 4096, 4096, WRITE, 0),
    ];
    bench.driver.offer(REPORTING, 0, &chain);
    bench.notify(REPORTING).unwrap();
    assert_eq!(bench.driver.used(REPORTING), Some((0, 0)));
    let seen = [0, 1, 2, 3, 4, 5, 6, 7].map(|page| bench.byte(VICTIMS + page * 4096));
    assert_eq!(seen, [7, 0, 7, 7, 7, 7, 0, 7]);
    assert_eq!(bench.control.state().reported_bytes, 8192);
}

#[test]
fn test_reporting_queue_follows_those_that_the_driver_has() {
    let mut bench = Bench::new();
    bench.balloon.negotiated(1 << PAGE_REPORTING);
    bench.ram.write(VICTIMS, &[7; 4096]).unwrap();
    bench.driver.offer(STATISTICS, 0, &[(VICTIMS, 4096, WRITE, 0)]);
    bench.control.request_statistics();
    bench.wake().unwrap();
    bench.notify(STATISTICS).unwrap();
    assert_eq!(bench.byte(VICTIMS), 0);
    assert_eq!(bench.control.state().statistics_count, 0);
}

#[test]
fn test_target_is_told_once_there_is_a_driver_and_when_it_changes() {
    let config = BalloonConfig { target_bytes: 3 * 4096 + 1, ..<_>::default() };
    let mut balloon = Balloon::new(&config).unwrap();
    let control = balloon.control.clone();
    control.set_target(5 * 4096);
    assert!(balloon.control.shared.event.read().is_err(), "nobody is there to be woken");
    let ram = GuestRam::new(RAM_BYTES, Pages::Small, false).unwrap();
    let mut driver = Driver::new(&balloon, GuestMemoryMmap::clone(ram.memory()));
    balloon.negotiated(ALL);
    let mut queues = driver.queues();
    balloon.host_ready(&mut queues).unwrap();
    assert!(queues.config_changed);
    assert_eq!(balloon.config()[..4], [5, 0, 0, 0]);
    control.set_target(5 * 4096);
    let mut queues = driver.queues();
    balloon.host_ready(&mut queues).unwrap();
    assert!(!queues.config_changed, "it is what it was");
    assert!(balloon.control.shared.event.read().is_err(), "the wish is taken");
    balloon.configured(CONFIG_ACTUAL, &[4, 0, 0, 0], &mut driver.queues()).unwrap();
    // The target is the host's, and half a word is none.
    balloon.configured(0, &[9, 0, 0, 0], &mut driver.queues()).unwrap();
    balloon.configured(CONFIG_ACTUAL, &[9], &mut driver.queues()).unwrap();
    balloon.configured(CONFIG_ACTUAL + 1, &[9, 9, 9, 9], &mut driver.queues()).unwrap();
    let state = control.wait(Duration::ZERO, |state| state.actual_bytes > 0).unwrap();
    assert_eq!((state.target_bytes, state.actual_bytes), (5 * 4096, 4 * 4096));
    control.set_target(0);
    balloon.negotiated(0);
    assert!(balloon.control.shared.event.read().is_err(), "the driver is gone");
    assert_eq!(control.state().actual_bytes, 0);
    assert_eq!(control.wait(Duration::ZERO, |state| state.actual_bytes > 0), None);
}

#[test]
fn test_statistics_are_asked_for_only_on_request() {
    let mut bench = Bench::new();
    let offer = |bench: &mut Bench, free: u64| {
        let mut bytes = Vec::new();
        for (tag, value) in [(4_u16, free), (99, 1), (5, 64 << 20)] {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(value.to_le_bytes());
        }
        bytes.push(1);
        bench.ram.write(BUFFERS, &bytes).unwrap();
        bench.driver.offer(STATISTICS, 0, &[(BUFFERS, bytes.len() as u32, 0, 0)]);
        bench.notify(STATISTICS).unwrap();
    };
    offer(&mut bench, 1);
    assert_eq!(bench.driver.used(STATISTICS), None, "kept until somebody asks");
    bench.control.request_statistics();
    bench.wake().unwrap();
    assert_eq!(bench.driver.used(STATISTICS), Some((0, 0)));
    assert_eq!(bench.control.state().statistics, None, "what was there is old");
    // Asked twice before the answer, it is one question.
    bench.control.request_statistics();
    bench.wake().unwrap();
    offer(&mut bench, 2);
    let state = bench.control.state();
    let want =
        BalloonStatistics { free_bytes: Some(2), total_bytes: Some(64 << 20), ..<_>::default() };
    assert_eq!((state.statistics, state.statistics_count), (Some(want), 1));
    assert_eq!(bench.driver.used(STATISTICS), None, "it is for the next question");
    bench.control.request_statistics();
    bench.wake().unwrap();
    assert_eq!(bench.driver.used(STATISTICS), Some((0, 0)));
}

#[test]
fn test_state_goes_through_a_snapshot_and_no_other_does() {
    let mut bench = Bench::new();
    bench.control.set_target(1 << 20);
    bench.wake().unwrap();
    bench.balloon.configured(CONFIG_ACTUAL, &[3, 0, 0, 0], &mut bench.driver.queues()).unwrap();
    let state = bench.balloon.state();
    let mut copy = Balloon::new(&BalloonConfig::default()).unwrap();
    assert!(!copy.set_state(&state[1..]));
    assert!(copy.set_state(&state));
    assert_eq!(copy.config(), bench.balloon.config());
    let seen = copy.control.state();
    assert_eq!((seen.target_bytes, seen.actual_bytes), (1 << 20, 3 * 4096));
}

#[test]
fn test_broken_chains_stop_the_device() {
    for (chain, want) in [
        (&[(BUFFERS, 8, NEXT, 0)][..], Broken::Endless),
        (&[(1 << 40, 8, 0, 0)], Broken::Buffer),
        (&[(BUFFERS, 8, WRITE | NEXT, 1), (BUFFERS, 8, 0, 0)], Broken::Order),
    ] {
        for queue in [INFLATE, DEFLATE, REPORTING] {
            let mut bench = Bench::new();
            bench.driver.offer(queue, 0, chain);
            assert_eq!(bench.notify(queue), Err(want), "queue {queue}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A model of guest memory, page by page: inflated or reported pages are zero, others as they
    /// were, whatever else is asked.
    #[test]
    fn test_exactly_the_pages_that_are_given_up_are_zero(
        restored in any::<bool>(),
        requests in prop::collection::vec(
            (any::<bool>(), prop::collection::vec(prop_oneof![
                9 => number(VICTIMS)..number(VICTIMS) + 64,
                1 => number(RAM_BYTES)..u32::MAX,
            ], 1..40)),
            1..6,
        ),
    ) {
        let mut bench = if restored { Bench::restored(7) } else { Bench::new() };
        bench.ram.write(VICTIMS, &[7; 64 * 4096]).unwrap();
        let mut model = [7; 64];
        for (inflates, numbers) in requests {
            let inside = |number: &u32| u64::from(*number) * PAGE_BYTES < RAM_BYTES;
            if inflates {
                bench.inflate(&numbers).unwrap();
                prop_assert!(bench.driver.used(INFLATE).is_some());
            } else {
                // Here an address that is no memory breaks the queue, as anywhere.
                for (head, number) in (0..).zip(numbers.iter().filter(|number| inside(number))) {
                    let address = u64::from(*number) * PAGE_BYTES;
                    bench.driver.offer(REPORTING, head, &[(address, 4096, WRITE, 0)]);
                }
                bench.notify(REPORTING).unwrap();
            }
            for number in numbers.iter().filter(|number| inside(number)) {
                model[(number - self::number(VICTIMS)) as usize] = 0;
            }
        }
        let pages = (0..64).map(|page| bench.byte(VICTIMS + page * 4096));
        prop_assert_eq!(pages.collect::<Vec<u8>>(), model);
    }
}
