//! Snapshots of a Linux guest that is at work: on a disk, and on a stream to the host.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tare::backend::{Assignment, Output};
use tare::kit::{GuestDisks, Kit};
use tare_vmm::{
    BlockConfig, BlockEngine, Capture, Config, Edge, End, NetBackend, NetConfig, Observer,
    Prepared, Snapshot, Stopper, Streams, TapSource, Vmm, VsockConfig, open_tap,
};
use tare_workload::{
    CONVERSATION_PORT, Channel, Decoder, Event, FrameKind, Job, Line, Network, frame_header,
};

use crate::common::{among_labs, may_run, output, text};
use crate::copies::kit;
use crate::lab::{has_lab, lab};

#[test]
fn test_a_busy_guest_is_saved_and_goes_on_with_its_data() {
    if !may_run("test_a_busy_guest_is_saved", "QEMU", has_lab()) {
        return;
    }
    let _guard = among_labs();
    let directory = tempfile::tempdir().unwrap();
    let mut command = lab("deterministic", directory.path());
    command.arg("--program").arg(std::env::current_exe().unwrap());
    let inner = "busy::inside_the_lab_busy_guests_are_saved";
    let shown = output(command.args(["--", "--ignored", "--exact", inner, "--nocapture"]));
    assert!(shown.status.success(), "{}", text(&shown));
    assert!(text(&shown).contains("1 passed"), "{}", text(&shown));
}

#[test]
#[ignore = "needs a host that can run microVMs: test_a_busy_guest_is_saved_and_goes_on_with_its_data runs it"]
fn inside_the_lab_busy_guests_are_saved() {
    let kit = kit();
    a_disk_s_data_goes_on(&kit, BlockEngine::Sync);
    a_stream_is_whole_or_reset(&kit);
}

/// The same with requests that others make meanwhile: the kernel for the disk, and the network.
#[test]
fn test_a_guest_busy_with_io_uring_and_a_network_is_saved() {
    if !may_run("test_a_guest_busy_with_io_uring_and_a_network", "QEMU", has_lab()) {
        return;
    }
    let _guard = among_labs();
    let directory = tempfile::tempdir().unwrap();
    let mut command = lab("deterministic", directory.path());
    command.args(["--kernel", "full", "--program"]).arg(std::env::current_exe().unwrap());
    let inner = "busy::inside_the_lab_io_uring_and_network_are_saved";
    let shown = output(command.args(["--", "--ignored", "--exact", inner, "--nocapture"]));
    assert!(shown.status.success(), "{}", text(&shown));
    assert!(text(&shown).contains("1 passed"), "{}", text(&shown));
}

#[test]
#[ignore = "needs a host that can run microVMs: test_a_guest_busy_with_io_uring_and_a_network_is_saved runs it"]
fn inside_the_lab_io_uring_and_network_are_saved() {
    let kit = kit();
    a_disk_s_data_goes_on(&kit, BlockEngine::IoUring);
    println!("io_uring is well");
    a_network_s_data_goes_on(&kit, NetBackend::User);
}

/// A guest that does nothing for so long hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// Hears the agent, and pauses the guest a while after it has said something.
#[derive(Clone)]
struct Ear {
    heard: Arc<Mutex<(Decoder, String)>>,
    /// What it waits for.
    cue: Option<&'static str>,
    stopper: Arc<OnceLock<Stopper>>,
}

impl Ear {
    fn new(cue: Option<&'static str>) -> Ear {
        Ear { heard: Arc::default(), cue, stopper: Arc::default() }
    }

    fn said(&self) -> String {
        self.heard.lock().unwrap().1.clone()
    }

    /// Runs the guest to its pause or end.
    fn run(&self, vmm: &mut Vmm) -> End {
        let stopper = vmm.stopper();
        let _ = self.stopper.set(stopper.clone());
        let (done, ended) = std::sync::mpsc::channel::<()>();
        thread::scope(|scope| {
            let watchdog = scope.spawn(move || {
                if ended.recv_timeout(LIMIT) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                    stopper.stop();
                }
            });
            let outcome = vmm.run().unwrap();
            drop(done);
            watchdog.join().unwrap();
            outcome.end
        })
    }
}

impl Observer for Ear {
    fn edge(&mut self, _: Edge, _: u64) {}

