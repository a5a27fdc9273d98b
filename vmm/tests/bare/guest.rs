//! Guests of a few instructions in 64-bit mode, wrapped as ELF kernels.

use std::io::Write;
use std::sync::{Arc, Mutex};

use tare_vmm::{Config, Edge, Error, Observer, Outcome, Vmm};
use tempfile::NamedTempFile;

/// Where the code is, and the first address a kernel may have.
pub(crate) const CODE: u64 = 0x10_0000;

/// An ELF executable of one segment that holds `code`, with `bss` bytes after it.
pub(crate) fn elf(code: &[u8], bss: u64) -> Vec<u8> {
    const CODE_OFFSET: u64 = 0x1000;
    let mut file = Vec::new();
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [CODE, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    file.extend([1, 0, 0, 0, 7, 0, 0, 0]);
    let length = code.len() as u64;
    for word in [CODE_OFFSET, CODE, CODE, length, length + bss, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    file.resize(CODE_OFFSET as usize, 0);
    file.extend(code);
    file
}

/// `elf` in a file.
pub(crate) fn kernel(code: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("temporary file");
    file.write_all(&elf(code, 0)).expect("temporary file");
    file
}

/// What an observer saw.
#[derive(Debug, Default, Clone)]
pub(crate) struct Seen {
    pub(crate) edges: Vec<(Edge, u64)>,
    pub(crate) serial: Vec<(u64, Vec<u8>)>,
}

impl Seen {
    pub(crate) fn output(&self) -> Vec<u8> {
        self.serial.iter().flat_map(|(_, bytes)| bytes.clone()).collect()
    }
}

/// An observer that keeps what it sees where a test can look.
#[derive(Debug, Default, Clone)]
pub(crate) struct Recorder(Arc<Mutex<Seen>>);

impl Recorder {
    pub(crate) fn seen(&self) -> Seen {
        self.0.lock().expect("recorder").clone()
    }
}

impl Observer for Recorder {
    fn edge(&mut self, edge: Edge, at_ns: u64) {
        self.0.lock().expect("recorder").edges.push((edge, at_ns));
    }

    fn serial(&mut self, at_ns: u64, bytes: &[u8]) {
        self.0.lock().expect("recorder").serial.push((at_ns, bytes.to_vec()));
    }
}

/// Whether /dev/kvm can be used. Without it a test says so and passes, except where a complete
/// machine is promised (`CI=true`).
pub(crate) fn has_kvm(test: &str) -> bool {
    let there = std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
    if !there {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{test}: no /dev/kvm");
        // Past the capture of the test runner: what is skipped must be seen.
        let line = format_args!("SKIPPED {test}: no /dev/kvm\n");
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), line);
    }
    there
}

/// A VM with 16 MiB that runs `code`.
pub(crate) fn vmm(code: &[u8], adapt: impl FnOnce(&mut Config)) -> (Result<Vmm, Error>, Recorder) {
    let file = kernel(code);
    let mut config =
        Config { kernel: file.path().to_owned(), memory_bytes: 16 << 20, ..Config::default() };
    adapt(&mut config);
    let recorder = Recorder::default();
    (Vmm::new(&config, Box::new(recorder.clone())), recorder)
}

/// Runs `code` to its end.
pub(crate) fn run(code: &[u8]) -> (Result<Outcome, Error>, Seen) {
    let (vmm, recorder) = vmm(code, |_| {});
    let outcome = vmm.expect("a VM").run();
    (outcome, recorder.seen())
}
