//! A guest with its devices on threads that are confined, from the first to the last.

use std::os::fd::AsRawFd;
use std::thread;

use tare_vmm::{
    BalloonConfig, BlockConfig, BlockEngine, ConsoleConfig, End, Error, NetBackend, NetConfig,
    TapSource, VsockConfig, open_tap,
};

use crate::RESET;
use crate::guest::{has_kvm, vmm};

/// Were a system call of it forbidden, that would end this process by `SIGSYS`.
#[test]
fn test_confined_thread_runs_a_guest_with_every_device_and_ends() {
    if !has_kvm("test_confined_thread_runs_a_guest_with_every_device") {
        return;
    }
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(1 << 20).unwrap();
    let (input, _ours) = std::io::pipe().unwrap();
    let (_theirs, output) = std::io::pipe().unwrap();
    // Who may not make one has no network.
    let tap = open_tap("tare-confined").ok();
    let (vmm, _) = vmm(&RESET, |config| {
        let engine = BlockEngine::IoUring;
        config.blocks = vec![
            BlockConfig::new(disk.path()),
            BlockConfig { engine, ..BlockConfig::new(disk.path()) },
        ];
        config.rng = true;
        config.vsock = Some(VsockConfig { guest_cid: 3, path: None });
        config.balloon = Some(BalloonConfig::default());
        config.console = Some(ConsoleConfig {
            input: Some(input.as_raw_fd()),
            output: Some(output.as_raw_fd()),
            size: (80, 25),
        });
        let net = tap.iter().map(|tap| NetConfig {
            tap: TapSource::Fd(tap.as_raw_fd()),
            backend: NetBackend::User,
            mac: [2, 0, 0, 0, 0, 1],
        });
        config.nets = net.collect();
    });
    let mut vmm = vmm.unwrap();
    vmm.confine();
    let running = thread::spawn(move || {
        let outcome = vmm.run();
        drop(vmm);
        outcome
    });
    let outcome: Result<_, Error> = running.join().unwrap();
    assert_eq!(outcome.unwrap().end, End::Reset);
}