    fn serial(&mut self, _: u64, bytes: &[u8]) {
        let heard = &mut *self.heard.lock().unwrap();
        let mut came = false;
        let (decoder, said) = heard;
        let pushed = decoder.push(bytes, |event| {
            if let Event::Frame(kind, text) = event {
                let text = match kind {
                    FrameKind::Exit => format!("exit {}\n", text[0]),
                    FrameKind::Report => return,
                    _ => String::from_utf8_lossy(&text).into_owned(),
                };
                came |= self.cue.is_some_and(|cue| text.contains(cue));
                said.push_str(&text);
            }
        });
        pushed.unwrap();
        if came {
            // In the midst of what comes next, not where the guest has just spoken.
            let stopper = self.stopper.get().unwrap().clone();
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(7));
                stopper.pause();
            });
        }
    }
}

fn machine(kit: &Kit, job: Job, scratch_mib: Option<u64>) -> (Config, GuestDisks) {
    let assignment = Assignment {
        with_rootfs: true,
        scratch_mib,
        output: Output::Captured,
        ..Assignment::new(job)
    };
    let disks = GuestDisks::new(kit, &assignment).unwrap();
    let mut job = assignment.job;
    disks.name_in(&mut job);
    let kernel = kit.guest_kernel().unwrap();
    let config = Config {
        kernel: kernel.path.clone(),
        initramfs: Some(kit.initramfs().unwrap().to_owned()),
        cmdline: format!("{} -- {}", kernel.command_line, job.to_cmdline().unwrap()),
        blocks: disks.root.iter().chain(&disks.scratch).map(BlockConfig::new).collect(),
        vsock: job.stdio.map(|_| VsockConfig { guest_cid: 3, path: None }),
        ..Config::default()
    };
    (config, disks)
}

/// The same machine with a copy of each disk as it is now.
fn with_copies(config: &Config, directory: &Path) -> Prepared {
    let mut config = config.clone();
    for (index, block) in config.blocks.iter_mut().enumerate() {
        let copy = directory.join(format!("disk-{index}"));
        fs::copy(&block.path, &copy).unwrap();
        block.path = copy;
    }
    Prepared::new(&config).unwrap()
}

/// Each round writes a file, has it on the disk, and reads it back from there; in the end all are
/// read once more.
const ROUNDS: &str = "for i in 1 2 3 4 5 6 7 8; do \
    head -c 1000000 /dev/urandom >/scratch/f$i; sha256sum /scratch/f$i >/scratch/s$i; sync; \
    echo 3 >/proc/sys/vm/drop_caches || exit 8; sha256sum -c /scratch/s$i || exit 9; \
    echo round $i; done; \
    echo 3 >/proc/sys/vm/drop_caches; cat /scratch/s? | sha256sum -c || exit 10; echo all well";

fn a_disk_s_data_goes_on(kit: &Kit, engine: BlockEngine) {
    let mut job = Job::new(Channel::Com1, "run");
    job.command = ["sh", "-c", ROUNDS].map(str::to_owned).to_vec();
    let (mut config, _disks) = machine(kit, job, Some(32));
    config.blocks.iter_mut().for_each(|block| block.engine = engine);
    let directory = kit.new_scratch_dir().unwrap();
    let at = |name: &str| directory.join(name);
    for name in ["first", "second"] {
        fs::create_dir(at(name)).unwrap();
    }
    let prepared = Prepared::new(&config).unwrap();
    let ear = Ear::new(Some("round 3"));
    let mut vmm = Vmm::launch(&prepared, Box::new(ear.clone())).unwrap();
    assert_eq!(ear.run(&mut vmm), End::Paused, "{}", ear.said());
    let capture = Capture::create(&at("first/snapshot"), &prepared).unwrap();
    vmm.snapshot(&prepared, &capture).unwrap();
    let first = with_copies(&config, &at("first"));
    assert!(!ear.said().contains("round 8"), "it was to be in the midst of it: {}", ear.said());
    // The guest itself goes on to its end.
    assert_eq!(ear.run(&mut vmm), End::Reset, "{}", ear.said());
    assert!(ear.said().ends_with("all well\nexit 0\n"), "{}", ear.said());
    drop(vmm);

    // So does one that is restored, and is saved once more, as what differs: disk blocks that the VMM
    // has read into its memory since are part of that.
    let snapshot = Snapshot::open(&at("first/snapshot"), &first).unwrap();
    let ear = Ear::new(Some("round 6"));
    let mut vmm = Vmm::restore(&first, &snapshot, Box::new(ear.clone())).unwrap();
    assert_eq!(ear.run(&mut vmm), End::Paused, "{}", ear.said());
    let capture = Capture::difference(&at("second/snapshot"), &first, &snapshot).unwrap();
    let captured = vmm.snapshot(&first, &capture).unwrap();
    println!("difference: {captured:?}");
    let second = with_copies(first.config(), &at("second"));
    assert_eq!(ear.run(&mut vmm), End::Reset, "{}", ear.said());
    assert!(ear.said().ends_with("all well\nexit 0\n"), "{}", ear.said());
    drop(vmm);

    let snapshot = Snapshot::open(&at("second/snapshot"), &second).unwrap();
    let ear = Ear::new(None);
    let mut vmm = Vmm::restore(&second, &snapshot, Box::new(ear.clone())).unwrap();
    assert_eq!(ear.run(&mut vmm), End::Reset, "{}", ear.said());
    assert!(ear.said().contains("round 7"), "{}", ear.said());
    assert!(ear.said().ends_with("all well\nexit 0\n"), "{}", ear.said());
}

