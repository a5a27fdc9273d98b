//! Pulls from a registry of Debian's, and from some that lie: as root.

mod debian;
mod server;

use std::sync::Arc;
use std::time::Duration;

use server::{Action, Request, Server, blob, manifest};

use super::*;
use crate::image::{Digest, Layer, Layout, Packing, may_unpack};

/// A layer whose archive does not fit into one buffer.
fn layout() -> Arc<Layout> {
    let mut state = 1_u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(600_000)
    .collect();
    let large = Layer::default().directory("d").file("d/noise", &noise);
    let small = Layer::default().file("small", b"small");
    Arc::new(Layout::of("test", &[(large, Packing::Gzip), (small, Packing::Plain)]))
}

/// The digests of its layers: the large one, and the small one.
fn layers(layout: &Layout) -> [String; 2] {
    let manifest: serde_json::Value = serde_json::from_slice(&manifest(layout)).unwrap();
    [0, 1].map(|index| manifest["layers"][index]["digest"].as_str().unwrap().to_owned())
}

struct Place {
    _directory: tempfile::TempDir,
    store: Store,
}

impl Place {
    fn new() -> Place {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        Place { _directory: directory, store }
    }

    fn pull(&self, text: &str, credentials: Option<Credentials>) -> Result<Image, PullError> {
        let patience = Patience {
            attempts: 3,
            pause: Duration::from_millis(1),
            silence: Duration::from_millis(400),
        };
        let address = text.parse()?;
        let pull = Pull { plain_http: true, patience, ..Pull::new(&address) };
        let pulled = pull.run_as(&self.store, credentials);
        let left = std::fs::read_dir(self.store.path().join("staging")).unwrap().count();
        assert_eq!(left, 0, "left in staging");
        if pulled.is_err() {
            assert_eq!(self.store.references().unwrap(), []);
            let blobs = std::fs::read_dir(self.store.path().join("blobs/sha256")).unwrap();
            assert_eq!(blobs.count(), 0, "left in the store");
        }
        pulled
    }
}

/// Pulls from a registry that does as `handler` says; also what it was asked.
fn pull(
    layout: &Arc<Layout>,
    handler: impl Fn(&Request) -> Action + Send + Sync + 'static,
) -> (Result<Image, PullError>, Vec<Request>) {
    let server = Server::start(Arc::clone(layout), handler);
    let pulled = Place::new().pull(&format!("{}/test", server.host), None);
    (pulled, server.requests())
}

fn user() -> Option<Credentials> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    std::fs::write(&path, r#"{"auths":{"x":{"username":"user","password":"secret"}}}"#).unwrap();
    Credentials::read(&path, "x").unwrap()
}

#[test]
fn test_pull_stores_what_the_registry_has() {
    if !may_unpack("test_pull_stores_what_the_registry_has") {
        return;
    }
    let layout = layout();
    let (pulled, requests) = pull(&layout, |_| Action::Serve);
    assert_eq!(pulled.unwrap().digest(), Digest::of(&manifest(&layout)));
    assert_eq!(requests.len(), 4);
    assert!(requests.iter().all(|request| !request.headers.contains_key("authorization")));
}

#[test]
fn test_pull_goes_on_where_a_transfer_broke_off() {
    if !may_unpack("test_pull_goes_on_where_a_transfer_broke_off") {
        return;
    }
    let layout = layout();
    let [large, _] = layers(&layout);
    let name = large.clone();
    let (pulled, requests) =
        pull(&layout, move |request| match (request.path.ends_with(&name), request.before) {
            (true, 0 | 1) => Action::Cut(200_000),
            _ => Action::Serve,
        });
    pulled.unwrap();
    let ranges: Vec<_> = requests
        .iter()
        .filter(|request| request.path.ends_with(&large))
        .map(|request| request.headers.get("range").map(String::as_str))
        .collect();
    assert_eq!(ranges, [None, Some("bytes=200000-"), Some("bytes=400000-")]);
    // A server that knows no ranges begins again.
    let bytes = blob(&layout, &large).unwrap();
    let (pulled, _) = pull(&layout, move |request| match request.path.ends_with(&large) {
        true if request.before == 0 => Action::Cut(200_000),
        true => Action::Reply(200, vec![], bytes.clone()),
        false => Action::Serve,
    });
    pulled.unwrap();
}

