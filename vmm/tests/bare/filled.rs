//! Guests in memory that was filled before their launch.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};

use tare_vmm::{
    Capture, Config, End, Error, Filled, MemoryError, Prepared, Snapshot, Streams, Touched, Vmm,
};

use crate::guest::{self, Recorder, has_kvm};
use crate::snapshot::{Parker, config};
use crate::{RESET, code};

/// Says what is at 2 MiB and at 8 MiB, and leaves `x` at both.
fn program() -> Vec<u8> {
    let look = |at: u8| {
        code(&[
            // mov dx, 0x3f8; mov al, [at << 16]; add al, '0'; out dx, al
            &[0x66, 0xba, 0xf8, 0x03, 0x8a, 0x04, 0x25, 0x00, 0x00, at, 0x00, 0x04, b'0', 0xee],
            // mov byte [at << 16], 'x'
            &[0xc6, 0x04, 0x25, 0x00, 0x00, at, 0x00, b'x'],
        ])
    };
    // mov dx, 0xe00; out dx, al
    let park = [0x66, 0xba, 0x00, 0x0e, 0xee];
    code(&[&look(0x20), &look(0x80), &park, &look(0x20), &RESET])
}

fn launch(prepared: &Prepared, filled: Filled, parker: &Parker) -> Vmm {
    let observer = Box::new(parker.clone());
    let vmm = Vmm::launch_in(prepared, filled, Streams::new(), observer).expect("a VM");
    parker.stopper.set(vmm.stopper()).expect("set once");
    vmm
}

/// Which pages a guest of this kind comes to.
fn touched(prepared: &Prepared) -> Touched {
    let mut vmm = Vmm::launch(prepared, Box::<Recorder>::default()).expect("a VM");
    assert_eq!(vmm.run().expect("an outcome").end, End::Reset);
    vmm.touched().expect("an answer")
}

fn is_mapped(name: &str) -> bool {
    fs::read_to_string("/proc/self/maps").expect("maps").contains(name)
}

#[test]
fn test_launch_in_each_guest_finds_its_memory_as_if_it_were_new() {
    if !has_kvm("test_launch_in_each_guest_finds_its_memory_as_if_it_were_new") {
        return;
    }
    let kernel = guest::kernel(&program());
    let prepared = Prepared::new(&config(kernel.path())).expect("a configuration");
    let touched = touched(&prepared);
    assert!(touched.bytes() >= 6 << 20, "boot data, 2 MiB and 8 MiB: {touched:?}");
    for touched in [Touched::default(), touched] {
        for _ in 0..2 {
            let filled = prepared.fill(&touched).expect("memory");
            assert!(filled.bytes() >= touched.bytes().max(2 << 20), "{filled:?}");
            let parker = Parker::default();
            let mut vmm = launch(&prepared, filled, &parker);
            assert_eq!(vmm.run().expect("an outcome").end, End::Paused);
            assert_eq!(vmm.run().expect("an outcome").end, End::Reset);
            let seen = parker.recorder.seen().output();
            assert_eq!(seen, [b'0', b'0', b'x' + b'0'], "zeros, and then what the guest wrote");
        }
    }
}

#[test]
fn test_snapshot_of_a_guest_in_filled_memory_has_what_nobody_has_come_to() {
    if !has_kvm("test_snapshot_of_a_guest_in_filled_memory") {
        return;
    }
    let kernel = guest::kernel(&program());
    let prepared = Prepared::new(&config(kernel.path())).expect("a configuration");
    let directory = tempfile::tempdir().expect("a directory");
    // One that has not run: none of its pages is in the page tables.
    for runs in [false, true] {
        let parker = Parker::default();
        let filled = prepared.fill(&Touched::default()).expect("memory");
        let mut vmm = launch(&prepared, filled, &parker);
        if runs {
            assert_eq!(vmm.run().expect("an outcome").end, End::Paused);
        }
        let directory = directory.path().join(runs.to_string());
        let capture = Capture::create(&directory, &prepared).expect("files");
        vmm.snapshot(&prepared, &capture).expect("a snapshot");
        drop(vmm);
        let snapshot = Snapshot::open(&directory, &prepared).expect("a snapshot");
        snapshot.verify().expect("a sound snapshot");
        let recorder = Recorder::default();
        let restored = Vmm::restore(&prepared, &snapshot, Box::new(recorder.clone()));
        assert_eq!(restored.expect("a VM").run().expect("an outcome").end, End::Reset);
        let all = [b'0', b'0', b'x' + b'0'];
        assert_eq!(recorder.seen().output(), all[if runs { 2 } else { 0 }..]);
    }
}

#[test]
fn test_launch_in_memory_of_another_configuration_returns_foreign() {
    if !has_kvm("test_launch_in_memory_of_another_configuration") {
        return;
    }
    let kernel = guest::kernel(&program());
    let config = config(kernel.path());
    let larger = Config { memory_bytes: 2 * config.memory_bytes, ..config.clone() };
    let (ours, others) = (Prepared::new(&config).unwrap(), Prepared::new(&larger).unwrap());
    let filled = others.fill(&Touched::default()).expect("memory");
    let launched = Vmm::launch_in(&ours, filled, Streams::new(), Box::<Recorder>::default());
    assert!(matches!(launched, Err(Error::Memory(MemoryError::Foreign))), "{launched:?}");
}

#[test]
fn test_fill_leaves_nothing_when_it_goes() {
    if !has_kvm("test_fill_leaves_nothing_when_it_goes") {
        return;
    }
    let kernel = guest::kernel(&program());
    // Of a size that no other test's has: they run beside this one.
    let config = Config { memory_bytes: 22 << 20, ..config(kernel.path()) };
    let prepared = Prepared::new(&config).expect("a configuration");
    let filled = prepared.fill(&Touched::default()).expect("memory");
    let link = format!("/proc/self/fd/{}", filled.as_fd().as_raw_fd());
    assert_eq!(fs::metadata(&link).expect("open").len(), 22 << 20);
    let inode = |link: &str| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(link).map(|metadata| metadata.ino()).ok()
    };
    let own = format!(" {} ", inode(&link).expect("open"));
    assert!(!is_mapped(&own), "this process has it mapped");
    let before = inode(&link);
    let vmm = Vmm::launch_in(&prepared, filled, Streams::new(), Box::<Recorder>::default());
    let vmm = vmm.expect("a VM");
    assert_ne!(inode(&link), before, "the launch closes it");
    assert!(is_mapped(&own));
    drop(vmm);
    assert!(!is_mapped(&own));
}
