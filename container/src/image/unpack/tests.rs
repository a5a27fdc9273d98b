use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::image::fixture::{Layer, listing, may_unpack};
use crate::image::intake::{Intake, Tally};
use crate::image::lower::OPAQUE;

fn unpack_upon(
    layer: Layer,
    root: &Path,
    below: Option<&[PathBuf]>,
) -> Result<Outcome, LayerError> {
    let (bytes, tally) = (layer.bytes(), Tally::default());
    let limits = UnpackLimits::default();
    let mut source = &bytes[..];
    let mut stream = Stream::new(Intake::new(&mut source, None, &tally, &|_| {}), &tally, limits)?;
    let lower = below.map(|below| Lower::open(below).unwrap());
    let root = std::fs::File::open(root).unwrap();
    unpack(&mut stream, &limits, root.as_fd(), lower.as_ref())
}

fn refusal(layer: Layer) -> String {
    let root = tempfile::tempdir().unwrap();
    match unpack_upon(layer, root.path(), Some(&[])) {
        Err(error) => error.to_string(),
        Ok(outcome) => panic!("unpacked: {outcome:?}"),
    }
}

fn unpacked(layer: Layer) -> (tempfile::TempDir, Unpacked) {
    let root = tempfile::tempdir().unwrap();
    match unpack_upon(layer, root.path(), Some(&[])).unwrap() {
        Outcome::Done(unpacked) => (root, unpacked),
        Outcome::NeedsBelow => panic!("needs what is below"),
    }
}

#[test]
fn test_unpack_makes_files_links_and_directories_as_described() {
    if !may_unpack("test_unpack_makes_files_links_and_directories_as_described") {
        return;
    }
    let layer = Layer::default()
        .directory("./")
        .directory("d/")
        .records(&[("uid", b"1000"), ("gid", b"2000000"), ("mtime", b"5.25")])
        .file("d/f", b"text")
        .symlink("d/l", "/etc/passwd")
        .hard_link("h", "./d/f")
        .member(b'6', b"p", b"", b"")
        .records(&[("SCHILY.xattr.user.a", b"b\nc"), ("SCHILY.xattr.security.selinux", b"x")])
        .file("x", b"")
        .member(b'0', b"n\xff", b"", b"1");
    let (root, found) = unpacked(layer);
    let path = |name: &str| root.path().join(name);
    assert_eq!(
        listing(root.path()),
        [
            "d/f: file \"text\"",
            "d/l: link to /etc/passwd",
            "d: directory",
            "h: file \"text\"",
            "n\u{fffd}: file \"1\"",
            "p: pipe",
            "x: file \"\"",
        ]
    );
    let metadata = path("d/f").metadata().unwrap();
    assert_eq!((metadata.uid(), metadata.gid(), metadata.nlink()), (1000, 2_000_000, 2));
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (5, 250_000_000));
    assert_eq!(metadata.ino(), path("h").metadata().unwrap().ino());
    assert_eq!(path("d").metadata().unwrap().mtime(), 1_700_000_000);
    let mut value = [0; 8];
    let length = rustix::fs::getxattr(path("x"), "user.a", &mut value).unwrap();
    assert_eq!(&value[..length], b"b\nc");
    assert_eq!((found.bytes, found.left_out), (5, 1));
}

#[test]
fn test_unpack_keeps_set_user_id_and_sticky_bits() {
    if !may_unpack("test_unpack_keeps_set_user_id_and_sticky_bits") {
        return;
    }
    let mut layer = Layer::default();
    for (kind, path, mode) in [(b'0', "su", 0o4755), (b'5', "tmp/", 0o1777)] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(mode);
        header.set_uid(7);
        header.set_gid(7);
        header.set_mtime(0);
        header.set_size(0);
        header.set_path(path).unwrap();
        layer.push(header, b"");
    }
    let (root, _) = unpacked(layer);
    let mode = |name| root.path().join(name).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("su"), mode("tmp")), (0o4755, 0o1777));
}

#[test]
fn test_unpack_makes_whiteouts_as_overlayfs_has_them() {
    if !may_unpack("test_unpack_makes_whiteouts_as_overlayfs_has_them") {
        return;
    }
    let layer = Layer::default()
        .directory("a/")
        .file("a/.wh.gone", b"")
        .file("a/.wh..wh..opq", b"")
        .file("a/kept", b"1")
        .file(".wh.own", b"")
        .file("own", b"2")
        .file("other", b"3")
        .file(".wh.other", b"")
        .file(".wh.again", b"")
        .directory("again/")
        .directory("dir/")
        .file(".wh.dir", b"")
        .file(".wh..wh.plnk", b"");
    let (root, _) = unpacked(layer);
    assert_eq!(
        listing(root.path()),
        [
            "a/gone: whiteout",
            "a/kept: file \"1\"",
            "a: opaque directory",
            "again: opaque directory",
            "dir: opaque directory",
            "other: file \"3\"",
            "own: file \"2\"",
        ]
    );
}

