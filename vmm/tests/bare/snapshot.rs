//! Guests that go on from a snapshot.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use tare_vmm::{
    BlockConfig, Capture, Config, Edge, End, Error, Observer, Pages, Prepared, Snapshot,
    SnapshotError, SnapshotFiles, Stopper, Vmm,
};

use crate::guest::{self, Recorder, has_kvm};
use crate::{RESET, code};

/// Pauses the guest where it parks.
#[derive(Default, Clone)]
pub(crate) struct Parker {
    pub(crate) recorder: Recorder,
    pub(crate) stopper: Arc<OnceLock<Stopper>>,
}

impl Observer for Parker {
    fn edge(&mut self, edge: Edge, at_ns: u64) {
        self.recorder.edge(edge, at_ns);
    }

    fn serial(&mut self, at_ns: u64, bytes: &[u8]) {
        self.recorder.serial(at_ns, bytes);
    }

    fn parked(&mut self, _at_ns: u64) {
        if let Some(stopper) = self.stopper.get() {
            stopper.pause();
        }
    }
}

/// Says `a`, keeps `b` in memory and `c` in a register, parks, and says both, and 16 bytes of its
/// new identity.
fn program() -> Vec<u8> {
    code(&[
        // mov byte [0x200000], 'b'; mov bl, 'c'; mov dx, 0x3f8; mov al, 'a'; out dx, al
        &[0xc6, 0x04, 0x25, 0x00, 0x00, 0x20, 0x00, b'b', 0xb3, b'c'],
        &[0x66, 0xba, 0xf8, 0x03, 0xb0, b'a', 0xee],
        // mov dx, 0xe00; out dx, al
        &[0x66, 0xba, 0x00, 0x0e, 0xee],
        // mov edi, 0x300000; mov ecx, 16; rep insb
        &[0xbf, 0x00, 0x00, 0x30, 0x00, 0xb9, 16, 0, 0, 0, 0xf3, 0x6c],
        // mov dx, 0x3f8; mov al, [0x200000]; out dx, al; inc byte [0x200000]
        &[0x66, 0xba, 0xf8, 0x03, 0x8a, 0x04, 0x25, 0x00, 0x00, 0x20, 0x00, 0xee],
        &[0xfe, 0x04, 0x25, 0x00, 0x00, 0x20, 0x00],
        // mov al, bl; out dx, al; mov al, [0x200000]; out dx, al
        &[0x88, 0xd8, 0xee, 0x8a, 0x04, 0x25, 0x00, 0x00, 0x20, 0x00, 0xee],
        // mov esi, 0x300000; mov ecx, 16; rep outsb
        &[0xbe, 0x00, 0x00, 0x30, 0x00, 0xb9, 16, 0, 0, 0, 0xf3, 0x6e],
        &RESET,
    ])
}

pub(crate) fn config(kernel: &Path) -> Config {
    Config { kernel: kernel.to_owned(), memory_bytes: 16 << 20, ..Config::default() }
}

/// Runs a guest of `config` to where it parks, and takes a snapshot; it can be run on.
pub(crate) fn park(config: &Config, directory: &Path) -> (Prepared, Vmm, Parker) {
    let prepared = Prepared::new(config).expect("a configuration");
    let parker = Parker::default();
    let mut vmm = Vmm::launch(&prepared, Box::new(parker.clone())).expect("a VM");
    parker.stopper.set(vmm.stopper()).expect("set once");
    assert_eq!(vmm.run().expect("an outcome").end, End::Paused);
    let capture = Capture::create(directory, &prepared).expect("files");
    let captured = vmm.snapshot(&prepared, &capture).expect("a snapshot");
    assert!((1..1 << 20).contains(&captured.memory_bytes), "{captured:?}");
    (prepared, vmm, parker)
}

/// Restores once; what the guest says.
fn restore(prepared: &Prepared, snapshot: &Snapshot) -> Vec<u8> {
    let recorder = Recorder::default();
    let mut vmm = Vmm::restore(prepared, snapshot, Box::new(recorder.clone())).expect("a VM");
    assert_eq!(vmm.run().expect("an outcome").end, End::Reset);
    let edges: Vec<_> = recorder.seen().edges.iter().map(|(edge, _)| *edge).collect();
    assert_eq!(edges, [Edge::Created, Edge::Loaded, Edge::Enter, Edge::FirstExit, Edge::End]);
    recorder.seen().output()
}

