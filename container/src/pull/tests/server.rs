//! A registry that does what a test wants, over plain HTTP on a port of the kernel's choosing.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::image::{Digest, Layout};

/// A request as it came.
#[derive(Debug, Clone, Default)]
pub(super) struct Request {
    pub(super) path: String,
    /// Names in small letters.
    pub(super) headers: BTreeMap<String, String>,
    /// How many came before it for the same path.
    pub(super) before: usize,
}

/// What is done with it.
pub(super) enum Action {
    /// Answer as a good registry does.
    Serve,
    /// Status, further header lines, body. The length is that of the body unless a header says it.
    Reply(u16, Vec<String>, Vec<u8>),
    /// The same, but only so many bytes of the body.
    Cut(usize),
    /// Say nothing.
    Silence,
}

type Handler = dyn Fn(&Request) -> Action + Send + Sync;

pub(super) struct Server {
    pub(super) host: String,
    requests: Arc<Mutex<Vec<Request>>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The manifest of a layout with one image.
pub(super) fn manifest(layout: &Layout) -> Vec<u8> {
    let index = std::fs::read(layout.path().join("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    let digest: Digest = index["manifests"][0]["digest"].as_str().unwrap().parse().unwrap();
    blob(layout, &digest.to_string()).unwrap()
}

pub(super) fn blob(layout: &Layout, digest: &str) -> Option<Vec<u8>> {
    let hex = digest.strip_prefix("sha256:")?;
    std::fs::read(layout.path().join("blobs/sha256").join(hex)).ok()
}

impl Server {
    /// Serves the image of a layout as `/v2/test/...` wherever `handler` lets it.
    pub(super) fn start(
        layout: Arc<Layout>,
        handler: impl Fn(&Request) -> Action + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let ends: Arc<AtomicBool> = Arc::default();
        let handler: Arc<Handler> = Arc::new(handler);
        let (seen, ended) = (Arc::clone(&requests), Arc::clone(&ends));
        let thread = std::thread::spawn(move || {
            let mut silent = Vec::new();
            for stream in listener.incoming() {
                if ended.load(Ordering::Relaxed) {
                    break;
                }
                let mut stream = stream.unwrap();
                let Some(request) = read(&mut stream, &seen) else { continue };
                match handler(&request) {
                    Action::Silence => silent.push(stream),
                    action => answer(&mut stream, &layout, &request, action),
                }
            }
        });
        Server { host, requests, ends, thread: Some(thread) }
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(&self.host);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn read(stream: &mut TcpStream, seen: &Mutex<Vec<Request>>) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let path = first.split(' ').nth(1)?.to_owned();
    let mut headers = BTreeMap::new();
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let mut seen = seen.lock().unwrap();
    let before = seen.iter().filter(|request| request.path == path).count();
    let request = Request { path, headers, before };
    seen.push(request.clone());
    Some(request)
}

fn answer(stream: &mut TcpStream, layout: &Layout, request: &Request, action: Action) {
    let (status, headers, body, sent) = match action {
        Action::Reply(status, headers, body) => {
            let sent = body.len();
            (status, headers, body, sent)
        }
        Action::Cut(sent) => {
            let (status, headers, body) = serve(layout, request);
            (status, headers, body, sent)
        }
        _ => {
            let (status, headers, body) = serve(layout, request);
            let sent = body.len();
            (status, headers, body, sent)
        }
    };
    let mut head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\n");
    if !headers.iter().any(|line| line.starts_with("Content-Length")) {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    headers.iter().for_each(|line| head.push_str(&format!("{line}\r\n")));
    head.push_str("\r\n");
    // Whoever has heard enough closes.
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(&body[..sent.min(body.len())]);
}

fn serve(layout: &Layout, request: &Request) -> (u16, Vec<String>, Vec<u8>) {
    if request.path.starts_with("/v2/test/manifests/") {
        let kind = "Content-Type: application/vnd.oci.image.manifest.v1+json".to_owned();
        return (200, vec![kind], manifest(layout));
    }
    let body = request.path.rsplit('/').next().and_then(|digest| blob(layout, digest));
    let Some(body) = body else { return (404, vec![], b"nothing".to_vec()) };
    let from = request
        .headers
        .get("range")
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    match from {
        None => (200, vec![], body),
        Some(from) => {
            let range = format!("Content-Range: bytes {from}-{}/{}", body.len() - 1, body.len());
            (206, vec![range], body[from..].to_vec())
        }
    }
}
