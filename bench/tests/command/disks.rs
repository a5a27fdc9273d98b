//! The block device under a real Linux: what it writes is what the file on the host has.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::common::{among_labs, may_run, output, text};
use crate::lab::{has_lab, lab};
use tare::guest_kernel::{Choice, GuestKernel};
use tare_kernels::{FULL, Initramfs, PRACTICAL};
use tare_vmm::{BlockConfig, BlockEngine, Config, Edge, End, Observer, Vmm};

const MIB: usize = 1 << 20;
/// The guest's disk.
const DISK_BYTES: u64 = 16 << 20;

/// PID 1 of the guest. It writes to a disk by several processes at once, past its page cache and
/// through it, reads back, gives a part up, tries to write where it may not, and leaves its notes
/// on the third disk.
const INIT: &str = r#"#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs none /dev
exec </dev/null >/dev/null 2>&1
$b mount -t sysfs none /sys
$b mount -t proc none /proc
say() { echo "$@" >>/notes; }
cpus=$($b nproc)
say queues $($b ls /sys/block/vda/mq | $b wc -l) of $cpus
$b seq 1 200000 | $b head -c 1048576 >/one
for part in 0 1 2 3; do
  $b taskset $((1 << part % cpus)) \
    $b dd if=/one of=/dev/vda bs=64k seek=$((part * 16)) oflag=direct conv=notrunc &
done
wait
$b dd if=/one of=/dev/vda bs=4k seek=1024 conv=notrunc,fsync && say synced
for part in 0 1 2 3 4; do
  $b dd if=/dev/vda bs=128k skip=$((part * 8)) count=8 iflag=direct | $b cmp - /one && say same $part
done
$b blkdiscard -o 1048576 -l 1048576 /dev/vda && say discarded
/zeroout && say zeroed
say zeroes $(($($b cat /sys/block/vda/queue/write_zeroes_max_bytes) > 0))
say read-only $($b cat /sys/block/vdb/ro)
$b cmp /dev/vdb /one && say readable
$b dd if=/one of=/dev/vdb bs=4k count=1 conv=notrunc,fsync || say refused
$b dd if=/notes of=/dev/vdc bs=4k conv=sync,notrunc,fsync
$b reboot -f
"#;

#[test]
fn test_disks_of_a_linux_have_what_it_wrote_by_each_engine() {
    if !may_run("test_disks_of_a_linux", "QEMU", has_lab()) {
        return;
    }
    let _guard = among_labs();
    let directory = tempfile::tempdir().unwrap();
    let mut command = lab("deterministic", directory.path());
    command.args(["--kernel", FULL.name, "--program"]).arg(std::env::current_exe().unwrap());
    let inner = "disks::inside_the_lab_disks_have_what_was_written";
    let shown = output(command.args(["--", "--ignored", "--exact", inner, "--nocapture"]));
    assert!(shown.status.success(), "{}", text(&shown));
    assert!(text(&shown).contains("1 passed"), "{}", text(&shown));
}

struct Silent;

impl Observer for Silent {
    fn edge(&mut self, _: Edge, _: u64) {}
    fn serial(&mut self, _: u64, _: &[u8]) {}
}

/// The lab's own.
fn kernel() -> GuestKernel {
    let given = std::env::var_os("TARE_KERNEL").map(|path| Choice::File(path.into()));
    given.unwrap_or(Choice::Variant(&PRACTICAL)).find().unwrap()
}

/// What `seq 1 200000 | head -c 1048576` prints.
fn one() -> Vec<u8> {
    let mut bytes: Vec<u8> =
        (1..=200_000).flat_map(|number: u32| format!("{number}\n").into_bytes()).collect();
    bytes.truncate(MIB);
    bytes
}

fn disk(path: PathBuf, bytes: u64, content: &[u8]) -> PathBuf {
    fs::write(&path, content).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(bytes).unwrap();
    path
}

