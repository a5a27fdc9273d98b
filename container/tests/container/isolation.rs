//! What a box can see and do.

use std::fs::File;

use tare_container::{Capabilities, Dev, Proc, Program, Rlimit, Rootfs, Spec, User};

use crate::support::Bench;

#[test]
fn test_box_sees_its_own_processes_only() {
    let Some(bench) = Bench::new("test_box_sees_its_own_processes_only") else { return };
    let text = bench.output("echo $$; ls -d /proc/[0-9]* | wc -l");
    let lines: Vec<&str> = text.lines().collect();
    // The shell, and ls and wc.
    assert_eq!(lines.first(), Some(&"1"));
    assert!(lines[1].trim().parse::<u32>().unwrap() <= 3, "{text}");
}

#[test]
fn test_box_namespaces_differ_from_the_hosts() {
    let Some(bench) = Bench::new("test_box_namespaces_differ_from_the_hosts") else { return };
    let text =
        bench.output("cd /proc/self/ns; for n in pid mnt uts ipc cgroup net; do readlink $n; done");
    assert_eq!(text.lines().count(), 6);
    for line in text.lines() {
        let (kind, _) = line.split_once(':').unwrap();
        let host = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert_ne!(host.to_str(), Some(line));
    }
}

#[test]
fn test_hostname_changes_only_inside() {
    let Some(bench) = Bench::new("test_hostname_changes_only_inside") else { return };
    let before = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let mut spec = bench.shell("hostname; cat /proc/sys/kernel/hostname");
    spec.hostname = Some("inside".into());
    assert_eq!(bench.run(spec).1, "inside\ninside\n");
    // Needs CAP_SYS_ADMIN, which the default set does not have, and a filter that lets it.
    let mut spec = bench.shell("hostname other && hostname");
    spec.capabilities = None;
    spec.seccomp = None;
    assert_eq!(bench.run(spec).1, "other\n");
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), before);
}

#[test]
fn test_root_is_the_overlay_and_nothing_of_the_host_is_mounted() {
    let Some(bench) = Bench::new("test_root_is_the_overlay") else { return };
    let text = bench.output("cat /proc/self/mountinfo");
    let targets: Vec<&str> = text.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    assert_eq!(targets.iter().filter(|target| **target == "/").count(), 1);
    for target in &targets {
        let known =
            *target == "/" || ["/proc", "/sys", "/dev"].iter().any(|top| target.starts_with(top));
        assert!(known, "{target} in\n{text}");
    }
    assert!(text.contains(" / rw,nodev"), "{text}");
    // Nothing may propagate: no peer groups, no masters.
    assert!(!text.contains("shared:") && !text.contains("master:"), "{text}");
    assert_eq!(bench.output("ls /"), "bin\ndev\netc\nproc\nsys\ntmp\n");
}

#[test]
fn test_overlay_takes_writes_and_forgets_them() {
    let Some(bench) = Bench::new("test_overlay_takes_writes_and_forgets_them") else { return };
    assert_eq!(bench.output("echo a > /etc/new; rm /bin/date; cat /etc/new"), "a\n");
    assert!(!bench.rootfs().join("etc/new").exists());
    assert!(bench.rootfs().join("bin/date").symlink_metadata().is_ok());
    assert_eq!(bench.output("ls /etc | wc -l"), "0\n");
}

#[test]
fn test_overlay_size_limit_holds() {
    let Some(bench) = Bench::new("test_overlay_size_limit_holds") else { return };
    let mut spec =
        bench.shell("dd if=/dev/zero of=/big bs=65536 count=64 2>&1 | grep -c 'No space'");
    spec.rootfs = Rootfs::Overlay { lower: vec![bench.rootfs()], size_bytes: Some(1 << 20) };
    assert_eq!(bench.run(spec).1, "1\n");
}

