//! Images, from the archive of another tool into every box and out again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::common::{Traces, alone, among_labs, is_root, may_run, output, tare, text};
use crate::lab::has_lab;

const BUSYBOX: &str = "/bin/busybox";

fn header(kind: tar::EntryType, mode: u32, owner: u64, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(owner);
    header.set_gid(owner);
    header.set_mtime(1_700_000_000);
    header.set_size(size as u64);
    header
}

/// An archive as `docker save` makes it: busybox, and a layer upon it that changes and removes.
fn make_archive(to: &Path) {
    let busybox = fs::read(BUSYBOX).unwrap();
    let mut base = tar::Builder::new(Vec::new());
    for directory in ["bin", "etc", "proc", "dev", "sys", "tmp"] {
        let mode = if directory == "tmp" { 0o1777 } else { 0o755 };
        let mut header = header(tar::EntryType::Directory, mode, 0, 0);
        base.append_data(&mut header, directory, std::io::empty()).unwrap();
    }
    let mut file = header(tar::EntryType::Regular, 0o755, 0, busybox.len());
    base.append_data(&mut file, "bin/busybox", &busybox[..]).unwrap();
    for name in ["sh", "cat", "ls", "stat"] {
        let mut link = header(tar::EntryType::Symlink, 0o777, 0, 0);
        base.append_link(&mut link, format!("bin/{name}"), "busybox").unwrap();
    }
    let mut file = header(tar::EntryType::Regular, 0o644, 0, 3);
    base.append_data(&mut file, "etc/gone", &b"old"[..]).unwrap();
    let mut top = tar::Builder::new(Vec::new());
    let mut file = header(tar::EntryType::Regular, 0o644, 0, 0);
    top.append_data(&mut file, "etc/.wh.gone", std::io::empty()).unwrap();
    let mut file = header(tar::EntryType::Regular, 0o4751, 1234, 3);
    top.append_data(&mut file, "etc/new", &b"new"[..]).unwrap();
    let mut link = header(tar::EntryType::Link, 0o4751, 1234, 0);
    top.append_link(&mut link, "etc/same", "etc/new").unwrap();

    let layers = [base.into_inner().unwrap(), top.into_inner().unwrap()];
    let diff_ids: Vec<_> =
        layers.iter().map(|layer| format!("\"sha256:{:x}\"", Sha256::digest(layer))).collect();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":["sh"]}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        diff_ids.join(",")
    );
    let manifest = r#"[{"Config":"config.json","RepoTags":["box:1"],"Layers":["0.tar","1.tar"]}]"#;
    let mut archive = tar::Builder::new(fs::File::create(to).unwrap());
    let mut add = |name: &str, bytes: &[u8]| {
        let mut file = header(tar::EntryType::Regular, 0o644, 0, bytes.len());
        archive.append_data(&mut file, name, bytes).unwrap();
    };
    add("config.json", config.as_bytes());
    add("0.tar", &layers[0]);
    add("1.tar", &layers[1]);
    add("manifest.json", manifest.as_bytes());
    archive.finish().unwrap();
}

/// A store of its own.
struct Images {
    directory: tempfile::TempDir,
}

impl Images {
    fn new() -> Images {
        let images = Images { directory: tempfile::tempdir().unwrap() };
        make_archive(&images.path("box.tar"));
        images
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn tare(&self, words: &[&str]) -> Command {
        let mut command = tare();
        command.env("TARE_STORE", self.path("store")).current_dir(self.directory.path());
        command.args(words);
        command
    }

    fn succeeds(&self, words: &[&str]) -> String {
        let shown = output(&mut self.tare(words));
        assert!(shown.status.success(), "{words:?}: {}", text(&shown));
        String::from_utf8_lossy(&shown.stdout).into_owned()
    }

    fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.succeeds(words)).unwrap()
    }
}

fn has_all(test: &str) -> bool {
    may_run(test, "root and a static busybox", is_root() && Path::new(BUSYBOX).exists())
}

#[test]
fn test_image_goes_in_runs_and_comes_out_the_same() {
    if !has_all("test_image_goes_in_runs_and_comes_out_the_same") {
        return;
    }
    let _guard = alone();
    let traces = Traces::of_this_host();
    let images = Images::new();
    images.succeeds(&["image", "import", "box.tar"]);
    let list = images.json(&["image", "ls", "--json"]);
    assert_eq!((&list[0]["name"], &list[0]["layers"]), (&"box:1".into(), &2.into()));
    let digest = images.succeeds(&["image", "digest", "box:1"]);

    let verified =
        images.json(&["image", "verify", "--json", "--on", "process,container", "box:1"]);
    assert_eq!(verified["same"], true, "{verified}");
    assert_eq!(verified["boxes"][0]["digest"], digest.trim_end());
    assert_eq!(verified["boxes"][1]["digest"], digest.trim_end());

    let script = "ls /etc; stat -c '%a %u' /etc/new; echo written > /etc/by-a-box";
    let command = ["launch", "--on", "process,container", "--image", "box:1", "--", "sh", "-c"];
    let shown = images.succeeds(&[&command[..], &[script]].concat());
    for line in ["new", "same", "4751 1234"] {
        for backend in ["process", "container"] {
            assert!(shown.contains(&format!("{backend:>9} | {line}\n")), "{shown}");
        }
    }
    assert!(!shown.contains("gone"), "{shown}");
    // What a box wrote went with it.
    assert_eq!(images.succeeds(&["image", "digest", "box:1"]), digest);
    images.succeeds(&["image", "check", "box:1"]);

    images.succeeds(&["image", "export", "box:1", "again.tar"]);
    images.succeeds(&["image", "import", "--name", "again", "again.tar"]);
    let list = images.json(&["image", "ls", "--json"]);
    assert_eq!(list[0]["digest"], list[1]["digest"]);

    let missing = output(&mut images.tare(&["image", "rm", "nothing"]));
    assert_eq!(missing.status.code(), Some(1), "{}", text(&missing));
    images.succeeds(&["image", "rm", "box:1", "again"]);
    assert_eq!(images.json(&["image", "ls", "--json"]), Value::Array(Vec::new()));
    for directory in ["blobs/sha256", "layers", "staging"] {
        let directory = images.path("store").join(directory);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0, "{}", directory.display());
    }
    drop(images);
    traces.assert_nothing_new();
}

#[test]
fn test_image_verify_shows_one_digest_in_all_three_boxes() {
    let test = "test_image_verify_shows_one_digest_in_all_three_boxes";
    if !has_all(test) || !may_run(test, "QEMU", has_lab()) {
        return;
    }
    let _guard = among_labs();
    let images = Images::new();
    images.succeeds(&["image", "import", "box.tar"]);
    let digest = images.succeeds(&["image", "digest", "box:1"]);
    let shown = images.succeeds(&["image", "verify", "--host", "lab", "box:1"]);
    for backend in ["process", "container", "microvm"] {
        assert!(shown.contains(&format!("{backend:>10}  {}\n", digest.trim_end())), "{shown}");
    }
    assert_eq!(shown.matches("sha256:").count(), 3, "{shown}");
}
