use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::super::driver::{BUFFERS, Driver, NEXT, WRITE};
use super::*;

const MEMORY_BYTES: usize = 4 << 20;

struct Bench {
    driver: Driver,
    console: Console,
    control: ConsoleControl,
}

impl Bench {
    fn new(input: Option<i32>, output: Option<i32>) -> Bench {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).unwrap();
        let mut console = Console::open(&ConsoleConfig { input, output, size: (80, 25) }).unwrap();
        let driver = Driver::new(&console, memory);
        console.negotiated(1 << SIZE);
        let control = console.control.clone();
        let mut bench = Bench { driver, console, control };
        bench.wake();
        bench
    }

    /// Whether the device thread is wanted.
    fn calls(&self) -> bool {
        let mut events = [EpollEvent::default(); 4];
        self.console.epoll.wait(0, &mut events).unwrap() > 0
    }

    fn wake(&mut self) {
        self.console.host_ready(&mut self.driver.queues()).unwrap();
    }

    fn notify(&mut self, queue: usize) -> Result<(), Broken> {
        self.console.notified(queue, &mut self.driver.queues())
    }

    /// Offers room for input.
    fn offer_room(&mut self, head: u16, length: u32) {
        let address = BUFFERS + u64::from(head) * 0x1000;
        self.driver.offer(RX, head, &[(address, length, WRITE, 0)]);
        self.notify(RX).unwrap();
    }

    /// The input that has come since.
    fn heard(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some((head, length)) = self.driver.used(RX) {
            let mut bytes = vec![0; length as usize];
            let address = GuestAddress(BUFFERS + u64::from(head) * 0x1000);
            self.driver.memory.read_slice(&mut bytes, address).unwrap();
            all.extend(bytes);
        }
        all
    }

    fn say(&mut self, head: u16, bytes: &[u8]) {
        let address = BUFFERS + 0x10_0000 + u64::from(head) * 0x1000;
        self.driver.memory.write_slice(bytes, GuestAddress(address)).unwrap();
        // In two buffers, the second of which begins within the bytes.
        let half = bytes.len() as u32 / 2;
        let chain = [
            (address, half, NEXT, 2 * head + 1),
            (address + u64::from(half), bytes.len() as u32 - half, 0, 0),
        ];
        self.driver.offer(TX, 2 * head, &chain);
        self.notify(TX).unwrap();
    }
}

fn pair() -> (UnixStream, UnixStream) {
    UnixStream::pair().unwrap()
}

#[test]
fn test_input_is_read_only_while_the_guest_has_room() {
    let (ours, mut host) = pair();
    let mut bench = Bench::new(Some(ours.as_raw_fd()), None);
    host.write_all(b"hello").unwrap();
    assert!(!bench.calls(), "no room, no waking");
    bench.offer_room(0, 3);
    assert_eq!(bench.heard(), b"hel");
    assert!(!bench.calls());
    bench.offer_room(1, 3);
    assert_eq!(bench.heard(), b"lo");
    bench.offer_room(2, 3);
    assert!(!bench.calls(), "room, but nothing to read");
    host.write_all(b"!").unwrap();
    assert!(bench.calls());
    bench.wake();
    assert_eq!(bench.heard(), b"!");
    assert!(!bench.calls());
}

#[test]
fn test_input_that_ends_wakes_nobody_and_the_rest_goes_on() {
    let (ours, host) = pair();
    let (mut output, theirs) = io::pipe().unwrap();
    let mut bench = Bench::new(Some(ours.as_raw_fd()), Some(theirs.as_raw_fd()));
    bench.offer_room(0, 8);
    drop(host);
    assert!(bench.calls());
    bench.wake();
    assert_eq!(bench.driver.used(RX), None);
    // Though the embedder has it open still.
    assert!(!bench.calls());
    bench.say(0, b"more");
    let mut bytes = [0; 4];
    output.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"more");
}

#[test]
fn test_output_that_is_not_taken_waits_in_the_guest() {
    let (mut host, theirs) = io::pipe().unwrap();
    let mut bench = Bench::new(None, Some(theirs.as_raw_fd()));
    // A pipe of 64 KiB takes 21 such lines and a part.
    let line: Vec<u8> = (0..3001_u32).map(|index| index as u8).collect();
    for head in 0..30 {
        bench.say(head, &line);
    }
    assert!(!bench.calls(), "nothing can be done now");
    let mut taken = 0;
    while bench.driver.used(TX).is_some() {
        taken += 1;
    }
    assert!((1..30).contains(&taken), "{taken}");
    // A snapshot keeps how far it was; here the same device goes on by it.
    let state = bench.console.state();
    assert!(bench.console.set_state(&state) && !bench.console.set_state(&state[1..]));
    let mut all: Vec<u8> = Vec::new();
    while all.len() < 30 * line.len() {
        let mut bytes = [0; 4096];
        let count = host.read(&mut bytes).unwrap();
        all.extend(&bytes[..count]);
        if bench.calls() {
            bench.wake();
        }
    }
    assert_eq!(all, line.repeat(30));
    assert!(!bench.calls());
}

#[test]
fn test_output_to_nobody_is_lost() {
    let (host, theirs) = pair();
    drop(host);
    for output in [None, Some(theirs.as_raw_fd())] {
        let mut bench = Bench::new(None, output);
        bench.say(0, b"lost");
        assert_eq!(bench.driver.used(TX), Some((0, 0)));
        assert!(!bench.calls());
    }
}

