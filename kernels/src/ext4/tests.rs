use super::*;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;

fn tree(directory: &Path) -> PathBuf {
    let tree = directory.join("tree");
    fs::create_dir_all(tree.join("a/b")).unwrap();
    fs::write(tree.join("a/b/file"), vec![7; 100_000]).unwrap();
    symlink("a/b/file", tree.join("link")).unwrap();
    let epoch = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
    for path in ["a/b/file", "a/b", "a", ""] {
        File::open(tree.join(path)).unwrap().set_times(epoch).unwrap();
    }
    tree
}

fn e2fsck(path: &Path) {
    let output = Command::new("/sbin/e2fsck").args(["-f", "-n"]).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn test_build_tree_is_consistent_and_readable() {
    let directory = tempfile::tempdir().unwrap();
    let tree = tree(directory.path());
    let path = directory.path().join("x.img");
    let size_bytes = size_for(&tree).unwrap();
    build(&Image { path: &path, size_bytes, label: "root", tree: Some(&tree) }).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), size_bytes);
    e2fsck(&path);
    let debugfs =
        Command::new("/sbin/debugfs").args(["-R", "cat a/b/file"]).arg(&path).output().unwrap();
    assert_eq!(debugfs.stdout, vec![7; 100_000]);
}

#[test]
fn test_build_twice_gives_the_same_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let tree = tree(directory.path());
    let image = |name| {
        let path = directory.path().join(name);
        build(&Image { path: &path, size_bytes: 8 << 20, label: "x", tree: Some(&tree) }).unwrap();
        fs::read(path).unwrap()
    };
    let first = image("1.img");
    std::thread::sleep(Duration::from_millis(1100));
    // Reading the tree changes its access times, touching it its change times.
    fs::read(tree.join("a/b/file")).unwrap();
    let mode = fs::metadata(tree.join("a")).unwrap().permissions();
    fs::set_permissions(tree.join("a"), mode).unwrap();
    assert!(first == image("2.img"));
}

#[test]
fn test_build_empty_replaces_existing_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("scratch.img");
    fs::write(&path, vec![0xFF; 9 << 20]).unwrap();
    build(&Image { path: &path, size_bytes: 8 << 20, label: "scratch", tree: None }).unwrap();
    e2fsck(&path);
    let allocated = fs::metadata(&path).unwrap().blocks() * 512;
    assert!(allocated < 1 << 20, "{allocated} bytes of a sparse image");
}

#[test]
fn test_build_many_small_files_fit_in_size_for() {
    let directory = tempfile::tempdir().unwrap();
    let tree = directory.path().join("tree");
    fs::create_dir(&tree).unwrap();
    for index in 0..2000 {
        fs::write(tree.join(format!("file-with-a-long-name-{index}")), b"x").unwrap();
    }
    let path = directory.path().join("x.img");
    let size_bytes = size_for(&tree).unwrap();
    build(&Image { path: &path, size_bytes, label: "", tree: Some(&tree) }).unwrap();
    e2fsck(&path);
}

#[test]
fn test_build_bad_size_returns_size() {
    for size_bytes in [0, 4096, (1 << 20) + 1, u64::MAX] {
        let path = Path::new("/nonexistent/x.img");
        let result = build(&Image { path, size_bytes, label: "", tree: None });
        assert!(matches!(result, Err(Error::Size(_))));
    }
}

#[test]
fn test_build_long_label_returns_label() {
    let path = Path::new("/nonexistent/x.img");
    let result = build(&Image { path, size_bytes: 8 << 20, label: &"x".repeat(17), tree: None });
    assert!(matches!(result, Err(Error::Label(_))));
}

#[test]
fn test_build_tree_too_large_leaves_no_image() {
    let directory = tempfile::tempdir().unwrap();
    let tree = directory.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("large"), vec![1; 4 << 20]).unwrap();
    let path = directory.path().join("x.img");
    let result = build(&Image { path: &path, size_bytes: 2 << 20, label: "", tree: Some(&tree) });
    assert!(matches!(result, Err(Error::Mke2fs { .. })), "{result:?}");
    assert!(!path.exists());
}

#[test]
fn test_build_missing_tree_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.img");
    let tree = Some(Path::new("/nonexistent"));
    let error = build(&Image { path: &path, size_bytes: 8 << 20, label: "", tree }).unwrap_err();
    assert!(error.to_string().contains("/nonexistent"), "{error}");
    assert!(!path.exists());
}

#[test]
fn test_stamp_not_ext4_returns_format() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.img");
    fs::write(&path, vec![0; 8192]).unwrap();
    assert!(matches!(stamp::stamp(&path, 0), Err(Error::Format { .. })));
    fs::write(&path, b"short").unwrap();
    assert!(matches!(stamp::stamp(&path, 0), Err(Error::Io { .. })));
}