#[test]
fn test_restore_goes_on_as_often_as_wanted_each_with_its_own_identity() {
    if !has_kvm("test_restore_goes_on_as_often_as_wanted_each_with_its_own_identity") {
        return;
    }
    for pages in [Pages::Thp, Pages::Small] {
        let kernel = guest::kernel(&program());
        let directory = tempfile::tempdir().expect("a directory");
        let directory = directory.path().join("snapshot");
        let config = Config { pages, ..config(kernel.path()) };
        let (prepared, mut vmm, parker) = park(&config, &directory);
        let snapshot = Snapshot::open(&directory, &prepared).expect("a snapshot");
        let first = restore(&prepared, &snapshot);
        let second = restore(&prepared, &snapshot);
        // The guest that the snapshot was taken of goes on, too.
        assert_eq!(vmm.run().expect("an outcome").end, End::Reset);
        let original = parker.recorder.seen().output();
        assert_eq!(original[0], b'a');
        for output in [&first, &second, &original[1..].to_vec()] {
            assert_eq!(&output[..3], b"bcc");
            assert_eq!(output.len(), 3 + 16);
        }
        assert_ne!(first[3..], second[3..]);
        assert_ne!(first[3..], original[4..]);
    }
}

#[test]
fn test_restore_of_a_snapshot_of_a_restored_guest() {
    if !has_kvm("test_restore_of_a_snapshot_of_a_restored_guest") {
        return;
    }
    let kernel = guest::kernel(&program());
    let directory = tempfile::tempdir().expect("a directory");
    let first = directory.path().join("first");
    let (prepared, _, _) = park(&config(kernel.path()), &first);
    let snapshot = Snapshot::open(&first, &prepared).expect("a snapshot");
    let mut vmm = Vmm::restore(&prepared, &snapshot, Box::new(Recorder::default())).expect("a VM");
    let second = directory.path().join("second");
    let capture = Capture::create(&second, &prepared).expect("files");
    vmm.snapshot(&prepared, &capture).expect("a snapshot");
    let snapshot = Snapshot::open(&second, &prepared).expect("a snapshot");
    assert_eq!(&restore(&prepared, &snapshot)[..3], b"bcc");
    let memory = |path: &Path| std::fs::read(path.join("memory")).expect("memory");
    assert!(memory(&first) == memory(&second));
}

#[test]
fn test_restore_with_several_vcpus_runs_each_on() {
    if !has_kvm("test_restore_with_several_vcpus_runs_each_on") {
        return;
    }
    let kernel = guest::kernel(&program());
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("snapshot");
    let (prepared, _, _) = park(&Config { vcpus: 4, ..config(kernel.path()) }, &path);
    let snapshot = Snapshot::open(&path, &prepared).expect("a snapshot");
    assert_eq!(&restore(&prepared, &snapshot)[..3], b"bcc");
}

#[test]
fn test_open_of_another_machine_names_the_difference() {
    if !has_kvm("test_open_of_another_machine_names_the_difference") {
        return;
    }
    let kernel = guest::kernel(&program());
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("snapshot");
    let config = config(kernel.path());
    park(&config, &path);
    let refused = |config: Config| {
        let prepared = Prepared::new(&config).expect("a configuration");
        let error = Snapshot::open(&path, &prepared).expect_err("another machine");
        assert!(matches!(error, SnapshotError::Different { .. }), "{error}");
        error.to_string()
    };
    assert!(refused(Config { memory_bytes: 32 << 20, ..config.clone() }).contains("33554432"));
    assert!(refused(Config { vcpus: 2, ..config.clone() }).contains("vCPUs"));
    assert!(refused(Config { rng: true, ..config.clone() }).contains("devices"));
    assert!(refused(Config { cmdline: "x".to_owned(), ..config.clone() }).contains("command line"));
    let other = guest::kernel(&RESET);
    assert!(refused(Config { kernel: other.path().to_owned(), ..config }).contains("kernel"));
}