#[test]
fn test_unpack_of_duplicates_lets_the_last_count() {
    if !may_unpack("test_unpack_of_duplicates_lets_the_last_count") {
        return;
    }
    let layer = Layer::default()
        .file("a", b"first")
        .file("a", b"second")
        .directory("d/")
        .file("d/below", b"")
        .file("d", b"now a file")
        .file("e", b"a file")
        .directory("e/")
        .file("e/f", b"")
        .symlink("s", "a")
        .file("s", b"not through the link");
    let (root, _) = unpacked(layer);
    assert_eq!(
        listing(root.path()),
        [
            "a: file \"second\"",
            "d: file \"now a file\"",
            "e/f: file \"\"",
            "e: opaque directory",
            "s: file \"not through the link\"",
        ]
    );
}

#[test]
fn test_unpack_of_hostile_members_is_refused() {
    if !may_unpack("test_unpack_of_hostile_members_is_refused") {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    std::fs::write(&victim, "untouched").unwrap();
    let (out, victim_name) = (outside.path().to_str().unwrap(), victim.to_str().unwrap());
    let layer = Layer::default;
    for (hostile, why) in [
        (layer().file("../x", b""), "`../x` is no name within a layer: it leads upwards"),
        (layer().file("a/../../x", b""), "leads upwards"),
        (layer().file("/etc/x", b""), "`/etc/x` is no name within a layer: it is absolute"),
        (layer().symlink("l", out).file("l/x", b""), "a file lies behind the symbolic link `l`"),
        (layer().symlink("l", out).directory("l/d"), "behind the symbolic link `l`"),
        (layer().symlink("l", "..").file("l/x", b""), "behind the symbolic link `l`"),
        (layer().symlink("l", ".").file("l/l/x", b""), "behind the symbolic link `l`"),
        (layer().symlink("l", out).hard_link("h", "l/victim"), "behind a symbolic link or a file"),
        (layer().symlink("l", out).file("l/.wh.victim", b""), "behind the symbolic link `l`"),
        (layer().symlink("l", out).file("l/.wh..wh..opq", b""), "behind the symbolic link `l`"),
        (layer().hard_link("h", victim_name), "it is absolute"),
        (layer().hard_link("h", "../victim"), "it leads upwards"),
        (layer().hard_link("h", "missing"), "hard link to `missing`, which is not there"),
        (layer().hard_link("h", "h"), "which is itself"),
        (layer().directory("d").hard_link("h", "d"), "which is a directory"),
        (layer().file(".wh.f", b"").hard_link("h", "f"), "which the layer removes"),
        (layer().file("f", b"").file("f/x", b""), "a file lies below `f`, which is no directory"),
        (layer().device(b'3', "mem", 1, 1), "`mem` is a node of character device 1:1"),
        (layer().device(b'3', "dev/mem", 1, 1), "character device 1:1"),
        (layer().device(b'3', "null", 1, 3), "character device 1:3"),
        (layer().device(b'4', "dev/sda", 8, 0), "block device 8:0"),
        (layer().device(b'4', "dev/null", 1, 3), "block device 1:3"),
        (layer().device(b'3', "hidden", 0, 0), "character device 0:0"),
        (layer().file(".wh...", b""), "hides no file"),
        (layer().member(b'0', b".", b"", b""), "the root of a layer"),
        (
            layer().records(&[("SCHILY.xattr.trusted.overlay.redirect", b"/")]).directory("d"),
            "`d` has the extended attribute `trusted.overlay.redirect`",
        ),
        (
            layer().records(&[("SCHILY.xattr.user.overlay.metacopy", b"")]).file("f", b""),
            "must not set",
        ),
        (layer().records(&[("path", b"../x")]).file("f", b""), "leads upwards"),
        (layer().records(&[("path", b"a\0b")]).file("f", b""), "zero byte"),
    ] {
        let error = refusal(hostile);
        assert!(error.contains(why), "{error}, not {why}");
    }
    assert_eq!(std::fs::read_to_string(victim).unwrap(), "untouched");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
fn test_unpack_leaves_out_devices_of_every_box() {
    if !may_unpack("test_unpack_leaves_out_devices_of_every_box") {
        return;
    }
    let layer = Layer::default().directory("dev/").device(b'3', "dev/null", 1, 3);
    let (root, found) = unpacked(layer.device(b'3', "dev/console", 5, 1));
    assert_eq!((listing(root.path()), found.left_out), (vec!["dev: directory".to_owned()], 2));
}

#[test]
fn test_unpack_of_implied_directory_takes_it_from_below() {
    if !may_unpack("test_unpack_of_implied_directory_takes_it_from_below") {
        return;
    }
    let below = tempfile::tempdir().unwrap();
    let tmp = below.path().join("tmp");
    std::fs::create_dir(&tmp).unwrap();
    std::fs::set_permissions(&tmp, std::fs::Permissions::from_mode(0o1777)).unwrap();
    std::fs::write(below.path().join("f"), "of below").unwrap();
    std::os::unix::fs::symlink("tmp", below.path().join("l")).unwrap();
    let layer = || Layer::default().file("tmp/x", b"").hard_link("tmp/h", "f");
    let root = tempfile::tempdir().unwrap();
    assert_eq!(unpack_upon(layer(), root.path(), None).unwrap(), Outcome::NeedsBelow);

    let trees = [below.path().to_owned()];
    let root = tempfile::tempdir().unwrap();
    let Outcome::Done(found) = unpack_upon(layer(), root.path(), Some(&trees)).unwrap() else {
        panic!("needs what it has");
    };
    assert!(found.depends);
    assert_eq!(
        listing(root.path()),
        ["f: file \"of below\"", "tmp/h: file \"of below\"", "tmp/x: file \"\"", "tmp: directory"]
    );
    let mode = root.path().join("tmp").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o1777);

    let layer = Layer::default().file("l/x", b"");
    let error = unpack_upon(layer, root.path(), Some(&trees)).unwrap_err();
    assert!(error.to_string().contains("behind the symbolic link `l`"), "{error}");
}

#[test]
fn test_find_below_heeds_whiteouts_and_opaque_directories() {
    if !may_unpack("test_find_below_heeds_whiteouts_and_opaque_directories") {
        return;
    }
    let (top, bottom) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (root, layer) in [
        (&bottom, Layer::default().file("gone", b"").file("d/under", b"").file("e/seen", b"")),
        (&top, Layer::default().file(".wh.gone", b"").file("d/.wh..wh..opq", b"").file("e/x", b"")),
    ] {
        unpack_upon(layer, root.path(), Some(&[])).unwrap();
    }
    let lower = Lower::open(&[top.path().to_owned(), bottom.path().to_owned()]).unwrap();
    let finds = |path: &str| lower.find(path.as_bytes()).unwrap().is_some();
    assert!(!finds("gone") && !finds("d/under") && !finds("missing/x"));
    assert!(finds("e/seen") && finds("e/x") && finds("d"));
    assert_eq!(rustix::fs::getxattr(top.path().join("d"), OPAQUE, &mut [0; 1]), Ok(1));
}

/// Names that meet and cross each other.
fn names() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just("a"),
        Just("b"),
        Just("l"),
        Just(".."),
        Just("."),
        Just(""),
        Just(".wh.a"),
        Just(".wh..wh..opq"),
        Just("dev"),
    ];
    proptest::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"))
}

fn any_member() -> impl Strategy<Value = (u8, String, String)> {
    let kind = prop_oneof![Just(b'0'), Just(b'1'), Just(b'2'), Just(b'5'), Just(b'6'), Just(b'2'),];
    let target = prop_oneof![names(), Just("/tmp".to_owned()), Just("../..".to_owned())];
    (kind, names(), target)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever the archive, nothing appears beside the tree, and a refusal is an error.
    #[test]
    fn test_unpack_of_anything_stays_inside(members in proptest::collection::vec(any_member(), 0..12)) {
        let around = tempfile::tempdir().unwrap();
        let root = around.path().join("a/root");
        std::fs::create_dir_all(&root).unwrap();
        let mut layer = Layer::default();
        for (kind, path, target) in &members {
            layer = layer.member(*kind, path.as_bytes(), target.as_bytes(), b"");
        }
        let _ = unpack_upon(layer, &root, Some(&[]));
        prop_assert_eq!(std::fs::read_dir(around.path()).unwrap().count(), 1);
        prop_assert_eq!(std::fs::read_dir(around.path().join("a")).unwrap().count(), 1);
    }
}
