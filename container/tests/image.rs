//! A store of images under `kill -9`: whatever was being done, what is there is whole.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tare_container::image::{Bundle, Digest, Import, Store};

/// Set for the process that is killed; its value is the directory that it works in.
const IMPORTER: &str = "TARE_TEST_IMPORTER";
/// How often a process is killed.
const KILLS: u32 = 20;
/// How often at least while it was adding something.
const CAUGHT: u32 = 5;

/// Not a test: what the killed process does, again and again.
#[test]
fn importer() {
    let Some(directory) = std::env::var_os(IMPORTER) else { return };
    let directory = Path::new(&directory);
    loop {
        let store = Store::open(&directory.join("store")).unwrap();
        import(&store, directory);
        store.remove(&"new".parse().unwrap()).unwrap();
    }
}

fn import(store: &Store, directory: &Path) {
    let bundle = Bundle::open(store, &directory.join("new")).unwrap();
    let reference = "new".parse().unwrap();
    bundle.import(store, bundle.select(None).unwrap(), &Import::new(&reference)).unwrap();
}

/// An OCI layout whose layers hold `files` files each.
fn make_layout(directory: &Path, files: u32) {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let blob = |media_type: &str, bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).unwrap();
        let size = bytes.len();
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#)
    };
    let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
    for layer in 0..3u32 {
        let mut archive = tar::Builder::new(Vec::new());
        for file in 0..files {
            let content = vec![(layer + file) as u8; 3000];
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            archive.append_data(&mut header, format!("{layer}-{file}"), &content[..]).unwrap();
        }
        let bytes = archive.into_inner().unwrap();
        diff_ids.push(format!("\"{}\"", Digest::of(&bytes)));
        layers.push(blob("application/vnd.oci.image.layer.v1.tar", &bytes));
    }
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        diff_ids.join(",")
    );
    let config = blob("application/vnd.oci.image.config.v1+json", config.as_bytes());
    let manifest =
        format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#, layers.join(","));
    let manifest = blob("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{manifest}]}}"#);
    fs::write(directory.join("index.json"), index).unwrap();
    fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// Everything that has its final name is what the name says.
fn assert_whole(store: &Store) {
    for (reference, image) in store.images().unwrap() {
        store.check(&image).unwrap_or_else(|error| panic!("{reference}: {error}"));
    }
    for name in names(&store.path().join("blobs/sha256")) {
        let bytes = fs::read(store.path().join("blobs/sha256").join(&name)).unwrap();
        assert_eq!(Digest::of(&bytes).hex(), name);
    }
    for name in names(&store.path().join("layers")) {
        assert!(store.path().join("layers").join(&name).join("layer.json").is_file(), "{name}");
    }
    assert_eq!(names(&store.path().join("staging")), [""; 0]);
}

#[test]
fn test_kill_at_any_instant_leaves_the_store_whole() {
    // SAFETY: no arguments.
    if unsafe { libc::geteuid() } != 0 {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "not root, and CI=true");
        let line = "SKIPPED test_kill_at_any_instant_leaves_the_store_whole: not root\n";
        let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
        return;
    }
    let directory = tempfile::Builder::new().prefix("tare-test-").tempdir().unwrap();
    make_layout(&directory.path().join("new"), 200);
    let store_path = directory.path().join("store");
    let store = Store::open(&store_path).unwrap();
    // An image that shares nothing with what comes and goes.
    make_layout(&directory.path().join("kept"), 3);
    let kept = Bundle::open(&store, &directory.path().join("kept")).unwrap();
    let kept = {
        let reference = "kept".parse().unwrap();
        kept.import(&store, kept.select(None).unwrap(), &Import::new(&reference)).unwrap()
    };
    // The times are spread over what one import takes on this machine, now.
    let begin = Instant::now();
    import(&store, directory.path());
    store.remove(&"new".parse().unwrap()).unwrap();
    let once = begin.elapsed().max(Duration::from_millis(5));
    let (mut round, mut caught) = (0, 0);
    // On a machine that is busy the process may begin late: some must be caught at work.
    while round < KILLS || caught < CAUGHT {
        assert!(round < 20 * KILLS, "only {caught} of {round} were caught at work");
        let mut importer = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "importer", "--nocapture"])
            .env(IMPORTER, directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(once * (2 * (round % KILLS) + 1) / KILLS);
        round += 1;
        importer.kill().unwrap();
        assert_eq!(importer.wait().unwrap().signal(), Some(libc::SIGKILL), "it ended by itself");
        caught += u32::from(!names(&store_path.join("staging")).is_empty());
        let store = Store::open(&store_path).unwrap();
        assert_whole(&store);
        assert_eq!(store.find("kept").unwrap().digest(), kept.digest());
    }
    let store = Store::open(&store_path).unwrap();
    import(&store, directory.path());
    assert_whole(&store);
    store.remove(&"new".parse().unwrap()).unwrap();
    store.remove(&"kept".parse().unwrap()).unwrap();
    assert_eq!(names(&store_path.join("blobs/sha256")), [""; 0]);
    assert_eq!(names(&store_path.join("layers")), [""; 0]);
}