#[test]
fn test_pull_gives_up_after_some_attempts() {
    if !may_unpack("test_pull_gives_up_after_some_attempts") {
        return;
    }
    let layout = layout();
    let [large, _] = layers(&layout);
    let is_large = move |request: &Request| request.path.ends_with(&large);
    let also = is_large.clone();
    let (pulled, requests) = pull(&layout, move |request| match also(request) {
        true => Action::Cut(1000 * (1 + request.before)),
        false => Action::Serve,
    });
    let error = pulled.unwrap_err().to_string();
    assert!(error.contains("tried 3 times"), "{error}");
    assert_eq!(requests.iter().filter(|request| is_large(request)).count(), 3);
    for action in [
        || Action::Silence,
        || Action::Reply(503, vec![], b"busy".to_vec()),
        || Action::Reply(429, vec![], vec![]),
        || Action::Reply(200, vec!["Content-Length: x".into()], vec![]),
    ] {
        let (pulled, requests) = pull(&layout, move |_| action());
        let error = pulled.unwrap_err();
        assert!(matches!(error, PullError::Unreachable { attempts: 3, .. }), "{error}");
        assert_eq!(requests.len(), 3);
    }
    // One that gets better.
    let (pulled, _) = pull(&layout, |request| match request.before {
        0 => Action::Reply(500, vec![], vec![]),
        _ => Action::Serve,
    });
    pulled.unwrap();
    // None at all.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = Place::new().pull(&format!("{free}/test"), None).unwrap_err();
    assert!(matches!(error, PullError::Unreachable { .. }), "{error}");
}

#[test]
fn test_pull_from_a_registry_that_lies_returns_the_lie() {
    if !may_unpack("test_pull_from_a_registry_that_lies") {
        return;
    }
    const KIND: &str = "Content-Type: application/vnd.oci.image.manifest.v1+json";
    let layout = layout();
    let [large, small] = layers(&layout);
    let good = blob(&layout, &large).unwrap();
    let mut other = good.clone();
    *other.last_mut().unwrap() ^= 1;
    let longer = [&good[..], b"x"].concat();
    let shorter = good[1..].to_vec();
    // A good archive, but not the one that was announced.
    let mut changed = blob(&layout, &small).unwrap();
    changed[512] ^= 1;
    let manifest = manifest(&layout);
    let lies: [(&str, &str, Vec<&str>, Vec<u8>); 12] = [
        (&large, "corrupt gzip stream", vec![], other),
        (&large, "bytes of its manifest", vec![], longer.clone()),
        (&large, "bytes of its manifest", vec![], shorter),
        (
            &large,
            "bytes",
            vec!["Transfer-Encoding: chunked", "Content-Length-X: 0"],
            chunked(&longer),
        ),
        (&small, "announced", vec![], changed),
        ("latest", "of the kind `text/html`", vec!["Content-Type: text/html"], b"<p>".to_vec()),
        ("latest", "of the kind ``", vec![], manifest.clone()),
        ("latest", "more than 4194304 bytes", vec![KIND], vec![b' '; (4 << 20) + 1]),
        ("latest", "it is no manifest", vec![KIND], b"{".to_vec()),
        ("latest", "calls itself `x`", vec![KIND], br#"{"mediaType":"x"}"#.to_vec()),
        ("latest", "the registry itself says", vec![KIND, DIGEST], manifest.clone()),
        ("latest", "schema version 1", vec![KIND], br#"{"schemaVersion":1}"#.to_vec()),
    ];
    for (path, said, headers, body) in lies {
        let path = path.to_owned();
        let headers: Vec<String> = headers.into_iter().map(str::to_owned).collect();
        let (pulled, _) = pull(&layout, move |request| match request.path.ends_with(&path) {
            true => Action::Reply(200, headers.clone(), body.clone()),
            false => Action::Serve,
        });
        let error = pulled.expect_err(said).to_string();
        assert!(error.contains(said), "{said}\n{error}");
    }
    let server = Server::start(Arc::clone(&layout), |_| Action::Serve);
    let wrong = format!("{}/test@{}", server.host, Digest::of(b"other"));
    let error = Place::new().pull(&wrong, None).unwrap_err().to_string();
    assert!(error.contains("its digest is another"), "{error}");
    // Another part than the one that was asked for.
    let bytes = blob(&layout, &large).unwrap();
    let (pulled, _) = pull(&layout, move |request| match request.path.ends_with(&large) {
        true if request.before == 0 => Action::Cut(1000),
        true => Action::Reply(206, vec!["Content-Range: bytes 0-9/10".into()], bytes.clone()),
        false => Action::Serve,
    });
    let error = pulled.unwrap_err().to_string();
    assert!(error.contains("another part of the file"), "{error}");
}

const DIGEST: &str = "Docker-Content-Digest: \
    sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn chunked(bytes: &[u8]) -> Vec<u8> {
    let mut body = format!("{:x}\r\n", bytes.len()).into_bytes();
    body.extend_from_slice(bytes);
    body.extend_from_slice(b"\r\n0\r\n\r\n");
    body
}

#[test]
fn test_pull_answers_that_are_no_image_return_what_they_are() {
    if !may_unpack("test_pull_answers_that_are_no_image") {
        return;
    }
    let layout = layout();
    let of = |status: u16, header: &'static str| {
        let headers: Vec<String> =
            [header].iter().filter(|it| !it.is_empty()).map(|it| (*it).to_owned()).collect();
        pull(&layout, move |_| Action::Reply(status, headers.clone(), b"why\n".to_vec()))
            .0
            .unwrap_err()
    };
    assert!(matches!(of(404, ""), PullError::NotFound { .. }));
    assert!(matches!(of(403, ""), PullError::Denied { .. }));
    assert!(matches!(of(401, ""), PullError::Denied { .. }));
    assert!(matches!(of(401, "WWW-Authenticate: Basic realm=x"), PullError::Denied { .. }));
    assert!(of(418, "").to_string().contains("answered 418"));
    for location in ["Location: ftp://x/", "Location: relative", "Location: http://u:p@x/", "X: y"]
    {
        let error = of(302, location);
        assert!(matches!(error, PullError::Redirect { .. }), "{location}: {error}");
    }
    assert!(of(307, "Location: /again").to_string().contains("sent on too often"));
    for realm in ["ftp://x/", "x", "/token"] {
        let header = format!("WWW-Authenticate: Bearer realm=\"{realm}\"");
        let (pulled, _) = pull(&layout, move |_| Action::Reply(401, vec![header.clone()], vec![]));
        assert!(matches!(pulled, Err(PullError::Lie { .. })), "{realm}");
    }
}

