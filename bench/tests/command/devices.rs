//! Our microVM's devices with the drivers of a real Linux.

use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Seek, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tare::backend::Assignment;
use tare::guest_kernel;
use tare::kit::{Choice, GuestDisks, Kit};
use tare::results::Status;
use tare_container::{
    Capabilities, Dev, Entrance, Jail, Proc, Program, Rootfs, Spec, Stream, User,
};
use tare_vmm::{
    BalloonConfig, BalloonControl, BlockConfig, BlockEngine, Config, ConsoleConfig, ConsoleControl,
    Edge, End, NetBackend, NetConfig, Observer, Prepared, Streams, TapSource, Vmm, VsockConfig,
    open_tap,
};
use tare_workload::{
    CONVERSATION_PORT, Channel, Decoder, Event, FrameKind, Job, Line, Network, frame_header,
};

use crate::common::{among_labs, load_only, may_run, output, text};
use crate::lab::{has_lab, lab};

/// Runs the next test where there can be a microVM: this very program, in the lab.
#[test]
fn test_devices_work_with_linux_in_jail() {
    if !may_run("test_devices_work_with_linux_in_jail", "QEMU", has_lab()) {
        return;
    }
    let _guard = among_labs();
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
fn test_streams_and_round_trips_arrive_and_keep_up_with_qemu_s() {
    if !may_run("test_streams_and_round_trips_arrive", "QEMU", has_lab()) {
        return;
    }
    let _guard = among_labs();
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
            // Near parity, where one round does not decide; `tare bench vmm` shows the figures.
            assert!(cost < 1.25, "{metric} by {transport}: {ours} against QEMU's {qemu}");
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
exec 3</dev/hvc0 4>/dev/hvc0 5>&1
stty raw -echo <&3
mkdir -p /tmp/t
mount -t tmpfs t /tmp/t
echo ready >&4
while read -r line <&3; do eval \"$line\" >&4; done
";

/// The host's side of a guest that runs `SCRIPT`.
struct Guest {
    input: PipeWriter,
    output: BufReader<PipeReader>,
    stdio: UnixStream,
    listener: TcpListener,
    balloon: BalloonControl,
    console: ConsoleControl,
    ram: std::ops::Range<usize>,
    /// Opened where there is a `/proc`.
    smaps: File,
}

impl Guest {
    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Has the guest run a command and returns its first line.
    fn ask(&mut self, command: &str) -> String {
        self.input.write_all(format!("{command}\n").as_bytes()).unwrap();
        self.hear()
    }

    /// Reads what the script says on its standard output; true until it has ended.
    fn stdout(&mut self, decoder: &mut Decoder, mut take: impl FnMut(&[u8])) -> bool {
        let mut buffer = vec![0; 32 << 10];
        let read = self.stdio.read(&mut buffer).unwrap();
        assert_ne!(read, 0, "the guest hung up");
        let mut goes_on = true;
        let pushed = decoder.push(&buffer[..read], |event| match event {
            Event::Frame(FrameKind::Stdout, bytes) => take(&bytes),
            Event::Frame(FrameKind::Exit, code) => {
                assert_eq!(code[..], [0; 4]);
                goes_on = false;
            }
            _ => {}
        });
        pushed.unwrap();
        goes_on
    }

    fn end(&mut self) {
        assert_eq!(self.ask("echo last; break"), "last");
        let mut decoder = Decoder::default();
        while self.stdout(&mut decoder, |_| {}) {}
    }

    fn fill(&mut self) {
        let fill = "head -c 41943040 /dev/zero >/tmp/t/f && echo full";
        assert_eq!(self.ask(fill), "full");
    }

    fn empty(&mut self) {
        assert_eq!(self.ask("rm /tmp/t/f && echo empty"), "empty");
    }

    fn free_bytes(&mut self) -> u64 {
        let free = self.ask("sed -n 's/^MemFree: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo");
        free.parse::<u64>().unwrap() << 10
    }

    /// How much of guest RAM the host has to find memory for.
    fn resident_bytes(&mut self) -> u64 {
        let mut smaps = String::new();
        self.smaps.rewind().unwrap();
        self.smaps.read_to_string(&mut smaps).unwrap();
        let mut inside = false;
        let mut bytes = 0;
        for line in smaps.lines() {
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

/// The jail of a VMM, as `tare` has it.
fn jail(kit: &Kit) -> Jail {
    let inherit = || Stream::Inherit;
    let spec = Spec {
        proc: Proc::None,
        dev: Dev::None,
        sys: false,
        hostname: None,
        seccomp: None,
        user: Some(User { uid: 65534, gid: 65534, groups: Vec::new() }),
        capabilities: Some(Capabilities::NONE),
        stdio: [inherit(), inherit(), inherit()],
        ..Spec::container(Rootfs::ReadOnly(kit.empty_root().unwrap().to_owned()), Program::Caller)
    };
    spec.jail().unwrap()
}

/// Boots a guest that has every device, its VMM confined and jailed, and lets `check` talk with it.
fn with_guest(kit: &Kit, balloon: BalloonConfig, check: fn(&mut Guest)) {
    static TAPS: AtomicU32 = AtomicU32::new(0);
    let tap_name = format!("tare-test{}", TAPS.fetch_add(1, Ordering::Relaxed));
    let tap = open_tap(&tap_name).unwrap();
    tare_container::raise_interface(&tap_name, HOST.into(), 30).unwrap();
    let command = ["sh", "-c", SCRIPT].map(str::to_owned).to_vec();
    let mut job = Job {
        command,
        stdio: Some(Line::Vsock(CONVERSATION_PORT)),
        network: Some(Network {
            interface: "eth0".to_owned(),
            mac: MAC,
            address: [198, 18, 0, 2],
            prefix: 30,
            gateway: None,
        }),
        ..Job::new(Channel::Com1, "run")
    };
    let assignment =
        Assignment { with_rootfs: true, scratch_mib: Some(16), ..Assignment::new(job.clone()) };
    let disks = GuestDisks::new(kit, &assignment).unwrap();
    disks.name_in(&mut job);
    let kernel = kit.guest_kernel().unwrap();
    let (from_host, input) = std::io::pipe().unwrap();
    let (output, to_host) = std::io::pipe().unwrap();
    let (mut stdio, guests) = UnixStream::pair().unwrap();
    stdio.write_all(&frame_header(FrameKind::Stdin, 0)).unwrap();
    let config = Config {
        kernel: kernel.path.clone(),
        initramfs: Some(kit.initramfs().unwrap().to_owned()),
        cmdline: format!("{} -- {}", kernel.command_line, job.to_cmdline().unwrap()),
        blocks: vec![
            BlockConfig::new(disks.root.as_ref().unwrap()),
            BlockConfig {
                engine: BlockEngine::IoUring,
                ..BlockConfig::new(disks.scratch.as_ref().unwrap())
            },
        ],
        vsock: Some(VsockConfig { guest_cid: 3, path: None }),
        nets: vec![NetConfig {
            tap: TapSource::Fd(tap.as_raw_fd()),
            backend: NetBackend::User,
            mac: MAC,
        }],
        rng: true,
        balloon: Some(balloon),
        console: Some(ConsoleConfig {
            input: Some(from_host.as_raw_fd()),
            output: Some(to_host.as_raw_fd()),
            size: (100, 30),
        }),
        ..Config::default()
    };
    let prepared = Prepared::new(&config).unwrap();
    // The child's, which has another network: a socket stays in that of its birth.
    let listener = TcpListener::bind((Ipv4Addr::from(HOST), PORT)).unwrap();
    let child = |entrance: Entrance<'_>| {
        // SAFETY: a plain number. The signal's default action ends a child that hangs.
        unsafe { libc::alarm(LIMIT.as_secs() as u32 * 4) };
        let serial = Serial::default();
        let streams = Streams::from([(CONVERSATION_PORT, guests)]);
        let mut vmm = Vmm::launch_with(&prepared, streams, Box::new(serial.clone())).unwrap();
        drop((from_host, to_host));
        let mut guest = Guest {
            input,
            output: BufReader::new(output),
            stdio,
            listener,
            balloon: vmm.balloon().unwrap(),
            console: vmm.console().unwrap(),
            ram: vmm.guest_memory(),
            smaps: File::open("/proc/self/smaps").unwrap(),
        };
        entrance.enter().unwrap();
        vmm.confine();
        let stopper = vmm.stopper();
        // The guest has its own thread: this one is not confined, and so can say what failed.
        let running = thread::spawn(move || {
            let outcome = vmm.run();
            // With it the guest's end of the pipes is gone.
            drop(vmm);
            outcome
        });
        let checked = catch_unwind(AssertUnwindSafe(|| {
            assert_eq!(guest.hear(), "ready");
            check(&mut guest);
            guest.end();
        }));
        // The guest waits for the host to hang up.
        drop(guest);
        if checked.is_err() {
            stopper.stop();
        }
        let outcome = running.join().unwrap().unwrap();
        let is_well = checked.is_ok() && outcome.end == End::Reset;
        if !is_well {
            let said = serial.0.lock().unwrap().clone();
            eprintln!("{outcome:?}; the guest said: {}", String::from_utf8_lossy(&said));
        }
        i32::from(!is_well)
    };
    // SAFETY: the test runner's other thread, if it has one, waits for this test.
    let mut container = unsafe { jail(kit).fork(child) }.unwrap();
    assert_eq!(container.wait().unwrap().shell_status(), 0, "what failed is said above");
}

/// The network of host and guest.
const HOST: [u8; 4] = [198, 18, 0, 1];
const PORT: u16 = 7000;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);

#[test]
#[ignore = "needs a host that can run microVMs: test_devices_work_with_linux_in_jail runs it"]
fn inside_the_lab_devices_work() {
    let path = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let kernel = path("TARE_KERNEL").map_or_else(Default::default, guest_kernel::Choice::File);
    let kit =
        Kit::new(Choice { kernel, rootfs: path("TARE_ROOTFS"), ..Choice::default() }).unwrap();
    with_guest(&kit, BalloonConfig::default(), |guest| {
        entropy_comes(guest);
        console_has_a_size(guest);
        disks_keep_what_is_written(guest);
        streams_arrive(guest);
        network_carries_both_ways(guest);
        balloon_goes_up_and_down(guest);
        statistics_come_when_asked_for(guest);
    });
    let reporting = BalloonConfig { free_page_reporting: true, ..BalloonConfig::default() };
    with_guest(&kit, reporting, free_pages_come_back);
}

fn entropy_comes(guest: &mut Guest) {
    let source = guest.ask("cat /sys/class/misc/hw_random/rng_current");
    assert!(source.starts_with("virtio_rng"), "{source}");
    let numbers = "head -c 512 /dev/hwrng | md5sum";
    let (first, second) = (guest.ask(numbers), guest.ask(numbers));
    assert!(first.len() > 32 && second.len() > 32, "{first} {second}");
    assert_ne!(first, second);
}

/// One disk is served on the vCPU's thread, the other by io_uring.
fn disks_keep_what_is_written(guest: &mut Guest) {
    for directory in ["/root", "/scratch"] {
        let written = guest.ask(&format!(
            "head -c 2000000 /dev/urandom >{directory}/f; sha256sum <{directory}/f; \
             sync; echo 3 >/proc/sys/vm/drop_caches"
        ));
        assert!(written.len() >= 64, "{written}");
        let read = guest.ask(&format!("sha256sum <{directory}/f; rm {directory}/f"));
        assert_eq!(read, written, "{directory}");
    }
}

/// The script's standard output goes by vsock.
fn streams_arrive(guest: &mut Guest) {
    const BYTES: usize = 300_000;
    let digest = guest.ask(&format!(
        "head -c {BYTES} /dev/urandom >/tmp/t/v; sha256sum </tmp/t/v; cat /tmp/t/v >&5"
    ));
    let (mut decoder, mut hasher, mut count) = (Decoder::default(), Sha256::new(), 0);
    while count < BYTES {
        let goes_on = guest.stdout(&mut decoder, |bytes| {
            hasher.update(bytes);
            count += bytes.len();
        });
        assert!(goes_on, "the script has ended");
    }
    assert_eq!(format!("{}  -", hex(&hasher.finalize())), digest);
}

/// What the guest sends comes back to it.
fn network_carries_both_ways(guest: &mut Guest) {
    const BYTES: usize = 1_000_000;
    let digest = guest.ask(&format!("head -c {BYTES} /dev/urandom >/tmp/t/n; sha256sum </tmp/t/n"));
    let send = format!("nc {} {PORT} </tmp/t/n | sha256sum\n", Ipv4Addr::from(HOST));
    guest.input.write_all(send.as_bytes()).unwrap();
    let (mut stream, _) = guest.listener.accept().unwrap();
    let mut bytes = vec![0; BYTES];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(format!("{}  -", hex(&Sha256::digest(&bytes))), digest);
    stream.write_all(&bytes).unwrap();
    drop(stream);
    assert_eq!(guest.hear(), digest);
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn console_has_a_size(guest: &mut Guest) {
    guest.console.resize(132, 50);
    // The driver looks at it from a work queue.
    let follows = (0..50).any(|_| guest.ask("stty size <&3") == "50 132");
    assert!(follows, "{}", guest.ask("stty size <&3"));
}

fn balloon_goes_up_and_down(guest: &mut Guest) {
    // Memory that the guest has had and has no use for stays with it.
    guest.fill();
    guest.empty();
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
    guest.fill();
    guest.empty();
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
    guest.fill();
    let full = guest.resident_bytes();
    assert!(full > 40 * MIB, "{full}");
    let before = guest.balloon.state().reported_bytes;
    guest.empty();
    let (balloon, mut resident) = (guest.balloon.clone(), full);
    // What it reports is in part what it never had.
    let state = balloon.wait(LIMIT, |_| {
        resident = guest.resident_bytes();
        full.saturating_sub(resident) > 25 * MIB
    });
    let reported = state.expect("the guest reports what is free").reported_bytes - before;
    assert!(reported >= full - resident, "{reported} {full} {resident}");
    println!("free page reporting: resident {full} {resident}");
}