#[test]
fn test_overlay_of_two_layers_with_awkward_names() {
    let Some(bench) = Bench::new("test_overlay_of_two_layers_with_awkward_names") else { return };
    let top = bench.directory.path().join("a:b,c\\d e");
    std::fs::create_dir_all(top.join("etc")).unwrap();
    std::fs::write(top.join("etc/name"), "top").unwrap();
    let mut spec = bench.shell("cat /etc/name; stat -c %a /");
    spec.rootfs = Rootfs::Overlay { lower: vec![top, bench.rootfs()], size_bytes: None };
    assert_eq!(bench.run(spec).1, "top755\n");
}

#[test]
fn test_overlay_on_a_directory_keeps_what_is_written() {
    let Some(bench) = Bench::new("test_overlay_on_a_directory") else { return };
    let at = |name: &str| bench.directory.path().join(name);
    for name in ["up,per", "wo:rk", "again"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    let with = |work: &str, volatile, script| {
        let (upper, work) = (at("up,per"), at(work));
        let rootfs = Rootfs::OverlayOn { lower: vec![bench.rootfs()], upper, work, volatile };
        bench.run(Spec { rootfs, ..bench.shell(script) })
    };
    assert!(with("wo:rk", false, "echo kept > /etc/new; rm /bin/date").0.success());
    assert_eq!(std::fs::read_to_string(at("up,per").join("etc/new")).unwrap(), "kept\n");
    assert!(!bench.rootfs().join("etc/new").exists());
    let script = "cat /etc/new; test ! -e /bin/date && grep -c volatile /proc/self/mountinfo";
    assert_eq!(with("wo:rk", false, script).1, "kept\n0\n");
    assert_eq!(with("again", true, script).1, "kept\n1\n");
}

#[test]
fn test_read_only_root_refuses_and_bind_root_takes_writes() {
    let Some(bench) = Bench::new("test_read_only_root_refuses") else { return };
    let script = "echo x > /etc/written && echo done";
    let spec = Spec { rootfs: Rootfs::ReadOnly(bench.rootfs()), ..bench.shell(script) };
    assert!(bench.run(spec).1.contains("Read-only file system"));
    let spec = Spec { rootfs: Rootfs::Bind(bench.rootfs()), ..bench.shell(script) };
    assert_eq!(bench.run(spec).1, "done\n");
    assert_eq!(std::fs::read_to_string(bench.rootfs().join("etc/written")).unwrap(), "x\n");
}

#[test]
fn test_capabilities_no_new_privs_and_filter_are_set() {
    let Some(bench) = Bench::new("test_capabilities_no_new_privs_and_filter_are_set") else {
        return;
    };
    // Not by a shell, which ignores a signal itself.
    let program = Program::command("cat");
    let spec = Spec { program, ..bench.shell("").args(["cat", "/proc/self/status"]) };
    let text = bench.run(spec).1;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').trim().to_owned()
    };
    // Docker's set, less what the machine itself lacks.
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).unwrap();
    let expected = u64::from_str_radix(own, 16).unwrap() & Capabilities::DOCKER.bits();
    for name in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(u64::from_str_radix(&field(name), 16).unwrap(), expected, "{name}");
    }
    assert_eq!(field("CapInh"), "0000000000000000");
    assert_eq!(field("CapAmb"), "0000000000000000");
    assert_eq!(field("NoNewPrivs"), "1");
    assert_eq!(field("Seccomp"), "2");
    // No signal is ignored or blocked.
    assert_eq!(field("SigIgn"), "0000000000000000");
    assert_eq!(field("SigBlk"), "0000000000000000");
}

#[test]
fn test_dangerous_calls_are_refused() {
    let Some(bench) = Bench::new("test_dangerous_calls_are_refused") else { return };
    for script in [
        "mount -t tmpfs none /tmp",
        "umount /proc",
        "unshare -m true",
        "mount -o remount,rw /dev",
        "echo x > /proc/sys/kernel/hostname",
        "touch /dev/x",
        "touch /sys/x",
        "echo b > /proc/sysrq-trigger",
    ] {
        let (exit, text) = bench.run(bench.shell(script));
        assert!(!exit.success(), "{script} succeeded: {text}");
    }
    assert!(bench.output("date -s 2000-01-01 2>&1").contains("can't set date"));
    // The filter alone, with every capability there is.
    let mut spec = bench.shell("mount -t tmpfs none /tmp");
    spec.capabilities = None;
    let (exit, text) = bench.run(spec);
    assert!(!exit.success() && text.contains("denied"), "{text}");
}

