//! Kernels and machines of every kind, as guests in the lab: a distribution's kernel with its
//! modules, both ways to enter a kernel, every kind of guest memory, both CPU profiles.

use std::process::Command;

use crate::common::{among_labs, may_run, output, text};
use crate::lab::{has_lab, lab};

/// What a guest says of itself: processors, kernel, memory, root file system, and whether its
/// processor has the portable profile's name.
const ASK: &str = "echo said cpus=$(grep -c ^processor /proc/cpuinfo) nproc=$(nproc) \
                   kernel=$(uname -r) kib=$(grep MemTotal /proc/meminfo | tr -dc 0-9) \
                   root=$(grep -c '/dev/vda / ext4' /proc/mounts) \
                   portable=$(grep -c 'name.*tare portable' /proc/cpuinfo)";

/// Starts a microVM for each machine, by its options, in one round of the lab; returns what each
/// guest said.
fn ask(command: &mut Command, prelude: &str, machines: &[(&str, &str)]) -> Vec<String> {
    let tare = assert_cmd::cargo::cargo_bin!("tare");
    let mut script = prelude.to_owned();
    for (name, options) in machines {
        let launch = format!("{} launch --on microvm {options}", tare.display());
        script += &format!(
            "\n{launch} -- sh -c \"{}\" 2>&1 | sed 's/^/{name}: /'",
            ASK.replace('$', "\\$")
        );
    }
    command.arg("--with").arg(tare);
    command.args(["--program", "/bin/busybox", "--", "sh", "-c", &script]);
    let shown = output(command);
    let all = String::from_utf8_lossy(&shown.stdout).into_owned();
    machines
        .iter()
        .map(|(name, _)| {
            let said = all
                .lines()
                .find(|line| line.starts_with(&format!("{name}: ")) && line.contains("| said "));
            said.unwrap_or_else(|| panic!("{name} said nothing: {}", text(&shown))).to_owned()
        })
        .collect()
}

/// The number behind `key=` in what a guest said.
fn value(said: &str, key: &str) -> u64 {
    let word = said.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    word.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {key}: {said}"))
}

#[test]
fn test_debian_cloud_kernel_has_its_modules_disk_and_vsock() {
    if !may_run("test_debian_cloud_kernel_has_its_modules", "QEMU", has_lab()) {
        return;
    }
    let _guard = among_labs();
    let cache = tare_kernels::Cache::open().unwrap();
    let kernel = tare_kernels::lab::kernel(&cache, &tare_kernels::Stderr::new()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut command = lab("deterministic", directory.path());
    // Its modules are found beside it.
    command.arg("--kernel").arg(&kernel.vmlinuz);
    let said = &ask(&mut command, "", &[("one", "--memory-mib 256")])[0];
    assert!(said.contains(&format!("kernel={}", kernel.release)), "{said}");
    // Its root is a virtio disk, and what it said came by vsock.
    let counts = (value(said, "cpus"), value(said, "nproc"), value(said, "root"));
    assert_eq!(counts, (1, 1, 1), "{said}");
}

#[test]
fn test_every_machine_boots_the_kernel_that_tare_builds() {
    if !may_run("test_every_machine_boots", "QEMU", has_lab()) {
        return;
    }
    let _guard = among_labs();
    let directory = tempfile::tempdir().unwrap();
    let mut command = lab("deterministic", directory.path());
    let machines = [
        ("linux64", "--boot linux64"),
        ("pvh", "--boot pvh"),
        ("least", "--memory-mib 24"),
        ("beyond", "--memory-mib 5120"),
        ("small", "--pages small --prefault"),
        ("huge", "--pages huge2m --prefault"),
        ("portable", "--cpu-profile portable"),
    ];
    let prelude = "echo 64 >/proc/sys/vm/nr_hugepages";
    let said = ask(&mut command, prelude, &machines);
    let of = |name: &str| &said[machines.iter().position(|machine| machine.0 == name).unwrap()];
    for said in &said {
        assert_eq!((value(said, "cpus"), value(said, "root")), (1, 1), "{said}");
    }
    let mib = |name: &str| value(of(name), "kib") >> 10;
    assert!((10..24).contains(&mib("least")), "{}", of("least"));
    // More than there is below the hole.
    assert!((4800..5120).contains(&mib("beyond")), "{}", of("beyond"));
    for (name, _) in machines {
        assert_eq!(value(of(name), "portable"), u64::from(name == "portable"), "{}", of(name));
    }
}
