//! What is refused, and in which words.

use std::os::unix::fs::PermissionsExt;

use tare_container::{Error, Mount, Namespaces, Program, Rootfs, Spec, Stage};

use crate::support::Bench;

#[test]
fn test_missing_command_returns_command_not_found() {
    let Some(bench) = Bench::new("test_missing_command") else { return };
    for (command, text) in [
        ("/bin/absent", "command not found in the box: \"/bin/absent\";"),
        ("absent", "command not found in the box: \"absent\" (searched PATH=/usr/local/sbin:"),
        ("", "command not found in the box: \"\""),
    ] {
        let spec = Spec { program: Program::command(command), ..bench.shell("") };
        let error = spec.prepare().unwrap().spawn().unwrap_err();
        assert!(matches!(error, Error::CommandNotFound { .. }), "{error}");
        assert_eq!(error.shell_status(), 127);
        assert!(error.to_string().starts_with(text), "{error}");
    }
}

#[test]
fn test_command_that_cannot_run_returns_not_executable() {
    let Some(bench) = Bench::new("test_command_that_cannot_run") else { return };
    let write = |name: &str, content: &str, mode| {
        let path = bench.rootfs().join("bin").join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    write("plain", "text", 0o644);
    write("garbage", "text", 0o755);
    write("orphan", "#!/bin/no-such-interpreter\n", 0o755);
    for (command, text) in [
        ("plain", "chmod +x"),
        ("/bin/plain", "chmod +x"),
        ("/bin/garbage", "for this machine"),
        ("orphan", "interpreter or dynamic loader is missing"),
        ("/bin", "chmod +x"),
    ] {
        let spec = Spec { program: Program::command(command), ..bench.shell("") };
        let error = spec.prepare().unwrap().spawn().unwrap_err();
        assert!(matches!(error, Error::CommandNotExecutable { .. }), "{command}: {error}");
        assert_eq!(error.shell_status(), 126);
        assert!(error.to_string().contains(text), "{command}: {error}");
    }
}

#[test]
fn test_missing_root_file_system_returns_its_path() {
    let Some(bench) = Bench::new("test_missing_root_file_system") else { return };
    let missing = bench.directory.path().join("missing");
    for rootfs in [
        Rootfs::ReadOnly(missing.clone()),
        Rootfs::Bind(missing.clone()),
        Rootfs::Overlay { lower: vec![bench.rootfs(), missing.clone()], size_bytes: None },
    ] {
        let error = Spec { rootfs, ..bench.shell("") }.prepare().unwrap_err();
        assert!(matches!(&error, Error::Path { path, .. } if *path == missing), "{error}");
        assert!(error.to_string().contains("unpacked root file system"), "{error}");
    }
}

#[test]
fn test_root_file_system_removed_after_prepare_returns_setup_error() {
    let Some(bench) = Bench::new("test_root_file_system_removed") else { return };
    let gone = bench.directory.path().join("gone");
    std::fs::create_dir(&gone).unwrap();
    let rootfs = Rootfs::Overlay { lower: vec![gone.clone()], size_bytes: None };
    let prepared = Spec { rootfs, ..bench.shell("") }.prepare().unwrap();
    std::fs::remove_dir(&gone).unwrap();
    let error = prepared.spawn().unwrap_err();
    assert!(matches!(error, Error::Setup { stage: Stage::Root, .. }), "{error}");
    assert!(error.to_string().contains(gone.to_str().unwrap()), "{error}");
}

#[test]
fn test_bad_mounts_return_invalid_or_path() {
    let Some(bench) = Bench::new("test_bad_mounts") else { return };
    let bind = |source: &str, target: &str| {
        let mounts =
            vec![Mount::Bind { source: source.into(), target: target.into(), read_only: false }];
        Spec { mounts, ..bench.shell("") }
    };
    let error = bind("/nonexistent", "/x").prepare().unwrap_err();
    assert!(error.to_string().contains("/nonexistent as source of a bind mount"), "{error}");
    for target in ["relative", "/", "/a/../../b"] {
        let error = bind("/tmp", target).prepare().unwrap_err();
        assert!(matches!(error, Error::Invalid { field: "mounts", .. }), "{error}");
    }
    let spec = Spec { rootfs: Rootfs::ReadOnly(bench.rootfs()), ..bind("/tmp", "/absent") };
    let error = spec.prepare().unwrap_err();
    assert!(error.to_string().contains("/absent as mount point"), "{error}");
}

#[test]
fn test_contradictions_return_invalid() {
    let Some(bench) = Bench::new("test_contradictions") else { return };
    let without =
        |namespace| Spec { namespaces: Namespaces::ALL.without(namespace), ..bench.shell("") };
    for (spec, expected) in [
        (without(Namespaces::MOUNT), "namespaces"),
        (without(Namespaces::UTS), "hostname"),
        (Spec { loopback: true, ..without(Namespaces::NET) }, "loopback"),
        (bench.shell("").args::<[&str; 0]>([]), "args"),
        (bench.shell("").args(["a\0b"]), "args"),
        (Spec { cwd: "tmp".into(), ..bench.shell("") }, "cwd"),
        (Spec { hostname: Some("x".repeat(65).into()), ..bench.shell("") }, "hostname"),
        (
            Spec { rootfs: Rootfs::Overlay { lower: vec![], size_bytes: None }, ..bench.shell("") },
            "rootfs",
        ),
    ] {
        let error = spec.prepare().unwrap_err();
        assert!(matches!(error, Error::Invalid { field, .. } if field == expected), "{error}");
    }
}

#[test]
fn test_missing_working_directory_returns_its_name() {
    let Some(bench) = Bench::new("test_missing_working_directory") else { return };
    let spec = Spec { cwd: "/absent".into(), ..bench.shell("") };
    let error = spec.prepare().unwrap().spawn().unwrap_err();
    assert!(matches!(error, Error::Setup { stage: Stage::WorkingDirectory, .. }), "{error}");
    assert!(error.to_string().contains("/absent"), "{error}");
}