#[test]
fn test_pull_follows_to_another_server_without_credentials() {
    if !may_unpack("test_pull_follows_to_another_server_without_credentials") {
        return;
    }
    let layout = layout();
    let storage = Server::start(Arc::clone(&layout), |_| Action::Serve);
    let other = storage.host.clone();
    let registry = Server::start(Arc::clone(&layout), move |request| {
        if !request.headers.contains_key("authorization") {
            return Action::Reply(401, vec!["WWW-Authenticate: Basic realm=\"r\"".into()], vec![]);
        }
        match request.path.contains("/blobs/") {
            true => {
                let location = format!("Location: http://{other}{}", request.path);
                Action::Reply(307, vec![location], vec![])
            }
            false => Action::Serve,
        }
    });
    Place::new().pull(&format!("{}/test", registry.host), user()).unwrap();
    let requests = storage.requests();
    assert_eq!(requests.len(), 3);
    assert!(requests.iter().all(|request| !request.headers.contains_key("authorization")));
    let shown = registry.requests();
    let header = shown.iter().filter_map(|request| request.headers.get("authorization")).next();
    assert_eq!(header.unwrap(), "Basic dXNlcjpzZWNyZXQ=");
    let error = Place::new().pull(&format!("{}/test", registry.host), None).unwrap_err();
    assert!(error.to_string().contains("does not let anyone have"), "{error}");
}

#[test]
fn test_pull_with_a_token_shows_the_password_to_the_token_server_alone() {
    if !may_unpack("test_pull_with_a_token") {
        return;
    }
    let layout = layout();
    let tokens = Server::start(Arc::clone(&layout), |_| {
        Action::Reply(200, vec![], br#"{"token":"t0ken"}"#.to_vec())
    });
    let realm = format!("http://{}/token", tokens.host);
    let registry = Server::start(Arc::clone(&layout), move |request| {
        match request.headers.get("authorization").map(String::as_str) {
            Some("Bearer t0ken") => Action::Serve,
            _ => {
                let header = format!("WWW-Authenticate: Bearer realm=\"{realm}\",service=\"s\"");
                Action::Reply(401, vec![header], vec![])
            }
        }
    });
    Place::new().pull(&format!("{}/test", registry.host), user()).unwrap();
    let asked = tokens.requests();
    assert_eq!(asked.len(), 1, "one token serves all requests");
    assert!(asked[0].path.contains("scope=repository%3Atest%3Apull"), "{}", asked[0].path);
    assert!(asked[0].path.contains("service=s"));
    assert_eq!(asked[0].headers["authorization"], "Basic dXNlcjpzZWNyZXQ=");
    let basic = |request: &Request| {
        request.headers.get("authorization").is_some_and(|value| value.starts_with("Basic"))
    };
    assert!(!registry.requests().iter().any(basic));
}