/// A program for the guest: has `/dev/vda` zeroed from 2 MiB on, 1 MiB of it, without giving up the
/// space (`BLKZEROOUT`, which no applet of busybox asks for).
///
/// ```text
///     mov eax, 2               # open(path, O_RDWR)
///     lea rdi, [rip + path]
///     mov esi, 2
///     syscall
///     mov edi, eax             # ioctl(fd, BLKZEROOUT, range)
///     mov eax, 16
///     mov esi, 0x127f
///     lea rdx, [rip + range]
///     syscall
///     mov edi, eax             # exit(-result)
///     neg edi
///     mov eax, 60
///     syscall
/// path:  .asciz "/dev/vda"
/// range: .quad 0x200000, 0x100000
/// ```
const ZEROOUT: &[u8] = b"\xb8\x02\0\0\0\x48\x8d\x3d\x27\0\0\0\xbe\x02\0\0\0\x0f\x05\
    \x89\xc7\xb8\x10\0\0\0\xbe\x7f\x12\0\0\x48\x8d\x15\x16\0\0\0\x0f\x05\
    \x89\xc7\xf7\xdf\xb8\x3c\0\0\0\x0f\x05\
    /dev/vda\0\0\0\x20\0\0\0\0\0\0\0\x10\0\0\0\0\0";

/// An ELF program of one segment, which begins with the headers.
fn program(code: &[u8]) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    for half in [2_u16, 62] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend(1_u32.to_le_bytes());
    for word in [BASE + HEADERS, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    // One program header: PT_LOAD, readable and executable.
    for word in [1_u32, 5] {
        elf.extend(word.to_le_bytes());
    }
    let bytes = HEADERS + code.len() as u64;
    for word in [0, BASE, BASE, bytes, bytes, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(code);
    elf
}

fn initramfs(path: &Path) {
    let mut archive = Initramfs::new();
    for directory in ["bin", "dev", "sys", "proc"] {
        archive.directory(directory, 0o755).unwrap();
    }
    archive.file_from("bin/busybox", 0o755, Path::new("/bin/busybox")).unwrap();
    archive.file("zeroout", 0o755, program(ZEROOUT)).unwrap();
    archive.file("init", 0o755, INIT.as_bytes()).unwrap();
    archive.write_to(path).unwrap();
}

#[test]
#[ignore = "needs a host that can run microVMs: test_disks_of_a_linux_have_what_it_wrote_by_each_engine runs it"]
fn inside_the_lab_disks_have_what_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    initramfs(&at("initramfs"));
    let kernel = kernel();
    let one = one();
    for (engine, direct) in [
        (BlockEngine::Sync, false),
        (BlockEngine::Sync, true),
        (BlockEngine::IoUring, false),
        (BlockEngine::IoUring, true),
    ] {
        let data = disk(at("data"), DISK_BYTES, &[]);
        let kept = disk(at("kept"), MIB as u64, &one);
        let notes = disk(at("notes"), 4096, &[]);
        let block = |path: &Path, read_only| BlockConfig {
            read_only,
            direct,
            engine,
            // Linux takes as many as it has CPUs.
            queues: 2,
            ..BlockConfig::new(path)
        };
        let config = Config {
            kernel: kernel.path.clone(),
            initramfs: Some(at("initramfs")),
            cmdline: kernel.command_line.clone(),
            blocks: vec![block(&data, false), block(&kept, true), block(&notes, false)],
            ..Config::default()
        };
        let outcome = Vmm::new(&config, Box::new(Silent)).unwrap().run().unwrap();
        let how = format!("{engine:?}, direct: {direct}");
        assert!(matches!(outcome.end, End::TripleFault | End::Reset), "{how}: {outcome:?}");
        let said = String::from_utf8(fs::read(&notes).unwrap()).unwrap();
        let want = "queues 1 of 1\nsynced\nsame 0\nsame 1\nsame 2\nsame 3\nsame 4\n\
             discarded\nzeroed\nzeroes 1\nread-only 1\nreadable\nrefused\n";
        assert_eq!(said.trim_end_matches('\0'), want, "{how}");
        let written = fs::read(&data).unwrap();
        assert_eq!(written.len() as u64, DISK_BYTES);
        for (part, bytes) in written.chunks(MIB).enumerate() {
            let is_right = match part {
                0 | 3 | 4 => bytes == one,
                _ => bytes.iter().all(|byte| *byte == 0),
            };
            assert!(is_right, "{how}: part {part}");
        }
        let held_bytes = fs::metadata(&data).unwrap().blocks() * 512;
        assert!(held_bytes < 5 * MIB as u64, "{how}: {held_bytes} are still held");
        assert!(fs::read(&kept).unwrap() == one, "{how}: the read-only disk has changed");
    }
}