const STREAM_BYTES: u64 = 3_000_000;

fn a_stream_is_whole_or_reset(kit: &Kit) {
    let script =
        format!("head -c {STREAM_BYTES} /dev/urandom >/tmp/x; cat /tmp/x; sha256sum </tmp/x >&2");
    let mut job = Job::new(Channel::Com1, "run");
    job.command = ["sh", "-c", &script].map(str::to_owned).to_vec();
    job.stdio = Some(Line::Vsock(CONVERSATION_PORT));
    let (config, _disks) = machine(kit, job, None);
    let directory = kit.new_scratch_dir().unwrap();
    let prepared = Prepared::new(&config).unwrap();

    let (mut ours, guests) = UnixStream::pair().unwrap();
    ours.write_all(&frame_header(FrameKind::Stdin, 0)).unwrap();
    let streams = Streams::from([(CONVERSATION_PORT, guests)]);
    let ear = Ear::new(None);
    let mut vmm = Vmm::launch_with(&prepared, streams, Box::new(ear.clone())).unwrap();
    let stopper = vmm.stopper();
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    let reader = thread::spawn(move || {
        let (mut decoder, mut hasher, mut errors) = (Decoder::default(), Sha256::new(), Vec::new());
        let mut buffer = vec![0; 32 << 10];
        let mut ended = false;
        while !ended {
            let read = ours.read(&mut buffer).unwrap();
            assert_ne!(read, 0, "the guest hung up");
            let pushed = decoder.push(&buffer[..read], |event| match event {
                Event::Frame(FrameKind::Stdout, bytes) => {
                    hasher.update(&bytes);
                    let before = counted.fetch_add(bytes.len() as u64, Ordering::SeqCst);
                    let third = STREAM_BYTES / 3;
                    if before < third && before + bytes.len() as u64 >= third {
                        stopper.pause();
                    }
                }
                Event::Frame(FrameKind::Stderr, bytes) => errors.extend(bytes),
                Event::Frame(FrameKind::Exit, _) => ended = true,
                _ => {}
            });
            pushed.unwrap();
        }
        (hasher.finalize(), String::from_utf8(errors).unwrap())
    });
    assert_eq!(ear.run(&mut vmm), End::Paused, "{}", ear.said());
    let capture = Capture::create(&directory.join("snapshot"), &prepared).unwrap();
    vmm.snapshot(&prepared, &capture).unwrap();
    let copies = with_copies(&config, &directory);
    assert!(count.load(Ordering::SeqCst) < STREAM_BYTES, "it was to be in the midst of it");
    // The stream of the guest itself does not notice.
    assert_eq!(ear.run(&mut vmm), End::Reset, "{}", ear.said());
    let (digest, said) = reader.join().unwrap();
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(count.load(Ordering::SeqCst), STREAM_BYTES);
    assert_eq!(said, format!("{digest}  -\n"));
    drop(vmm);

    // The other end is not there where a copy goes on: it hears of that, and does not hang.
    let snapshot = Snapshot::open(&directory.join("snapshot"), &copies).unwrap();
    let ear = Ear::new(None);
    let mut vmm = Vmm::restore(&copies, &snapshot, Box::new(ear.clone())).unwrap();
    assert_eq!(ear.run(&mut vmm), End::Reset, "{}", ear.said());
    assert!(ear.said().contains("standard streams"), "{}", ear.said());
    assert!(ear.said().ends_with("exit 125\n"), "{}", ear.said());
}