#[test]
fn test_without_filter_capabilities_alone_refuse_mount() {
    let Some(bench) = Bench::new("test_without_filter_capabilities_alone") else { return };
    let mut spec = bench.shell("mount -t tmpfs none /tmp");
    spec.seccomp = None;
    let (exit, text) = bench.run(spec);
    assert!(!exit.success() && text.contains("ermi"), "{text}");
}

#[test]
fn test_device_nodes_work_in_dev_only() {
    let Some(bench) = Bench::new("test_device_nodes_work_in_dev_only") else { return };
    let text = bench.output(
        "echo lost > /dev/null; head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c; \
         echo x 2>/dev/null >/dev/full || echo full; readlink /dev/ptmx; readlink /dev/stdin; \
         ls /dev/pts/ptmx; echo y > /dev/shm/y && cat /dev/shm/y; ls /dev | wc -l",
    );
    assert_eq!(text, "4\n4\nfull\npts/ptmx\n/proc/self/fd/0\n/dev/pts/ptmx\ny\n14\n");
    // Whoever may make nodes must not get at the host's disks by it.
    let text = bench.output(
        "mknod /tmp/disk c 1 5 && { head -c 1 /tmp/disk 2>&1; echo; } | grep -c -i denied; \
         mknod /dev/disk c 1 5 2>&1 | grep -c Read-only; \
         mknod /dev/shm/disk c 1 5; head -c 1 /dev/shm/disk 2>&1 | grep -c -i denied",
    );
    assert_eq!(text, "1\n1\n1\n");
}

#[test]
fn test_session_is_new_unless_refused() {
    let Some(bench) = Bench::new("test_session_is_new_unless_refused") else { return };
    // Field 6 of stat; 0 is a session whose leader is outside of the pid namespace.
    let spec = || Spec {
        program: Program::command("cat"),
        ..bench.shell("").args(["cat", "/proc/self/stat"])
    };
    let session = |text: &str| text.split(' ').nth(5).map(str::to_owned);
    assert_eq!(session(&bench.run(spec()).1).as_deref(), Some("1"));
    let spec = Spec { session: false, ..spec() };
    assert_eq!(session(&bench.run(spec).1).as_deref(), Some("0"));
}

#[test]
fn test_mode_of_the_hosts_null_device_cannot_be_changed() {
    let Some(bench) = Bench::new("test_mode_of_the_hosts_null_device") else { return };
    let mode = || std::fs::metadata("/dev/null").unwrap().permissions();
    let before = mode();
    // Standard input is the host's null device, and so is what hides files of /proc.
    let script = "busybox chmod 600 /proc/self/fd/0; busybox chmod 600 /proc/interrupts; \
                  busybox chown 1 /proc/self/fd/0; echo still >&0; :";
    let text = bench.run(bench.shell(script)).1;
    assert_eq!(text.matches("Read-only file system").count(), 3, "{text}");
    assert_eq!(text.lines().count(), 3, "{text}");
    assert_eq!(mode(), before);
}

#[test]
fn test_proc_masks_hide_the_host() {
    let Some(bench) = Bench::new("test_proc_masks_hide_the_host") else { return };
    let text = bench.output(
        "for f in kcore keys timer_list interrupts; do \
           test ! -e /proc/$f || { head -c 1 /proc/$f | wc -c; }; done; \
         for d in acpi scsi asound; do test ! -e /proc/$d || ls /proc/$d | wc -l; done; \
         test ! -e /sys/firmware || ls /sys/firmware | wc -l",
    );
    assert!(!text.is_empty() && text.lines().all(|line| line == "0"), "{text}");
    assert!(bench.output("cat /proc/meminfo").contains("MemTotal"));
    let spec = Spec { proc: Proc::ProcessesOnly, ..bench.shell("ls /proc | grep -v '[0-9]'") };
    let text = bench.run(spec).1;
    assert!(!text.contains("meminfo") && text.contains("self"), "{text}");
}

