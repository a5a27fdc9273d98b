//! Guests that are paused and run on.

use std::sync::{Arc, OnceLock};
use std::thread;

use tare_vmm::{Config, Edge, End, Observer, Stopper, Vmm};

use crate::guest::{self, has_kvm, vmm};
use crate::{RESET, code};

/// Pauses the guest at each `p` that it writes.
struct Pauser {
    recorder: guest::Recorder,
    stopper: Arc<OnceLock<Stopper>>,
}

impl Observer for Pauser {
    fn edge(&mut self, edge: Edge, at_ns: u64) {
        self.recorder.edge(edge, at_ns);
    }

    fn serial(&mut self, at_ns: u64, bytes: &[u8]) {
        self.recorder.serial(at_ns, bytes);
        if bytes.contains(&b'p') {
            self.stopper.get().unwrap().pause();
        }
    }
}

#[test]
fn test_pause_by_observer_stands_behind_the_byte_and_goes_on_from_there() {
    if !has_kvm("test_pause_by_observer_stands_behind_the_byte_and_goes_on_from_there") {
        return;
    }
    // mov dx, 0x3f8; mov al, 'p'; out dx, al; inc eax; out dx, al; dec eax; out dx, al
    let say = [0x66, 0xba, 0xf8, 0x03, 0xb0, b'p', 0xee, 0xff, 0xc0, 0xee, 0xff, 0xc8, 0xee];
    let kernel = guest::kernel(&code(&[&say, &RESET]));
    let config =
        Config { kernel: kernel.path().to_owned(), memory_bytes: 16 << 20, ..Config::default() };
    let (recorder, stopper) = (guest::Recorder::default(), Arc::default());
    let pauser = Pauser { recorder: recorder.clone(), stopper: Arc::clone(&stopper) };
    let mut vmm = Vmm::new(&config, Box::new(pauser)).unwrap();
    stopper.set(vmm.stopper()).unwrap();
    assert_eq!(vmm.run().unwrap().end, End::Paused);
    assert_eq!(recorder.seen().output(), b"p");
    assert_eq!(vmm.run().unwrap().end, End::Paused);
    assert_eq!(recorder.seen().output(), b"pqp");
    // On another thread than before.
    let outcome = thread::spawn(move || vmm.run()).join().unwrap().unwrap();
    assert_eq!(outcome.end, End::Reset);
    let edges: Vec<_> = recorder.seen().edges.iter().map(|(edge, _)| *edge).collect();
    assert_eq!(edges, [Edge::Created, Edge::Loaded, Edge::Enter, Edge::FirstExit, Edge::End]);
}

#[test]
fn test_pause_from_thread_returns_paused_again_and_again_until_stop() {
    if !has_kvm("test_pause_from_thread_returns_paused_again_and_again_until_stop") {
        return;
    }
    for vcpus in [1, 4] {
        let (vmm, _) = vmm(&[0xeb, 0xfe], |config| config.vcpus = vcpus);
        let mut vmm = vmm.unwrap();
        let stopper = vmm.stopper();
        for _ in 0..20 {
            let other = stopper.clone();
            let asker = thread::spawn(move || other.pause());
            assert_eq!(vmm.run().unwrap().end, End::Paused);
            asker.join().unwrap();
        }
        stopper.stop();
        stopper.pause();
        assert_eq!(vmm.run().unwrap().end, End::Stopped);
    }
}
