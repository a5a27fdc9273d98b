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
    // Several queues take a kernel of several CPUs.
    if Choice::Variant(&FULL).find().is_ok() {
        command.args(["--kernel", FULL.name]);
    }
    command.arg("--program").arg(std::env::current_exe().unwrap());
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

fn kernel() -> (GuestKernel, u8) {
    match Choice::Variant(&FULL).find() {
        Ok(kernel) => (kernel, 2),
        Err(_) => {
            let given = std::env::var_os("TARE_KERNEL").map(|path| Choice::File(path.into()));
            (given.unwrap_or(Choice::Variant(&PRACTICAL)).find().unwrap(), 1)
        }
    }
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

fn initramfs(path: &Path) {
    let mut archive = Initramfs::new();
    for directory in ["bin", "dev", "sys", "proc"] {
        archive.directory(directory, 0o755).unwrap();
    }
    archive.file_from("bin/busybox", 0o755, Path::new("/bin/busybox")).unwrap();
    archive.file("init", 0o755, INIT.as_bytes()).unwrap();
    archive.write_to(path).unwrap();
}

#[test]
#[ignore = "needs a host that can run microVMs: test_disks_of_a_linux_have_what_it_wrote_by_each_engine runs it"]
fn inside_the_lab_disks_have_what_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    initramfs(&at("initramfs"));
    let (kernel, vcpus) = kernel();
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
            queues: vcpus.into(),
            ..BlockConfig::new(path)
        };
        let config = Config {
            kernel: kernel.path.clone(),
            initramfs: Some(at("initramfs")),
            cmdline: kernel.command_line.clone(),
            vcpus,
            blocks: vec![block(&data, false), block(&kept, true), block(&notes, false)],
            ..Config::default()
        };
        let outcome = Vmm::new(&config, Box::new(Silent)).unwrap().run().unwrap();
        let how = format!("{engine:?}, direct: {direct}");
        assert!(matches!(outcome.end, End::TripleFault | End::Reset), "{how}: {outcome:?}");
        let said = String::from_utf8(fs::read(&notes).unwrap()).unwrap();
        let want = format!(
            "queues {vcpus} of {vcpus}\nsynced\nsame 0\nsame 1\nsame 2\nsame 3\nsame 4\n\
             discarded\nread-only 1\nreadable\nrefused\n"
        );
        assert_eq!(said.trim_end_matches('\0'), want, "{how}");
        let written = fs::read(&data).unwrap();
        assert_eq!(written.len() as u64, DISK_BYTES);
        for (part, bytes) in written.chunks(MIB).enumerate() {
            let is_right = match part {
                0 | 2 | 3 | 4 => bytes == one,
                _ => bytes.iter().all(|byte| *byte == 0),
            };
            assert!(is_right, "{how}: part {part}");
        }
        let held_bytes = fs::metadata(&data).unwrap().blocks() * 512;
        assert!(held_bytes < 5 * MIB as u64, "{how}: {held_bytes} are still held");
        assert!(fs::read(&kept).unwrap() == one, "{how}: the read-only disk has changed");
    }
}
