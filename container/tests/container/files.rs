//! Further mounts.

use tare_container::{Mount, Rootfs, Spec};

use crate::support::Bench;

#[test]
fn test_bind_mounts_of_directories_and_files() {
    let Some(bench) = Bench::new("test_bind_mounts_of_directories_and_files") else { return };
    let scratch = bench.directory.path().join("scratch");
    std::fs::create_dir(&scratch).unwrap();
    std::fs::write(scratch.join("in"), "in\n").unwrap();
    let bind = |source: &std::path::Path, target: &str, read_only| Mount::Bind {
        source: source.to_owned(),
        target: target.into(),
        read_only,
    };
    let mut spec = bench.shell(
        "cat /a/b/rw/in /ro/in /etc/file; echo out > /a/b/rw/out; echo x 2>&1 > /ro/x; true",
    );
    spec.mounts = vec![
        bind(&scratch, "/a/b/rw", false),
        bind(&scratch, "/ro", true),
        bind(&scratch.join("in"), "/etc/file", true),
    ];
    let (_, text) = bench.run(spec);
    assert!(text.starts_with("in\nin\nin\n"), "{text}");
    assert!(text.contains("Read-only file system"), "{text}");
    assert_eq!(std::fs::read_to_string(scratch.join("out")).unwrap(), "out\n");
    assert!(!scratch.join("x").exists());
}

#[test]
fn test_tmpfs_on_a_read_only_root_with_a_mount_inside() {
    let Some(bench) = Bench::new("test_tmpfs_on_a_read_only_root") else { return };
    let mut spec = bench.shell("echo x > /tmp/y && cat /tmp/y /tmp/deep/er/hosts; stat -c %a /tmp");
    spec.rootfs = Rootfs::ReadOnly(bench.rootfs());
    std::fs::write(bench.rootfs().join("etc/hosts"), "hosts\n").unwrap();
    spec.mounts = vec![
        Mount::Tmpfs { target: "/tmp".into(), size_bytes: Some(1 << 20) },
        Mount::Bind {
            source: bench.rootfs().join("etc"),
            target: "/tmp/deep/er".into(),
            read_only: true,
        },
    ];
    assert_eq!(bench.run(spec).1, "x\nhosts\n1777\n");
}

#[test]
fn test_missing_mount_points_are_made_in_an_overlay() {
    let Some(bench) = Bench::new("test_missing_mount_points_are_made") else { return };
    for name in ["proc", "sys", "dev"] {
        std::fs::remove_dir(bench.rootfs().join(name)).unwrap();
    }
    assert_eq!(
        bench.output("test -e /proc/self -a -e /sys/class -a -c /dev/null && echo ok"),
        "ok\n"
    );
    let spec = Spec { rootfs: Rootfs::ReadOnly(bench.rootfs()), ..bench.shell("") };
    assert!(spec.prepare().unwrap_err().to_string().contains("/proc as mount point"));
}
