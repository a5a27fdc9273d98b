//! Our microVM's devices with the drivers of a real Linux.

use std::fs;
use std::io::{BufRead, BufReader, PipeWriter, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::common::{alone, load_only, may_run, output, text};
use crate::lab::{has_lab, lab};
use tare::backend::Assignment;
use tare::guest_kernel;
use tare::kit::{Choice, GuestDisks, Kit};
use tare::results::Status;
use tare_vmm::{
    BalloonConfig, BalloonControl, BlockConfig, Config, ConsoleConfig, ConsoleControl, Edge,
    Observer, Vmm,
};
use tare_workload::{Channel, Job};

/// Runs the next test where there can be a microVM: this very program, in the lab.
#[test]
fn test_rng_console_and_balloon_work_with_linux() {
    if !may_run("test_rng_console_and_balloon_work_with_linux", "QEMU", has_lab()) {
        return;
    }
    let _guard = alone();
    let directory = tempfile::tempdir().unwrap();
    let mut command = lab("deterministic", directory.path());
    command.args(["--kernel", "full", "--program"]).arg(std::env::current_exe().unwrap());
    let inner = "devices::inside_the_lab_devices_work";
    let shown = output(command.args(["--", "--ignored", "--exact", inner, "--nocapture"]));
    assert!(shown.status.success(), "{}", text(&shown));
    assert!(text(&shown).contains("1 passed"), "{}", text(&shown));
}

/// Every byte of a stream is compared, in both directions, before anything is timed.
#[test]
fn test_streams_and_round_trips_arrive_and_beat_qemu_s() {
    if !may_run("test_streams_and_round_trips_arrive", "QEMU", has_lab()) {
        return;
    }
    let _guard = alone();
    let directory = tempfile::tempdir().unwrap();
    let mut command = lab("deterministic", directory.path());
    command.args(["--", "compare", "--on", "microvm,qemu", "--kernel", "full"]);
    command.args(["--workload", "stream,roundtrip", "--replicates", "1", "--warmups", "0"]);
    let shown = output(&mut command);
    assert!(shown.status.success(), "{}", text(&shown));
    let results = load_only(&directory.path().join("results"));
    for cell in &results.cells {
        assert_eq!(cell.status, Status::Ok, "{}", cell.title());
        assert!(cell.failures.is_empty(), "{}: {:?}", cell.title(), cell.failures);
    }
    let median = |backend: &str, transport: &str, metric: &str| {
        let mut cells = results.cells.iter();
        let cell = cells.find(|cell| {
            cell.backend == backend
                && cell.variant["transport"] == transport
                && cell.summary(metric).is_some()
        });
        cell.and_then(|cell| cell.summary(metric)).unwrap().median.value
    };
    for transport in ["vsock", "net"] {
        for metric in ["send_bytes_per_s", "receive_bytes_per_s", "roundtrip_ns"] {
            let (ours, qemu) =
                (median("microvm", transport, metric), median("qemu", transport, metric));
            let cost = if metric == "roundtrip_ns" { ours / qemu } else { qemu / ours };
            assert!(cost < 1.0, "{metric} by {transport}: {ours} against QEMU's {qemu}");
        }
    }
}

/// What the guest says on its serial port, should something go wrong.
#[derive(Clone, Default)]
struct Serial(Arc<Mutex<Vec<u8>>>);

impl Observer for Serial {
    fn edge(&mut self, _edge: Edge, _at_ns: u64) {}

    fn serial(&mut self, _at_ns: u64, bytes: &[u8]) {
        self.0.lock().unwrap().extend_from_slice(bytes);
    }
}

/// Does what it reads on the console, line by line, and answers there.
const SCRIPT: &str = "\
exec 3</dev/hvc0 4>/dev/hvc0
stty raw -echo <&3
mkdir -p /tmp/t
mount -t tmpfs t /tmp/t
echo ready >&4
while read -r word <&3; do
  case $word in
    rng) cat /sys/class/misc/hw_random/rng_current >&4; head -c 512 /dev/hwrng | md5sum >&4;;
    size) stty size <&3 >&4;;
    free) sed -n 's/^MemFree: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo >&4;;
    fill) echo $(head -c 41943040 /dev/zero 2>&1 >/tmp/t/f) full >&4;;
    empty) rm /tmp/t/f; echo empty >&4;;
    end) break;;
    *) echo \"what is $word\" >&4;;
  esac