#[test]
fn test_open_of_damaged_files_is_refused_with_the_reason() {
    if !has_kvm("test_open_of_damaged_files_is_refused_with_the_reason") {
        return;
    }
    let kernel = guest::kernel(&program());
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("snapshot");
    let (prepared, _, _) = park(&config(kernel.path()), &path);
    let refused = |file: &str, damage: fn(&mut Vec<u8>)| {
        let file = path.join(file);
        let good = std::fs::read(&file).expect("a file");
        let mut bytes = good.clone();
        damage(&mut bytes);
        std::fs::write(&file, bytes).expect("a file");
        let opened = Snapshot::open(&path, &prepared);
        let error = opened.and_then(|snapshot| snapshot.verify()).expect_err("damaged");
        std::fs::write(&file, good).expect("a file");
        error.to_string()
    };
    let message = refused("memory", |bytes| bytes[0x20_0000] ^= 1);
    assert!(message.contains("memory") && message.contains("checksum"), "{message}");
    let message = refused("memory", |bytes| bytes.truncate(4096));
    assert!(message.contains("has 4096 bytes"), "{message}");
    let message = refused("state", |bytes| bytes[100] ^= 1);
    assert!(message.contains("state") && message.contains("checksum"), "{message}");
    let message = refused("state", |bytes| bytes[8] = 1);
    assert!(message.contains("version 1"), "{message}");
    let message = refused("state", Vec::clear);
    assert!(message.contains("no snapshot"), "{message}");
    let snapshot = Snapshot::open(&path, &prepared).expect("it was not the path");
    snapshot.verify().expect("nor the memory");
    // Only `state.partial` is there until everything is written.
    std::fs::rename(path.join("state"), path.join("state.partial")).expect("a file");
    let error = Snapshot::open(&path, &prepared).expect_err("unfinished");
    assert!(matches!(error, SnapshotError::Unfinished { .. }), "{error}");
    std::fs::rename(path.join("state.partial"), path.join("state")).expect("a file");
    let again = Capture::create(&path, &prepared);
    assert!(matches!(again, Err(SnapshotError::File { .. })), "nothing is overwritten");
    let none = Snapshot::open(&directory.path().join("none"), &prepared);
    assert!(matches!(none.map_err(Error::from), Err(Error::Snapshot(SnapshotError::File { .. }))));
}

#[test]
fn test_record_finds_what_a_guest_touches_and_restores_fetch_it() {
    let name = "test_record_finds_what_a_guest_touches_and_restores_fetch_it";
    if !has_kvm(name) {
        return;
    }
    let kernel = guest::kernel(&program());
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("snapshot");
    let (prepared, _, _) = park(&config(kernel.path()), &path);
    let mut snapshot = Snapshot::open(&path, &prepared).expect("a snapshot");
    let recorder = Recorder::default();
    let recorded = Vmm::record(&prepared, &snapshot, Box::new(recorder.clone()));
    let (mut vmm, recording) = match recorded {
        Err(Error::Snapshot(SnapshotError::Record(error)))
            if std::env::var("CI").as_deref() != Ok("true") =>
        {
            let line = format_args!("SKIPPED {name}: no userfaultfd: {error}\n");
            return std::io::Write::write_fmt(&mut std::io::stderr(), line).expect("a line");
        }
        other => other.expect("a VM"),
    };
    assert_eq!(vmm.run().expect("an outcome").end, End::Reset);
    assert_eq!(&recorder.seen().output()[..3], b"bcc");
    let set = vmm.recorded(recording).expect("a working set");
    // It writes a page of its own and one for its identity, and reads code and page tables.
    let (written, read) = set.bytes();
    assert!((2 * 4096..=4 * 4096).contains(&written), "{written}");
    assert!((2 * 4096..=8 * 4096).contains(&read), "{read}");
    set.save(&path).expect("a file");
    snapshot = Snapshot::open(&path, &prepared).expect("a snapshot");
    assert_eq!(snapshot.working_set(), Some(&set));
    assert_eq!(&restore(&prepared, &snapshot)[..3], b"bcc");
    // In memory, without the files.
    snapshot.hold().expect("memory");
    std::fs::remove_dir_all(&path).expect("files");
    assert_eq!(&restore(&prepared, &snapshot)[..3], b"bcc");
    assert_eq!(&restore(&prepared, &snapshot)[..3], b"bcc");
}

