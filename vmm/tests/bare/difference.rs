//! Guests that are saved as what differs from the snapshot they came from.

use std::path::Path;

use tare_vmm::{
    Capture, Config, End, Error, Prepared, Snapshot, SnapshotError, SnapshotFiles, Vmm,
};

use crate::code;
use crate::guest::{self, Recorder, has_kvm};
use crate::snapshot::{Parker, config, park};

/// Says `a`, parks; then, for ever, says the byte at 0x200000, adds one to it there, and parks.
fn counter() -> Vec<u8> {
    code(&[
        // mov byte [0x200000], 'b'; mov dx, 0x3f8; mov al, 'a'; out dx, al
        &[0xc6, 0x04, 0x25, 0x00, 0x00, 0x20, 0x00, b'b'],
        &[0x66, 0xba, 0xf8, 0x03, 0xb0, b'a', 0xee],
        // again: mov dx, 0xe00; out dx, al
        &[0x66, 0xba, 0x00, 0x0e, 0xee],
        // mov dx, 0x3f8; mov al, [0x200000]; out dx, al; inc byte [0x200000]
        &[0x66, 0xba, 0xf8, 0x03, 0x8a, 0x04, 0x25, 0x00, 0x00, 0x20, 0x00, 0xee],
        &[0xfe, 0x04, 0x25, 0x00, 0x00, 0x20, 0x00],
        // jmp again
        &[0xeb, 0xe6],
    ])
}

/// Restores a counter, runs it to where it parks next, and saves what differs; what it said.
fn save_difference(prepared: &Prepared, from: &Path, to: &Path) -> (Vec<u8>, u64) {
    let snapshot = Snapshot::open(from, prepared).expect("a snapshot");
    let parker = Parker::default();
    let mut vmm = Vmm::restore(prepared, &snapshot, Box::new(parker.clone())).expect("a VM");
    parker.stopper.set(vmm.stopper()).expect("set once");
    assert_eq!(vmm.run().expect("an outcome").end, End::Paused);
    let capture = Capture::difference(to, prepared, &snapshot).expect("files");
    let captured = vmm.snapshot(prepared, &capture).expect("a snapshot");
    (parker.recorder.seen().output(), captured.memory_bytes)
}

#[test]
fn test_differences_of_differences_go_on_and_merge_to_the_same() {
    if !has_kvm("test_differences_of_differences_go_on_and_merge_to_the_same") {
        return;
    }
    let kernel = guest::kernel(&counter());
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    let (prepared, _, _) = park(&config(kernel.path()), &at("0"));
    for (from, to, said) in [("0", "1", b"b"), ("1", "2", b"c"), ("2", "3", b"d")] {
        let (output, bytes) = save_difference(&prepared, &at(from), &at(to));
        assert_eq!(output, said);
        assert_eq!(bytes, 4096, "the one page that the guest changed");
    }
    SnapshotFiles::open(&at("3")).and_then(|files| files.verify()).expect("a chain");
    let files = SnapshotFiles::open(&at("3")).expect("files");
    let parent = files.describe().parent.expect("a parent");
    assert_eq!(parent.0, SnapshotFiles::open(&at("2")).expect("files").describe().id);
    files.rebase(&at("whole")).expect("merged");
    for name in ["0", "1", "2"] {
        std::fs::remove_dir_all(at(name)).expect("files");
    }
    assert!(Snapshot::open(&at("3"), &prepared).is_err());
    let whole = SnapshotFiles::open(&at("whole")).expect("files");
    whole.verify().expect("whole");
    assert_eq!(whole.describe().parent, None);
    assert_ne!(whole.describe().id, files.describe().id);
    assert_eq!(save_difference(&prepared, &at("whole"), &at("4")).0, b"e");
}

#[test]
fn test_difference_without_its_parent_is_refused_with_the_reason() {
    if !has_kvm("test_difference_without_its_parent_is_refused_with_the_reason") {
        return;
    }
    let kernel = guest::kernel(&counter());
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    let (prepared, mut first, _) = park(&config(kernel.path()), &at("parent"));
    save_difference(&prepared, &at("parent"), &at("child"));
    let refused = || {
        let error = Snapshot::open(&at("child"), &prepared).expect_err("refused");
        let files = SnapshotFiles::open(&at("child")).expect("files");
        assert_eq!(files.verify().expect_err("refused").to_string(), error.to_string());
        error
    };
    let aside = |from: &str, to: &str| std::fs::rename(at(from), at(to)).expect("a directory");
    aside("parent", "aside");
    let error = refused();
    assert!(matches!(error, SnapshotError::Parent { .. }), "{error}");
    assert!(error.to_string().contains("missing"), "{error}");
    // The same guest at the same point, and yet another snapshot.
    let capture = Capture::create(&at("parent"), &prepared).expect("files");
    first.snapshot(&prepared, &capture).expect("a snapshot");
    assert!(refused().to_string().contains("another one by now"), "{}", refused());
    std::fs::remove_dir_all(at("parent")).expect("files");
    park(&Config { memory_bytes: 32 << 20, ..config(kernel.path()) }, &at("parent"));
    assert!(refused().to_string().contains("another guest"), "{}", refused());
    std::fs::remove_dir_all(at("parent")).expect("files");
    aside("aside", "parent");
    // Damaged beneath.
    let memory = at("parent").join("memory");
    let good = std::fs::read(&memory).expect("a file");
    let mut bytes = good.clone();
    bytes[0x20_0000] ^= 1;
    std::fs::write(&memory, bytes).expect("a file");
    assert!(matches!(refused(), SnapshotError::Bad { .. }), "{}", refused());
    assert!(refused().to_string().contains("parent/memory"), "{}", refused());
    std::fs::write(&memory, good).expect("a file");
    Snapshot::open(&at("child"), &prepared).expect("all is well again");
    // Both moved: they are found beside each other.
    std::fs::create_dir(at("moved")).expect("a directory");
    aside("parent", "moved/parent");
    aside("child", "moved/child");
    Snapshot::open(&at("moved/child"), &prepared).expect("beside each other");
}

#[test]
fn test_difference_of_a_guest_from_elsewhere_is_refused() {
    if !has_kvm("test_difference_of_a_guest_from_elsewhere_is_refused") {
        return;
    }
    let kernel = guest::kernel(&counter());
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    let (prepared, mut booted, _) = park(&config(kernel.path()), &at("first"));
    let first = Snapshot::open(&at("first"), &prepared).expect("a snapshot");
    let refused = |vmm: &mut Vmm, to: &str| {
        let capture = Capture::difference(&at(to), &prepared, &first).expect("files");
        let error = vmm.snapshot(&prepared, &capture).expect_err("refused");
        assert!(matches!(error, Error::Snapshot(SnapshotError::Origin { .. })), "{error}");
        let error = SnapshotFiles::open(&at(to)).expect_err("not finished");
        assert!(matches!(error, SnapshotError::Unfinished { .. }), "{error}");
    };
    // It is the guest that the snapshot was taken of, and does not come from it.
    refused(&mut booted, "booted");
    save_difference(&prepared, &at("first"), &at("second"));
    let second = Snapshot::open(&at("second"), &prepared).expect("a snapshot");
    let mut vmm = Vmm::restore(&prepared, &second, Box::new(Recorder::default())).expect("a VM");
    refused(&mut vmm, "other");
}