done
";

/// The host's side of a guest that runs `SCRIPT`.
struct Guest {
    input: PipeWriter,
    output: BufReader<std::io::PipeReader>,
    balloon: BalloonControl,
    console: ConsoleControl,
    ram: std::ops::Range<usize>,
}

impl Guest {
    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn ask(&mut self, word: &str) -> String {
        self.input.write_all(format!("{word}\n").as_bytes()).unwrap();
        self.hear()
    }

    fn free_bytes(&mut self) -> u64 {
        self.ask("free").parse::<u64>().unwrap() << 10
    }

    /// How much of guest RAM the host has to find memory for.
    fn resident_bytes(&self) -> u64 {
        let mut inside = false;
        let mut bytes = 0;
        for line in fs::read_to_string("/proc/self/smaps").unwrap().lines() {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            if let Some((Ok(start), Ok(end))) = range.map(|(start, end)| {
                (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16))
            }) {
                inside = self.ram.start <= start && end <= self.ram.end;
            } else if let (true, Some(kib)) = (inside, line.strip_prefix("Rss:")) {
                let kib = kib.trim().strip_suffix(" kB").unwrap();
                bytes += kib.trim().parse::<u64>().unwrap() << 10;
            }
        }
        bytes
    }
}

/// Boots a guest and lets `check` talk with it.
fn with_guest(kit: &Kit, balloon: BalloonConfig, check: impl FnOnce(&mut Guest) + Send) {
    let command = ["sh", "-c", SCRIPT].map(str::to_owned).to_vec();
    let mut job = Job { command, ..Job::new(Channel::Com1, "run") };
    let assignment = Assignment { with_rootfs: true, ..Assignment::new(job.clone()) };
    let disks = GuestDisks::new(kit, &assignment).unwrap();
    disks.name_in(&mut job);
    let kernel = kit.guest_kernel().unwrap();
    let (from_host, input) = std::io::pipe().unwrap();
    let (output, to_host) = std::io::pipe().unwrap();
    let path = disks.root.clone().unwrap();
    let config = Config {
        kernel: kernel.path.clone(),
        initramfs: Some(kit.initramfs().unwrap().to_owned()),
        cmdline: format!("{} -- {}", kernel.command_line, job.to_cmdline().unwrap()),
        blocks: vec![BlockConfig::new(path)],
        rng: true,
        balloon: Some(balloon),
        console: Some(ConsoleConfig {
            input: Some(from_host.as_raw_fd()),
            output: Some(to_host.as_raw_fd()),
            size: (100, 30),
        }),
        ..Config::default()
    };
    let serial = Serial::default();
    let mut vmm = Vmm::new(&config, Box::new(serial.clone())).unwrap();
    vmm.confine();
    drop((from_host, to_host));
    let mut guest = Guest {
        input,
        output: BufReader::new(output),
        balloon: vmm.balloon().unwrap(),
        console: vmm.console().unwrap(),
        ram: vmm.guest_memory(),
    };
    let stopper = vmm.stopper();
    thread::scope(|scope| {
        let running = scope.spawn(move || {
            let outcome = vmm.run().unwrap();
            // With it the guest's end of the pipes is gone.
            drop(vmm);
            outcome
        });
        let checked = scope.spawn(move || {
            assert_eq!(guest.hear(), "ready");
            check(&mut guest);
            guest.input.write_all(b"end\n").unwrap();
        });
        if checked.join().is_err() {
            stopper.stop();
            let said = serial.0.lock().unwrap().clone();
            panic!("the guest said: {}", String::from_utf8_lossy(&said));
        }
        running.join().unwrap();
    });
}

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);

