//! Bare guests on this machine's /dev/kvm: each exit that ends or feeds the VMM, by a few
//! hand-assembled instructions.

mod confined;
mod difference;
mod filled;
mod guest;
mod pause;
mod snapshot;

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use guest::{has_kvm, run, vmm};
use tare_vmm::{BlockConfig, CpuError, CpuProfile, Edge, End, Error, VcpuError};

/// mov al, 0xfe; out 0x64, al
const RESET: [u8; 4] = [0xb0, 0xfe, 0xe6, 0x64];

fn code(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

#[test]
fn test_run_reset_command_ends_with_reset_and_all_edges() {
    if !has_kvm("test_run_reset_command_ends_with_reset_and_all_edges") {
        return;
    }
    let (outcome, seen) = run(&RESET);
    let outcome = outcome.unwrap();
    assert_eq!(outcome.end, End::Reset);
    assert_eq!(outcome.exits.port_out, 1);
    assert_eq!(outcome.exits.total(), 1);
    let edges: Vec<_> = seen.edges.iter().map(|(edge, _)| *edge).collect();
    assert_eq!(edges, [Edge::Created, Edge::Loaded, Edge::Enter, Edge::FirstExit, Edge::End]);
    assert!(seen.edges.is_sorted_by_key(|(_, at_ns)| *at_ns));
}

#[test]
fn test_run_serial_bytes_reach_observer_in_order_with_stamps() {
    if !has_kvm("test_run_serial_bytes_reach_observer_in_order_with_stamps") {
        return;
    }
    // mov dx, 0x3f8; mov al, 0xf8; out dx, al; mov al, 'h'; out dx, al
    let say = [0x66, 0xba, 0xf8, 0x03, 0xb0, 0xf8, 0xee, 0xb0, b'h', 0xee];
    let (outcome, seen) = run(&code(&[&say, &RESET]));
    assert_eq!(outcome.unwrap().exits.serial, 2);
    assert_eq!(seen.output(), [0xf8, b'h']);
    let (enter, end) = (seen.edges[2].1, seen.edges[4].1);
    assert!(seen.serial.iter().all(|(at_ns, _)| (enter..=end).contains(at_ns)));
    assert!(seen.serial.is_sorted_by_key(|(at_ns, _)| *at_ns));
}

#[test]
fn test_run_divisor_latch_writes_are_not_output() {
    if !has_kvm("test_run_divisor_latch_writes_are_not_output") {
        return;
    }
    let set_lcr = |value| [0x66, 0xba, 0xfb, 0x03, 0xb0, value, 0xee];
    let say = |value| [0x66, 0xba, 0xf8, 0x03, 0xb0, value, 0xee];
    let parts: [&[u8]; 5] = [&set_lcr(0x83), &say(1), &set_lcr(3), &say(b'x'), &RESET];
    let (outcome, seen) = run(&code(&parts));
    assert_eq!(seen.output(), b"x");
    assert_eq!(outcome.unwrap().exits.serial, 1);
}

#[test]
fn test_run_string_output_arrives_whole_and_in_order() {
    if !has_kvm("test_run_string_output_arrives_whole_and_in_order") {
        return;
    }
    // mov dx, 0x3f8; mov esi, CODE + 0x20; mov ecx, 700; rep outsb
    let head = [
        0x66, 0xba, 0xf8, 0x03, 0xbe, 0x20, 0x00, 0x10, 0x00, 0xb9, 0xbc, 0x02, 0x00, 0x00, 0xf3,
        0x6e,
    ];
    let mut program = code(&[&head, &RESET]);
    program.resize(0x20, 0x90);
    let text: Vec<u8> = (0..700).map(|index| index as u8).collect();
    program.extend(&text);
    let (outcome, seen) = run(&program);
    let outcome = outcome.unwrap();
    assert_eq!(seen.output(), text);
    // How many bytes an exit carries is KVM's choice: one, or as many as fit a page.
    assert!((1..=700).contains(&outcome.exits.serial));
    eprintln!("700 bytes by `rep outsb` took {} exits", outcome.exits.serial);
}

#[test]
fn test_run_wide_output_arrives_whole() {
    if !has_kvm("test_run_wide_output_arrives_whole") {
        return;
    }
    // mov dx, 0x3f8; mov eax, 'abcd'; out dx, eax
    let say = [0x66, 0xba, 0xf8, 0x03, 0xb8, b'a', b'b', b'c', b'd', 0xef];
    let (outcome, seen) = run(&code(&[&say, &RESET]));
    assert_eq!(outcome.unwrap().exits.serial, 1);
    assert_eq!(seen.output(), b"abcd");
}

#[test]
fn test_run_triple_fault_ends_with_triple_fault() {
    if !has_kvm("test_run_triple_fault_ends_with_triple_fault") {
        return;
    }
    // ud2, without an IDT
    let (outcome, _) = run(&[0x0f, 0x0b]);
    assert_eq!(outcome.unwrap().end, End::TripleFault);
}

#[test]
fn test_run_unknown_ports_and_memory_read_all_ones() {
    if !has_kvm("test_run_unknown_ports_and_memory_read_all_ones") {
        return;
    }
    let program = code(&[
        // mov dx, 0x3f8
        &[0x66, 0xba, 0xf8, 0x03],
        // in al, 0x99; out dx, al; out 0x99, al
        &[0xe4, 0x99, 0xee, 0xe6, 0x99],
        // mov ebx, 0x03fff000 (no RAM in 16 MiB); mov eax, [rbx]; out dx, eax; mov [rbx], eax
        &[0xbb, 0x00, 0xf0, 0xff, 0x03, 0x8b, 0x03, 0xef, 0x89, 0x03],
        // in al, 0x64; out dx, al: the keyboard controller's status
        &[0xe4, 0x64, 0xee],
        &RESET,
    ]);
    let (outcome, seen) = run(&program);
    let exits = outcome.unwrap().exits;
    assert_eq!(seen.output(), [0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
    assert_eq!((exits.mmio_read, exits.mmio_write, exits.port_in), (1, 1, 2));
}

#[test]
fn test_run_block_device_answers_at_its_address() {
    if !has_kvm("test_run_block_device_answers_at_its_address") {
        return;
    }
    let program = code(&[
        // PDPT[3] = 0x30000, and there PD[128] = 0xd0000000, both present and writable:
        // mov dword [0xa018], 0x30003; mov dword [0x30400], 0xd0000083
        &[0xc7, 0x04, 0x25, 0x18, 0xa0, 0x00, 0x00, 0x03, 0x00, 0x03, 0x00],
        &[0xc7, 0x04, 0x25, 0x00, 0x04, 0x03, 0x00, 0x83, 0x00, 0x00, 0xd0],
        // mov dx, 0x3f8; mov ebx, 0xd0000000
        &[0x66, 0xba, 0xf8, 0x03, 0xbb, 0x00, 0x00, 0x00, 0xd0],
        // mov eax, [rbx]; out dx, eax: the magic number
        &[0x8b, 0x03, 0xef],
        // mov eax, [rbx + 0x100]; out dx, eax: the capacity in sectors
        &[0x8b, 0x83, 0x00, 0x01, 0x00, 0x00, 0xef],
        // mov eax, [rbx + 0x1000]; out dx, eax: where a second device would be
        &[0x8b, 0x83, 0x00, 0x10, 0x00, 0x00, 0xef],
        &RESET,
    ]);
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(0x1234 * 512).unwrap();
    let block = BlockConfig::new(disk.path());
    let (vmm, recorder) = vmm(&program, |config| config.blocks.push(block));
    let outcome = vmm.unwrap().run().unwrap();
    // The device's registers are read without an exit.
    assert_eq!(outcome.exits.mmio_read, 1);
    let output = recorder.seen().output();
    assert_eq!(output, [&b"virt"[..], &[0x34, 0x12, 0, 0], &[0xff; 4]].concat());
}

#[test]
fn test_stop_ends_a_spinning_guest() {
    if !has_kvm("test_stop_ends_a_spinning_guest") {
        return;
    }
    stop_after(&[0xeb, 0xfe], Duration::from_millis(50));
}

#[test]
fn test_stop_ends_a_halted_guest() {
    if !has_kvm("test_stop_ends_a_halted_guest") {
        return;
    }
    // hlt with interrupts off: nothing in the guest can wake it.
    stop_after(&[0xf4, 0xeb, 0xfd], Duration::from_millis(50));
}

#[test]
fn test_stop_at_any_moment_is_never_lost() {
    if !has_kvm("test_stop_at_any_moment_is_never_lost") {
        return;
    }
    for delay_us in (0..200).step_by(10) {
        // A guest that leaves all the time: in al, 0x99; jmp
        stop_after(&[0xe4, 0x99, 0xeb, 0xfc], Duration::from_micros(delay_us));
    }
}

fn stop_after(code: &[u8], delay: Duration) {
    let (vmm, recorder) = vmm(code, |_| {});
    let mut vmm = vmm.unwrap();
    let stopper = vmm.stopper();
    let guest = thread::spawn(move || vmm.run());
    thread::sleep(delay);
    let asked = Instant::now();
    stopper.stop();
    let outcome = guest.join().unwrap().unwrap();
    assert_eq!(outcome.end, End::Stopped);
    assert!(asked.elapsed() < Duration::from_secs(5));
    assert_eq!(recorder.seen().edges.last().map(|(edge, _)| *edge), Some(Edge::End));
    stopper.stop();
}

#[test]
fn test_run_other_signals_do_not_end_it() {
    if !has_kvm("test_run_other_signals_do_not_end_it") {
        return;
    }
    let (vmm, recorder) = vmm(&[0xeb, 0xfe], |_| {});
    let mut vmm = vmm.unwrap();
    let stopper = vmm.stopper();
    let (sender, receiver) = mpsc::channel();
    let guest = thread::spawn(move || {
        // SAFETY: a system call without arguments.
        sender.send(unsafe { libc::gettid() }).unwrap();
        vmm.run()
    });
    let thread = receiver.recv().unwrap();
    // The handler is there from this edge on.
    while !recorder.seen().edges.iter().any(|(edge, _)| *edge == Edge::Enter) {
        thread::sleep(Duration::from_millis(1));
    }
    for _ in 0..3 {
        // SAFETY: system calls on plain numbers; the signal has a handler.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, libc::SIGRTMIN()) };
        thread::sleep(Duration::from_millis(20));
    }
    assert!(!guest.is_finished());
    stopper.stop();
    let outcome = guest.join().unwrap().unwrap();
    assert_eq!(outcome.end, End::Stopped);
    assert!(outcome.exits.interrupted >= 2);
}

#[test]
fn test_run_code_outside_memory_returns_error_with_place() {
    if !has_kvm("test_run_code_outside_memory_returns_error_with_place") {
        return;
    }
    // mov eax, 0x03fff000; jmp rax
    let (outcome, _) = run(&[0xb8, 0x00, 0xf0, 0xff, 0x03, 0xff, 0xe0]);
    let error = outcome.unwrap_err();
    assert!(matches!(error, Error::Vcpu(VcpuError::Internal { rip: 0x03ff_f000, .. })), "{error}");
    assert!(error.to_string().contains("0x3fff000"), "{error}");
}

#[test]
fn test_stop_before_run_returns_stopped() {
    if !has_kvm("test_stop_before_run_returns_stopped") {
        return;
    }
    let (vmm, _) = vmm(&[0xeb, 0xfe], |_| {});
    let mut vmm = vmm.unwrap();
    vmm.stopper().stop();
    assert_eq!(vmm.run().unwrap().end, End::Stopped);
}

#[test]
fn test_launch_eight_portable_vcpus_runs_the_first() {
    if !has_kvm("test_launch_eight_portable_vcpus_runs_the_first") {
        return;
    }
    for (vcpus, profile) in [(8, CpuProfile::Host), (8, CpuProfile::Portable)] {
        let (vmm, _) = vmm(&RESET, |config| {
            config.vcpus = vcpus;
            config.cpu_profile = profile;
        });
        match vmm {
            Ok(mut vmm) => assert_eq!(vmm.run().expect("an outcome").end, End::Reset),
            // A host that lacks a part of the profile must say which.
            Err(Error::Cpu(CpuError::Missing { feature })) => {
                assert!(profile == CpuProfile::Portable && !feature.is_empty());
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Where the other processors start (in real mode, so below 1 MiB), and what they count in.
const TRAMPOLINE: u32 = 0x3_0000;
const COUNTER: u32 = TRAMPOLINE + 0x800;

#[test]
fn test_run_four_vcpus_started_by_the_first_all_run() {
    if !has_kvm("test_run_four_vcpus_started_by_the_first_all_run") {
        return;
    }
    // mov ax, 0x3000; mov ds, ax; lock inc dword [0x800]; hlt; jmp to the hlt
    let tramp =
        [0xb8, 0x00, 0x30, 0x8e, 0xd8, 0xf0, 0x66, 0xff, 0x06, 0x00, 0x08, 0xf4, 0xeb, 0xfd];
    let icr = |command: u32| {
        // mov ecx, 0x830; mov eax, command; xor edx, edx; wrmsr
        let mut code = vec![0xb9, 0x30, 0x08, 0x00, 0x00, 0xb8];
        code.extend(command.to_le_bytes());
        code.extend([0x31, 0xd2, 0x0f, 0x30]);
        code
    };
    let mut copy = Vec::new();
    for (index, byte) in (0_u32..).zip(tramp) {
        // mov byte [TRAMPOLINE + index], byte
        copy.extend([0xc6, 0x04, 0x25]);
        copy.extend((TRAMPOLINE + index).to_le_bytes());
        copy.push(byte);
    }
    // mov ecx, 0x1b; rdmsr; or eax, 0xc00; wrmsr: x2APIC on
    let x2apic = [0xb9, 0x1b, 0, 0, 0, 0x0f, 0x32, 0x0d, 0x00, 0x0c, 0x00, 0x00, 0x0f, 0x30];
    let mut wait = vec![0x83, 0x3c, 0x25];
    wait.extend(COUNTER.to_le_bytes());
    // cmp dword [COUNTER], 3; pause; jne back
    wait.extend([3, 0xf3, 0x90, 0x75, 0xf4]);
    let (init, start) = (icr(0xc_4500), icr(0xc_4600 | TRAMPOLINE >> 12));
    let code = code(&[&copy, &x2apic, &init, &start, &wait, &RESET]);
    for _ in 0..20 {
        let (vmm, recorder) = vmm(&code, |config| config.vcpus = 4);
        let mut vmm = vmm.expect("a VM");
        let stopper = vmm.stopper();
        // A test that fails must not hang.
        let (done, ended) = mpsc::channel::<()>();
        let watchdog = thread::spawn(move || {
            if ended.recv_timeout(Duration::from_secs(20)).is_err() {
                stopper.stop();
            }
        });
        let outcome = vmm.run().expect("an outcome");
        assert_eq!(outcome.end, End::Reset);
        let ends = recorder.seen().edges.iter().filter(|(edge, _)| *edge == Edge::End).count();
        assert_eq!(ends, 1);
        let _ = done.send(());
        watchdog.join().expect("the watchdog");
    }
}