#[test]
fn test_files_are_read_and_written_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name| directory.path().join(name);
    fs::write(path("in"), b"from a file").unwrap();
    let (input, output) = (File::open(path("in")).unwrap(), File::create(path("out")).unwrap());
    let mut bench = Bench::new(Some(input.as_raw_fd()), Some(output.as_raw_fd()));
    bench.offer_room(0, 6);
    bench.offer_room(1, 64);
    assert_eq!(bench.heard(), b"from a file");
    bench.offer_room(2, 64);
    assert_eq!(bench.driver.used(RX), None);
    assert!(!bench.calls());
    bench.say(0, b"to a file");
    assert_eq!(fs::read(path("out")).unwrap(), b"to a file");
}

#[test]
fn test_size_is_told_when_it_changes() {
    let mut bench = Bench::new(None, None);
    assert_eq!(bench.console.config(), [80, 0, 25, 0]);
    bench.control.resize(300, 2);
    assert!(bench.calls());
    let mut queues = bench.driver.queues();
    bench.console.host_ready(&mut queues).unwrap();
    assert!(queues.config_changed);
    assert_eq!(bench.console.config(), [44, 1, 2, 0]);
    assert!(!bench.calls());
    bench.console.negotiated(0);
    bench.control.resize(1, 1);
    assert!(!bench.calls(), "there is no driver");
}

#[test]
fn test_open_bad_descriptor_names_it() {
    let error = Console::open(&ConsoleConfig { input: Some(-1), ..<_>::default() }).unwrap_err();
    assert!(error.to_string().contains("duplicate descriptor -1"), "{error}");
}

#[test]
fn test_broken_chains_stop_the_device() {
    let (ours, mut host) = pair();
    host.write_all(b"x").unwrap();
    for queue in [RX, TX] {
        for (chain, want) in [
            (&[(BUFFERS, 8, NEXT, 0)][..], Broken::Endless),
            (&[(1 << 40, 8, 0, 0)], Broken::Buffer),
            (&[(BUFFERS, 8, WRITE | NEXT, 1), (BUFFERS, 8, 0, 0)], Broken::Order),
        ] {
            let mut bench = Bench::new(Some(ours.as_raw_fd()), None);
            bench.driver.offer(queue, 0, chain);
            assert_eq!(bench.notify(queue), Err(want), "queue {queue}");
        }
    }
}

#[test]
fn test_chains_of_the_wrong_direction_are_used_empty() {
    let (ours, mut host) = pair();
    host.write_all(b"x").unwrap();
    let mut bench = Bench::new(Some(ours.as_raw_fd()), Some(ours.as_raw_fd()));
    bench.driver.offer(RX, 0, &[(BUFFERS, 8, 0, 0)]);
    bench.notify(RX).unwrap();
    assert_eq!(bench.driver.used(RX), Some((0, 0)));
    bench.driver.offer(TX, 0, &[(BUFFERS, 8, WRITE, 0)]);
    bench.notify(TX).unwrap();
    assert_eq!(bench.driver.used(TX), Some((0, 0)));
    bench.offer_room(1, 8);
    assert_eq!(bench.heard(), b"x", "nothing was lost by that");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the order of events, both directions carry what went in, and an idle device is
    /// called for nothing.
    #[test]
    fn test_both_directions_carry_what_went_in(
        events in prop::collection::vec((0..4, 1_usize..3000), 1..60),
    ) {
        let (ours, mut host) = pair();
        let mut bench = Bench::new(Some(ours.as_raw_fd()), Some(ours.as_raw_fd()));
        host.set_nonblocking(true).unwrap();
        let (mut sent, mut heard) = (Vec::<u8>::new(), Vec::new());
        let (mut said, mut read) = (Vec::new(), Vec::<u8>::new());
        let (mut rooms, mut lines, mut next) = (0_u16, 0_u16, 0_u8);
        let mut bytes = |count: usize| {
            (0..count).map(|_| { next = next.wrapping_add(1); next }).collect::<Vec<u8>>()
        };
        for (kind, size) in events {
            match kind {
                0 => {
                    let bytes = bytes(size);
                    let count = host.write(&bytes).unwrap_or(0);
                    sent.extend(&bytes[..count]);
                }
                1 if rooms < QUEUE_SIZE => {
                    bench.offer_room(rooms, size as u32);
                    rooms += 1;
                }
                2 if lines < QUEUE_SIZE / 2 => {
                    let bytes = bytes(size);
                    bench.say(lines, &bytes);
                    said.extend(bytes);
                    lines += 1;
                }
                _ => {
                    let mut bytes = vec![0; size];
                    let count = host.read(&mut bytes).unwrap_or(0);
                    read.extend(&bytes[..count]);
                }
            }
            heard.extend(bench.heard());
            for _ in 0..4 {
                if bench.calls() {
                    bench.wake();
                }
            }
            prop_assert!(!bench.calls(), "it spins");
        }
        heard.extend(bench.heard());
        prop_assert!(sent.starts_with(&heard));
        loop {
            let mut bytes = [0; 4096];
            match host.read(&mut bytes) {
                Ok(count) if count > 0 => read.extend(&bytes[..count]),
                _ => break,
            }
            if bench.calls() {
                bench.wake();
            }
        }
        prop_assert_eq!(read, said);
    }
}