#[test]
#[ignore = "needs a host that can run microVMs: test_rng_console_and_balloon_work_with_linux runs it"]
fn inside_the_lab_devices_work() {
    let path = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let kernel = path("TARE_KERNEL").map_or_else(Default::default, guest_kernel::Choice::File);
    let kit =
        Kit::new(Choice { kernel, rootfs: path("TARE_ROOTFS"), ..Choice::default() }).unwrap();
    with_guest(&kit, BalloonConfig::default(), |guest| {
        entropy_comes(guest);
        console_has_a_size(guest);
        balloon_goes_up_and_down(guest);
        statistics_come_when_asked_for(guest);
    });
    let reporting = BalloonConfig { free_page_reporting: true, ..BalloonConfig::default() };
    with_guest(&kit, reporting, free_pages_come_back);
}

fn entropy_comes(guest: &mut Guest) {
    let source = guest.ask("rng");
    assert!(source.starts_with("virtio_rng"), "{source}");
    let first = guest.hear();
    guest.ask("rng");
    let second = guest.hear();
    assert!(first.len() > 32 && second.len() > 32, "{first} {second}");
    assert_ne!(first, second);
}

fn console_has_a_size(guest: &mut Guest) {
    guest.console.resize(132, 50);
    // The driver looks at it from a work queue.
    let sizes: Vec<String> = (0..50).map(|_| guest.ask("size")).collect();
    assert!(sizes.iter().any(|size| size == "50 132"), "{sizes:?}");
}

fn balloon_goes_up_and_down(guest: &mut Guest) {
    // Memory that the guest has had and has no use for stays with it.
    assert_eq!(guest.ask("fill"), "full");
    assert_eq!(guest.ask("empty"), "empty");
    let (free, resident) = (guest.free_bytes(), guest.resident_bytes());
    assert!(resident > 40 * MIB, "{resident}");
    guest.balloon.set_target(64 * MIB);
    let state = guest.balloon.wait(LIMIT, |state| state.actual_bytes == 64 * MIB);
    assert_eq!(state.expect("it follows").inflated_bytes, 64 * MIB);
    let (less_free, less_resident) = (guest.free_bytes(), guest.resident_bytes());
    // Caches give way as well.
    assert!(free - less_free > 40 * MIB, "{free} {less_free}");
    assert!(resident - less_resident > 20 * MIB, "{resident} {less_resident}");
    guest.balloon.set_target(0);
    guest.balloon.wait(LIMIT, |state| state.actual_bytes == 0).expect("it follows");
    let again_free = guest.free_bytes();
    assert!(again_free - less_free > 40 * MIB, "{less_free} {again_free}");
    // What was given up can be used again.
    assert_eq!(guest.ask("fill"), "full");
    assert_eq!(guest.ask("empty"), "empty");
    println!("balloon: free {free} {less_free} {again_free}, resident {resident} {less_resident}");
}

fn statistics_come_when_asked_for(guest: &mut Guest) {
    assert_eq!(guest.balloon.state().statistics_count, 0, "nobody has asked");
    guest.balloon.request_statistics();
    let state = guest.balloon.wait(LIMIT, |state| state.statistics_count == 1);
    let statistics = state.and_then(|state| state.statistics).expect("it answers");
    let free = guest.free_bytes();
    assert!(statistics.free_bytes.unwrap().abs_diff(free) < 8 * MIB, "{statistics:?} {free}");
    let total = statistics.total_bytes.unwrap();
    assert!((64 * MIB..=128 * MIB).contains(&total), "{statistics:?}");
    assert!(statistics.minor_faults > Some(0), "{statistics:?}");
}

fn free_pages_come_back(guest: &mut Guest) {
    assert_eq!(guest.ask("fill"), "full");
    let full = guest.resident_bytes();
    assert!(full > 40 * MIB, "{full}");
    let before = guest.balloon.state().reported_bytes;
    assert_eq!(guest.ask("empty"), "empty");
    let reported = |state: &tare_vmm::BalloonState| state.reported_bytes >= before + 30 * MIB;
    guest.balloon.wait(LIMIT, reported).expect("the guest reports what is free");
    let resident = guest.resident_bytes();
    assert!(full - resident > 25 * MIB, "{full} {resident}");
    println!("free page reporting: resident {full} {resident}");
}