/// Changes a byte of a section of `state`, and puts the right checksum behind it.
fn change_section(path: &Path, kind: u32, at: usize) {
    let mut bytes = std::fs::read(path).expect("a file");
    let number = |bytes: &[u8], at: usize| {
        u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
    };
    let mut head = 16;
    while number(&bytes, head) != kind {
        head += 16 + number(&bytes, head + 8) as usize;
    }
    bytes[head + 16 + at] ^= 1;
    let body = bytes.len() - 4;
    let checksum = crc32fast::hash(&bytes[..body]);
    bytes[body..].copy_from_slice(&checksum.to_le_bytes());
    std::fs::write(path, bytes).expect("a file");
}

#[test]
fn test_open_on_another_processor_names_the_leaf() {
    if !has_kvm("test_open_on_another_processor_names_the_leaf") {
        return;
    }
    let kernel = guest::kernel(&program());
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("snapshot");
    let (prepared, _, _) = park(&config(kernel.path()), &path);
    // The first entry is leaf 0; its EAX is behind function, index and flags.
    const CPUID: u32 = 2;
    change_section(&path.join("state"), CPUID, 12);
    let error = Snapshot::open(&path, &prepared).expect_err("another processor");
    assert!(matches!(error, SnapshotError::Different { .. }), "{error}");
    assert!(error.to_string().contains("CPUID leaf 0x0"), "{error}");
}

#[test]
fn test_writer_killed_at_any_moment_leaves_what_is_whole_or_refused() {
    if !has_kvm("test_writer_killed_at_any_moment_leaves_what_is_whole_or_refused") {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let (mut whole, mut refused) = (0, 0);
    for round in 0..12 {
        let at = directory.path().join(round.to_string());
        std::fs::create_dir(&at).expect("a directory");
        let program = std::env::current_exe().expect("this program");
        let mut writer = std::process::Command::new(program)
            .args(["--ignored", "--exact", "snapshot::inside_a_child_snapshots_are_taken_for_ever"])
            .env("TARE_TEST_SNAPSHOTS", &at)
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("a child");
        while !at.join("2").exists() {
            assert_eq!(writer.try_wait().expect("a child"), None, "it goes on for ever");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        std::thread::sleep(std::time::Duration::from_micros(700 * round));
        writer.kill().expect("a child");
        writer.wait().expect("a child");
        for entry in std::fs::read_dir(&at).expect("a directory") {
            let entry = entry.expect("an entry").path();
            match SnapshotFiles::open(&entry) {
                Ok(files) => {
                    files.verify().expect("what has a state is whole");
                    whole += 1;
                }
                Err(SnapshotError::Unfinished { .. }) => refused += 1,
                // Killed before the first file.
                Err(SnapshotError::File { .. }) => {
                    assert!(!entry.join("state").exists(), "{}", entry.display());
                    refused += 1;
                }
                Err(error) => panic!("{}: {error}", entry.display()),
            }
        }
    }
    assert!(whole >= 24 && refused >= 1, "whole: {whole}, refused: {refused}");
}

#[test]
#[ignore = "never ends: test_writer_killed_at_any_moment_leaves_what_is_whole_or_refused runs it"]
fn inside_a_child_snapshots_are_taken_for_ever() {
    let Some(directory) = std::env::var_os("TARE_TEST_SNAPSHOTS") else { return };
    let kernel = guest::kernel(&program());
    let at = |number: u32| Path::new(&directory).join(number.to_string());
    let (prepared, mut vmm, _) = park(&config(kernel.path()), &at(0));
    for number in 1.. {
        let capture = Capture::create(&at(number), &prepared).expect("files");
        vmm.snapshot(&prepared, &capture).expect("a snapshot");
    }
}

#[test]
fn test_restore_with_another_kind_of_device_is_refused() {
    if !has_kvm("test_restore_with_another_kind_of_device_is_refused") {
        return;
    }
    let kernel = guest::kernel(&program());
    let disk = tempfile::NamedTempFile::new().expect("a file");
    disk.as_file().set_len(1 << 20).expect("a size");
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("snapshot");
    let config = Config { rng: true, ..config(kernel.path()) };
    park(&config, &path);
    let block = BlockConfig::new(disk.path());
    let config = Config { rng: false, blocks: vec![block], ..config };
    let prepared = Prepared::new(&config).expect("a configuration");
    let snapshot = Snapshot::open(&path, &prepared).expect("as many devices");
    let restored = Vmm::restore(&prepared, &snapshot, Box::new(Recorder::default()));
    let error = restored.expect_err("a disk is no source of random bytes");
    assert!(error.to_string().contains("virtio device 0"), "{error}");
}