const HOST: [u8; 4] = [198, 18, 0, 1];
const PORT: u16 = 7000;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const ROUND_BYTES: usize = 400_000;

/// Sends back what comes, once it is whole; in the middle of the fourth time it pauses the guest.
fn echo(listener: TcpListener, stopper: Arc<OnceLock<Stopper>>) {
    for (round, stream) in listener.incoming().enumerate() {
        let mut stream = stream.unwrap();
        let mut bytes = vec![0; ROUND_BYTES];
        let (first, second) = bytes.split_at_mut(ROUND_BYTES / 2);
        stream.read_exact(first).unwrap();
        if round == 3 {
            stopper.get().unwrap().pause();
        }
        stream.read_exact(second).unwrap();
        // The guest closes first, so that nothing is left here of what a copy believes to have.
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "more than was to come");
        stream.write_all(&bytes).unwrap();
    }
}

fn a_network_s_data_goes_on(kit: &Kit, backend: NetBackend) {
    let tap = open_tap("tare-test").unwrap();
    tare_container::raise_interface("tare-test", HOST.into(), 30).unwrap();
    // Who answers the guest before stays where it is.
    let port = PORT + backend as u16;
    let script = format!(
        "for i in 1 2 3 4 5 6; do head -c {ROUND_BYTES} /dev/urandom >/tmp/x; \
         until [ \"$(nc {host} {port} </tmp/x | sha256sum)\" = \"$(sha256sum </tmp/x)\" ]; \
         do echo again; done; echo round $i; done; echo all well",
        host = Ipv4Addr::from(HOST)
    );
    let mut job = Job::new(Channel::Com1, "run");
    job.command = ["sh", "-c", &script].map(str::to_owned).to_vec();
    job.network = Some(Network {
        interface: "eth0".to_owned(),
        mac: MAC,
        address: [198, 18, 0, 2],
        prefix: 30,
        gateway: None,
    });
    let (mut config, _disks) = machine(kit, job, None);
    config.nets = vec![NetConfig { tap: TapSource::Fd(tap.as_raw_fd()), backend, mac: MAC }];
    let directory = kit.new_scratch_dir().unwrap();
    let prepared = Prepared::new(&config).unwrap();
    let ear = Ear::new(None);
    let listener = TcpListener::bind((Ipv4Addr::from(HOST), port)).unwrap();
    let stopper = Arc::clone(&ear.stopper);
    // It ends with the test: a guest that it fails hangs, which is noticed.
    thread::spawn(move || echo(listener, stopper));
    let mut vmm = Vmm::launch(&prepared, Box::new(ear.clone())).unwrap();
    assert_eq!(ear.run(&mut vmm), End::Paused, "{}", ear.said());
    let capture = Capture::create(&directory.join("snapshot"), &prepared).unwrap();
    vmm.snapshot(&prepared, &capture).unwrap();
    let copies = with_copies(&config, &directory);
    println!("the network's guest is saved");
    assert!(ear.said().ends_with("round 3\n"), "it was to be in the midst of it: {}", ear.said());
    // The guest itself does not notice.
    assert_eq!(ear.run(&mut vmm), End::Reset, "{}", ear.said());
    assert!(ear.said().ends_with("all well\nexit 0\n"), "{}", ear.said());
    assert!(!ear.said().contains("again"), "{}", ear.said());
    drop(vmm);

    // Of the copy's connection the host knows nothing: that is reset, and the next is whole.
    let snapshot = Snapshot::open(&directory.join("snapshot"), &copies).unwrap();
    let ear = Ear::new(None);
    let mut vmm = Vmm::restore(&copies, &snapshot, Box::new(ear.clone())).unwrap();
    assert_eq!(ear.run(&mut vmm), End::Reset, "{}", ear.said());
    assert!(ear.said().contains("again\nround 4"), "{}", ear.said());
    assert!(ear.said().ends_with("all well\nexit 0\n"), "{}", ear.said());
}