#[test]
fn test_toggles_leave_out_what_is_not_asked_for() {
    let Some(bench) = Bench::new("test_toggles_leave_out_what_is_not_asked_for") else { return };
    let spec =
        Spec { proc: Proc::None, dev: Dev::None, sys: false, ..bench.shell("ls /proc /dev /sys") };
    assert_eq!(bench.run(spec).1, "/dev:\n\n/proc:\n\n/sys:\n");
    let spec = Spec { dev: Dev::Minimal, ..bench.shell("ls /dev") };
    assert_eq!(
        bench.run(spec).1,
        "fd\nfull\nnull\nrandom\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n"
    );
}

#[test]
fn test_network_is_fresh_and_loopback_comes_up_if_asked() {
    let Some(bench) = Bench::new("test_network_is_fresh") else { return };
    let interfaces = "cat /proc/net/dev | tail -n +3 | grep -v -e sit0 -e tunl0 -e ip6 -e gre \
                      -e erspan -e _vti | wc -l; cat /sys/class/net/lo/flags";
    assert_eq!(bench.output(interfaces), "1\n0x8\n");
    let mut spec = bench.shell("cat /sys/class/net/lo/flags");
    spec.loopback = true;
    assert_eq!(bench.run(spec).1, "0x9\n");
}

#[test]
fn test_user_groups_rlimits_cwd_and_environment() {
    let Some(bench) = Bench::new("test_user_groups_rlimits_cwd_and_environment") else { return };
    let mut spec = bench.shell(
        "id -u; id -g; grep Groups /proc/self/status; grep CapEff /proc/self/status; ulimit -n; \
         pwd; echo $A; umask; env | wc -l",
    );
    spec.user = Some(User { uid: 1000, gid: 100, groups: vec![7, 8, 9] });
    let resource = libc::RLIMIT_NOFILE as u32;
    spec.rlimits = vec![Rlimit { resource, soft: 77, hard: 99 }];
    spec.cwd = "/etc".into();
    spec.env.push("A=b".into());
    let (_, text) = bench.run(spec);
    let expected = "1000\n100\nGroups:\t7 8 9 \nCapEff:\t0000000000000000\n77\n/etc\nb\n0022\n";
    assert!(text.starts_with(expected), "{text}");
    // The child's change of user must not mark this process as not dumpable.
    // SAFETY: plain numbers.
    assert_eq!(unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) }, 1);
    assert!(File::open("/proc/self/environ").is_ok());
}

#[test]
fn test_hostile_links_in_the_root_file_system_do_not_lead_out() {
    let Some(bench) = Bench::new("test_hostile_links") else { return };
    let secret = bench.directory.path().join("secret");
    std::fs::create_dir(&secret).unwrap();
    for name in ["sys", "data"] {
        let _ = std::fs::remove_dir(bench.rootfs().join(name));
        std::os::unix::fs::symlink(&secret, bench.rootfs().join(name)).unwrap();
    }
    // A link where /sys belongs is refused.
    let spec = Spec { rootfs: Rootfs::Bind(bench.rootfs()), ..bench.shell("true") };
    let error = spec.prepare().unwrap_err();
    assert!(error.to_string().contains("/sys"), "{error}");
    // The target of a mount behind a link is made inside, not on the host.
    let mut spec = Spec { sys: false, ..bench.shell("true") };
    let (source, target) = (bench.directory.path().join("rootfs/etc"), "/data/x".into());
    spec.mounts = vec![tare_container::Mount::Bind { source, target, read_only: true }];
    let _ = spec.prepare().unwrap().spawn();
    assert_eq!(std::fs::read_dir(&secret).unwrap().count(), 0);
}
