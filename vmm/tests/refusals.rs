//! What `Vmm::new` refuses, and that nothing is left of it: a single test, since it counts the
//! process's descriptors and mappings.

#[path = "bare/guest.rs"]
#[allow(dead_code)]
mod guest;

use std::fs;
use std::path::Path;

use tare_vmm::{BlockConfig, Config, Edge, Error, Observer, Vmm};

struct Deaf;

impl Observer for Deaf {
    fn edge(&mut self, _: Edge, _: u64) {}
    fn serial(&mut self, _: u64, _: &[u8]) {}
}

fn error_of(config: &Config) -> Error {
    Vmm::new(config, Box::new(Deaf)).map(|_| ()).unwrap_err()
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn large_mappings() -> usize {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let sizes = smaps.lines().filter_map(|line| line.strip_prefix("Size:")?.strip_suffix(" kB"));
    sizes.filter(|size| size.trim().parse::<u64>().is_ok_and(|kib| kib >= 16 << 10)).count()
}

#[test]
fn test_new_refuses_with_place_and_remedy_and_leaves_nothing() {
    let there = fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
    if !there {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "no /dev/kvm");
        // Past the capture of the test runner: what is skipped must be seen.
        let line = format_args!(
            "SKIPPED test_new_refuses_with_place_and_remedy_and_leaves_nothing: no /dev/kvm\n"
        );
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), line);
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("script");
    fs::write(&script, "#!/bin/sh\n").unwrap();
    // Enough of an ELF kernel to be prepared: one page of code.
    let kernel = directory.path().join("vmlinux");
    fs::write(&kernel, guest::elf(&[0xf4], 0)).unwrap();
    let odd = directory.path().join("odd.img");
    fs::write(&odd, [0; 513]).unwrap();
    let config = Config { kernel: script.clone(), ..Config::default() };
    let bootable = Config { kernel, ..config.clone() };
    let block = |path: &Path| BlockConfig { read_only: true, ..BlockConfig::new(path) };
    let cases = [
        (Config { memory_bytes: 1 << 20, ..config.clone() }, ["1048576", "16 MiB"]),
        (Config { memory_bytes: 1 << 40, ..config.clone() }, ["1099511627776", "64 GiB"]),
        (Config { vcpus: 0, ..config.clone() }, ["0 vCPUs", "from 1 to 8"]),
        (Config { vcpus: 9, ..config.clone() }, ["9 vCPUs", "from 1 to 8"]),
        (config.clone(), ["script", "neither an ELF"]),
        (Config::default(), ["kernel", "check the path"]),
        (Config { kernel: "/nonexistent/k".into(), ..config.clone() }, ["/nonexistent/k", "path"]),
        (Config { cmdline: "x".repeat(2048), ..config.clone() }, ["2048", "shorten"]),
        (Config { cmdline: "a\0b".into(), ..config.clone() }, ["0x00 at 1", "printable"]),
        (Config { blocks: vec![block(&odd)], ..bootable.clone() }, ["odd.img", "512"]),
        (Config { blocks: vec![block(directory.path())], ..bootable.clone() }, ["neither", "name"]),
        (Config { blocks: vec![block(&odd); 8], ..config.clone() }, ["8 block devices", "7"]),
    ];
    // The first VM makes what the process keeps.
    error_of(&config);
    let before = (descriptors(), large_mappings());
    for (config, words) in cases {
        let message = error_of(&config).to_string();
        for word in words {
            assert!(message.contains(word), "{word:?} is not in: {message}");
        }
    }
    assert_eq!((descriptors(), large_mappings()), before);
}
