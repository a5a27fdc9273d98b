//! Debian's docker-registry, started on a port of the kernel's choosing.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use ureq::http::header;

use super::{Place, layout, manifest, user};
use crate::image::{Digest, Layout, may_unpack};

const PROGRAM: &str = "docker-registry";
/// `user:secret`, as htpasswd(1) writes it with bcrypt.
const PASSWORDS: &str = "user:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

struct Running {
    child: Child,
    host: String,
    _directory: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn start(test: &str, with_passwords: bool) -> Option<Running> {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).display().to_string();
        let mut config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: '127.0.0.1:0'}}\n",
            at("data")
        );
        if with_passwords {
            std::fs::write(at("passwords"), PASSWORDS).unwrap();
            config += &format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", at("passwords"));
        }
        std::fs::write(at("config.yml"), config).unwrap();
        let started = Command::new(PROGRAM)
            .args(["serve", &at("config.yml")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match started {
            Ok(child) => child,
            Err(error) => {
                let ci = std::env::var_os("CI").is_some_and(|value| value == "true");
                assert!(!ci, "{test}: {PROGRAM}: {error}, and CI=true");
                let line = format!("SKIPPED {test}: {PROGRAM}: {error}\n");
                let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
                return None;
            }
        };
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = String::new();
        let host = lines.by_ref().map_while(Result::ok).find_map(|line| {
            said += &line;
            let (_, after) = line.split_once("listening on ")?;
            let host = after.split(['"', ' ', ',']).next()?;
            Some(host.to_owned())
        });
        // It must not block on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let host = host.unwrap_or_else(|| panic!("{PROGRAM} does not listen: {said}"));
        Some(Running { child, host, _directory: directory })
    }

    /// Uploads the image of a layout as `test:latest`.
    fn push(&self, layout: &Layout) {
        let authorization = user().unwrap().header();
        let agent = ureq::Agent::config_builder().proxy(None).build().new_agent();
        let address = format!("http://{}/v2/test", self.host);
        for entry in std::fs::read_dir(layout.path().join("blobs/sha256")).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            let begun = agent
                .post(format!("{address}/blobs/uploads/"))
                .header(header::AUTHORIZATION, &authorization)
                .send_empty()
                .unwrap();
            let location = begun.headers()[header::LOCATION].to_str().unwrap();
            let mark = if location.contains('?') { '&' } else { '?' };
            agent
                .put(format!("{location}{mark}digest={}", Digest::of(&bytes)))
                .header(header::AUTHORIZATION, &authorization)
                .header(header::CONTENT_TYPE, "application/octet-stream")
                .send(&bytes[..])
                .unwrap();
        }
        agent
            .put(format!("{address}/manifests/latest"))
            .header(header::AUTHORIZATION, &authorization)
            .header(header::CONTENT_TYPE, "application/vnd.oci.image.manifest.v1+json")
            .send(&manifest(layout)[..])
            .unwrap();
    }
}

#[test]
fn test_pull_from_docker_registry_gives_the_same_image() {
    let test = "test_pull_from_docker_registry_gives_the_same_image";
    if !may_unpack(test) {
        return;
    }
    let Some(registry) = Running::start(test, false) else { return };
    let layout = layout();
    registry.push(&layout);
    let digest = Digest::of(&manifest(&layout));
    let place = Place::new();
    let image = place.pull(&format!("{}/test", registry.host), None).unwrap();
    assert_eq!((image.digest(), image.layers().len()), (digest, 2));
    // By its digest, and with all of it there already.
    let again = place.pull(&format!("{}/test@{digest}", registry.host), None).unwrap();
    assert_eq!(again.digest(), digest);
    let error = Place::new().pull(&format!("{}/test:none", registry.host), None).unwrap_err();
    assert!(error.to_string().contains("has no"), "{error}");
}

#[test]
fn test_pull_from_docker_registry_with_a_password() {
    let test = "test_pull_from_docker_registry_with_a_password";
    if !may_unpack(test) {
        return;
    }
    let Some(registry) = Running::start(test, true) else { return };
    registry.push(&layout());
    let address = format!("{}/test", registry.host);
    assert!(Place::new().pull(&address, user()).is_ok());
    let error = Place::new().pull(&address, None).unwrap_err();
    assert!(error.to_string().contains("does not let anyone have"), "{error}");
}
