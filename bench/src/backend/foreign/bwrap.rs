//! bubblewrap: namespaces by command-line options, for sandboxes of desktops.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;

use tare_container::{Limits, SeccompFilter};
use tare_workload::Channel as Wire;

use super::boxed::{Boxed, refuse_streams};
use super::bundle::CAPABILITIES;
use super::enclosure::{AGENT, Enclosure, FIRST_FD};
use super::suits;
use super::tool::Tool;
use crate::backend::instance::Instance;
use crate::backend::{Assignment, Availability, Backend, Error, Prepared};
use crate::kit::Kit;

const NAME: &str = "bwrap";
const TOOL: Tool = Tool { program: NAME, variable: "TARE_BWRAP", package: "bubblewrap" };
/// The descriptor on which it finds the filter.
const FILTER_FD: i32 = FIRST_FD + 1;

/// The backend; see the module's text.
pub(in crate::backend) struct Bwrap;

impl Backend for Bwrap {
    fn name(&self) -> &'static str {
        NAME
    }

    fn about(&self) -> &'static str {
        "bubblewrap, of the host or TARE_BWRAP; it has no cgroups"
    }

    fn probe(&self, _kit: &Kit) -> Availability {
        TOOL.probe()
    }

    fn suits(&self, assignment: &Assignment) -> Availability {
        if assignment.limits != Limits::default() {
            return Availability::Unavailable {
                why: "it limits nothing".to_owned(),
                remedy: "compare crun or runc".to_owned(),
            };
        }
        suits(assignment)
    }

    fn prepare(&self, kit: &Kit, assignment: &Assignment) -> Result<Box<dyn Prepared>, Error> {
        let failed = Error::prepare(NAME);
        refuse_streams(assignment.output).map_err(|error| failed(&error))?;
        let lower = if assignment.with_rootfs { kit.rootfs() } else { kit.empty_root() };
        let lower = lower.map_err(|error| failed(&error))?;
        let enclosure = Enclosure::new(kit, lower).map_err(|error| failed(&error))?;
        let filter = kit.new_scratch_dir().map_err(|error| failed(&error))?.join("filter");
        fs::write(&filter, SeccompFilter::standard().bytes()).map_err(|error| failed(&error))?;
        let mut job = assignment.job.clone();
        job.channel = Wire::Fd(FIRST_FD);
        let Ok(version) = TOOL.version() else {
            return Err(failed(&"it does not tell its version any more"));
        };
        let mut arguments: Vec<String> = [
            "--unshare-pid",
            "--unshare-net",
            "--unshare-ipc",
            "--unshare-uts",
            "--unshare-cgroup",
            "--as-pid-1",
            "--die-with-parent",
            "--new-session",
            "--hostname",
            "tare",
            "--bind",
            &enclosure.root.display().to_string(),
            "/",
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "--ro-bind",
            "/sys",
            "/sys",
            "--clearenv",
            "--chdir",
            "/",
            "--cap-drop",
            "ALL",
            "--seccomp",
            &FILTER_FD.to_string(),
        ]
        .map(str::to_owned)
        .to_vec();
        for capability in CAPABILITIES {
            arguments.extend(["--cap-add", capability].map(str::to_owned));
        }
        arguments.push(AGENT.to_owned());
        arguments.extend(job.to_words());
        Ok(Box::new(Ready { version, enclosure: Rc::new(enclosure), filter, arguments }))
    }
}

struct Ready {
    version: String,
    enclosure: Rc<Enclosure>,
    filter: PathBuf,
    arguments: Vec<String>,
}

impl Prepared for Ready {
    fn state(&self) -> Vec<String> {
        let mut state = vec![
            self.version.clone(),
            format!("{NAME} {}", self.arguments.join(" ")),
            "no limits, no cgroup joined".to_owned(),
            "fresh network namespace, lo up".to_owned(),
            "our namespaces, capabilities and seccomp filter; /proc is masked as it does it, /sys is \
             the host's, read-only"
                .to_owned(),
        ];
        state.extend(Enclosure::state());
        state
    }

    fn reset(&self) -> Result<(), Error> {
        Ok(())
    }

    fn launch(&self) -> Result<Box<dyn Instance>, Error> {
        let failed = |error: io::Error| Error::launch(NAME)(&error);
        // It reads to the end, from where the last one stopped.
        let filter = File::open(&self.filter).map_err(failed)?;
        let mut command = Command::new(TOOL.path());
        command.args(&self.arguments);
        let more = [filter.as_raw_fd()];
        let started = Boxed::start(&self.enclosure, command, &more, None);
        Ok(Box::new(started.map_err(failed)?))
    }
}
