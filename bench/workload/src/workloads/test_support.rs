//! Running a workload inside the test process.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::string::{String, ToString};
use std::vec::Vec;

use crate::{Env, Errno, Error, FrameKind, Mark, Outlet, Params, Report, Stdio, Unit, find};

/// Keeps what a workload sends.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) marks: RefCell<Vec<Mark>>,
    pub(crate) frames: RefCell<Vec<(FrameKind, Vec<u8>)>>,
}

impl Outlet for Recorder {
    fn mark(&self, mark: Mark) {
        self.marks.borrow_mut().push(mark);
    }

    fn frame(&self, kind: FrameKind, payload: &[u8]) -> Result<(), Errno> {
        self.frames.borrow_mut().push((kind, payload.to_vec()));
        Ok(())
    }

    fn seal(&self) -> Result<(), Errno> {
        Ok(())
    }
}

/// Prepares and runs the workload called `name`.
pub(crate) fn run_with(
    name: &str,
    given: &[(&str, &str)],
    env: &Env<'_>,
) -> Result<(i32, Report), Error> {
    let workload = find(name).unwrap();
    let given: BTreeMap<String, String> =
        given.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    let params = Params::new(workload, &given)?;
    workload.check(&params)?;
    let mut report = Report::new();
    let status = workload.prepare(&params, env)?.run(&mut report)?;
    for metric in report.metrics() {
        let spec = workload.metrics().iter().find(|spec| spec.name == metric.name);
        assert_eq!(spec.map(|spec| spec.unit), Some(metric.unit), "{} undeclared", metric.name);
        if metric.unit == Unit::Nanoseconds {
            assert!(metric.samples.iter().all(|ns| *ns >= 0.0), "{metric:?}");
        }
    }
    Ok((status, report))
}

/// The same with nothing but an optional scratch directory around it.
pub(crate) fn run(
    name: &str,
    given: &[(&str, &str)],
    scratch: Option<&str>,
) -> Result<Report, Error> {
    let outlet = Recorder::default();
    let env = Env { outlet: &outlet, scratch, peer: None, command: &[], stdio: Stdio::Inherit };
    run_with(name, given, &env).map(|(status, report)| {
        assert_eq!(status, 0);
        report
    })
}

/// The same with a peer, which serves one connection by TCP.
pub(crate) fn run_with_peer(name: &str, given: &[(&str, &str)]) -> Result<Report, Error> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let peer = std::thread::spawn(move || {
        let socket = listener.accept().unwrap().0;
        crate::serve(std::os::fd::IntoRawFd::into_raw_fd(socket), true)
    });
    let outlet = Recorder::default();
    let env = Env {
        outlet: &outlet,
        scratch: None,
        peer: Some(crate::Peer::Tcp([127, 0, 0, 1], port)),
        command: &[],
        stdio: Stdio::Inherit,
    };
    let result = run_with(name, given, &env).map(|(_, report)| report);
    peer.join().unwrap().unwrap();
    result
}

/// The samples of a metric that must be there.
pub(crate) fn samples<'a>(report: &'a Report, name: &str) -> &'a [f64] {
    &report.metric(name).unwrap_or_else(|| panic!("no metric {name} in {report:?}")).samples
}
