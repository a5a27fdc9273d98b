use super::*;
use proptest::prelude::*;
use std::process::{Command, Stdio};

/// Name, mode, device, content.
type Parsed = (String, u32, (u32, u32), Vec<u8>);

/// A reader written from the format's description alone.
fn parse(archive: &[u8]) -> Vec<Parsed> {
    let mut at = 0;
    let mut entries = Vec::new();
    loop {
        assert_eq!(at % 4, 0);
        assert_eq!(&archive[at..at + 6], b"070701");
        let field = |n: usize| {
            let text = std::str::from_utf8(&archive[at + 6 + 8 * n..at + 14 + 8 * n]).unwrap();
            u32::from_str_radix(text, 16).unwrap()
        };
        assert_eq!((field(2), field(3), field(5)), (0, 0, 0), "uid, gid, mtime");
        let (size, name_size) = (field(6) as usize, field(11) as usize);
        let name_at = at + 110;
        assert_eq!(archive[name_at + name_size - 1], 0);
        let name = String::from_utf8(archive[name_at..name_at + name_size - 1].to_vec()).unwrap();
        let content_at = (name_at + name_size).div_ceil(4) * 4;
        let content = archive[content_at..content_at + size].to_vec();
        let (mode, device) = (field(1), (field(9), field(10)));
        at = (content_at + size).div_ceil(4) * 4;
        if name == "TRAILER!!!" {
            assert_eq!(at, archive.len());
            return entries;
        }
        entries.push((name, mode, device, content));
    }
}

#[test]
fn test_build_empty_returns_trailer_only() {
    let archive = Initramfs::new().build();
    assert_eq!(archive.len(), 124);
    assert!(parse(&archive).is_empty());
}

#[test]
fn test_build_every_kind_parses_back() {
    let mut initramfs = Initramfs::new();
    initramfs.file("init", 0o755, b"abc").unwrap();
    initramfs.character_device("dev/console", 0o600, 5, 1).unwrap();
    initramfs.symlink("bin/sh", "busybox").unwrap();
    initramfs.directory("proc", 0o555).unwrap();
    let archive = initramfs.build();
    assert_eq!(archive.len() as u64, initramfs.archive_bytes());
    let expected = [
        ("bin", 0o040_755, (0, 0), &b""[..]),
        ("bin/sh", 0o120_777, (0, 0), b"busybox"),
        ("dev", 0o040_755, (0, 0), b""),
        ("dev/console", 0o020_600, (5, 1), b""),
        ("init", 0o100_755, (0, 0), b"abc"),
        ("proc", 0o040_555, (0, 0), b""),
    ];
    let entries = parse(&archive);
    assert_eq!(entries.len(), expected.len());
    for (entry, want) in entries.iter().zip(expected) {
        assert_eq!((entry.0.as_str(), entry.1, entry.2, entry.3.as_slice()), want);
    }
}

#[test]
fn test_build_order_of_adding_does_not_matter() {
    let (mut one, mut two) = (Initramfs::new(), Initramfs::new());
    one.file("a/x", 0o644, b"1").unwrap();
    one.file("b", 0o644, b"2").unwrap();
    two.file("b", 0o644, b"2").unwrap();
    two.directory("a", 0o755).unwrap();
    two.file("a/x", 0o644, b"1").unwrap();
    assert_eq!(one.build(), two.build());
}

#[test]
fn test_file_bad_names_are_refused() {
    let long = "a".repeat(4096);
    for name in ["", "/init", "a//b", "../a", "a/..", "./a", "a/", "a\0b", "TRAILER!!!", &long] {
        let result = Initramfs::new().file(name, 0o644, b"");
        assert!(matches!(result, Err(Error::Name { .. })), "{name}");
    }
}

#[test]
fn test_symlink_bad_target_is_refused() {
    for target in ["", "a\0"] {
        assert!(matches!(Initramfs::new().symlink("a", target), Err(Error::Name { .. })));
    }
}

#[test]
fn test_file_taken_name_returns_duplicate() {
    let mut initramfs = Initramfs::new();
    initramfs.file("a", 0o644, b"").unwrap();
    assert!(matches!(initramfs.file("a", 0o644, b""), Err(Error::Duplicate(_))));
    assert!(matches!(initramfs.directory("a", 0o755), Err(Error::Duplicate(_))));
}

#[test]
fn test_file_below_a_file_returns_parent() {
    let mut initramfs = Initramfs::new();
    initramfs.file("a", 0o644, b"").unwrap();
    assert!(matches!(initramfs.file("a/b", 0o644, b""), Err(Error::Parent { .. })));
}

#[test]
fn test_file_from_missing_host_file_names_it() {
    let error = Initramfs::new().file_from("a", 0o644, Path::new("/nonexistent")).unwrap_err();
    assert!(error.to_string().contains("/nonexistent"), "{error}");
}

#[test]
fn test_add_beyond_limit_returns_too_large() {
    let mut initramfs = Initramfs::new();
    initramfs.archive_bytes = MAX_ARCHIVE_BYTES - 300;
    assert!(matches!(initramfs.file("a", 0o644, vec![0; 400]), Err(Error::TooLarge { .. })));
    initramfs.file("a", 0o644, b"").unwrap();
}

/// The reference implementation lists what was put in.
#[test]
fn test_build_is_read_by_cpio() {
    if Command::new("cpio").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "cpio is not installed");
        // Past the capture of the test runner: what is skipped must be seen.
        let line = format_args!(
            "SKIPPED test_build_is_read_by_cpio: no cpio (a check beside the parser above)\n"
        );
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), line);
        return;
    }
    let mut initramfs = Initramfs::new();
    initramfs.file("bin/true", 0o755, vec![7; 1001]).unwrap();
    initramfs.symlink("init", "bin/true").unwrap();
    let mut cpio = Command::new("cpio")
        .args(["-t", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    io::Write::write_all(&mut cpio.stdin.take().unwrap(), &initramfs.build()).unwrap();
    let output = cpio.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "bin\nbin/true\ninit\n");
}

proptest! {
    #[test]
    fn test_build_any_files_parse_back(
        files in proptest::collection::btree_map(
            proptest::collection::vec("[a-zA-Z0-9_.+é-]{1,12}x", 1..4).prop_map(|v| v.join("/")),
            proptest::collection::vec(any::<u8>(), 0..200),
            0..20,
        )
    ) {
        let mut initramfs = Initramfs::new();
        let mut added = Vec::new();
        for (name, content) in &files {
            // A name below a file of the same set is rightly refused.
            if initramfs.file(name, 0o640, content.clone()).is_ok() {
                added.push((name.clone(), content.clone()));
            }
        }
        let archive = initramfs.build();
        prop_assert_eq!(archive.len() as u64, initramfs.archive_bytes());
        let read: Vec<(String, Vec<u8>)> = parse(&archive)
            .into_iter()
            .filter(|entry| entry.1 & 0o170_000 == 0o100_000)
            .map(|entry| (entry.0, entry.3))
            .collect();
        prop_assert_eq!(read, added);
    }

    #[test]
    fn test_file_any_name_never_escapes(name in ".{0,40}") {
        let mut initramfs = Initramfs::new();
        if initramfs.file(&name, 0o644, b"").is_ok() {
            for (name, ..) in parse(&initramfs.build()) {
                prop_assert!(!name.starts_with('/'));
                prop_assert!(name.split('/').all(|part| !matches!(part, "" | "." | "..")));
            }
        }
    }
}
