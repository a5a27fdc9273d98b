//! crun and runc: runtimes that take an OCI bundle.

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;

use tare_container::Limits;
use tare_workload::Channel as Wire;

use super::boxed::{Boxed, Remains, refuse_streams};
use super::enclosure::{Enclosure, FIRST_FD};
use super::tool::Tool;
use super::{bundle, suits};
use crate::backend::instance::Instance;
use crate::backend::{Assignment, Availability, Backend, Error, Prepared};
use crate::kit::Kit;

/// The backends; see the module's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend) enum OciRuntime {
    /// The one in C, as it comes.
    Crun,
    /// The same, told to leave cgroups alone.
    CrunWithoutCgroup,
    /// The one in Go.
    Runc,
}

impl OciRuntime {
    const fn tool(self) -> Tool {
        match self {
            OciRuntime::Crun | OciRuntime::CrunWithoutCgroup => {
                Tool { program: "crun", variable: "TARE_CRUN", package: "crun" }
            }
            OciRuntime::Runc => Tool { program: "runc", variable: "TARE_RUNC", package: "runc" },
        }
    }

    /// Options before the command.
    fn options(self) -> &'static [&'static str] {
        match self {
            OciRuntime::Crun | OciRuntime::Runc => &[],
            OciRuntime::CrunWithoutCgroup => &["--cgroup-manager=disabled"],
        }
    }
}

impl Backend for OciRuntime {
    fn name(&self) -> &'static str {
        match self {
            OciRuntime::Crun => "crun",
            OciRuntime::CrunWithoutCgroup => "crun:nocgroup",
            OciRuntime::Runc => "runc",
        }
    }

    fn about(&self) -> &'static str {
        match self {
            OciRuntime::Crun => "crun run: the OCI runtime in C, of the host or TARE_CRUN",
            OciRuntime::CrunWithoutCgroup => "the same without a cgroup: --cgroup-manager=disabled",
            OciRuntime::Runc => "runc run: Docker's OCI runtime, of the host or TARE_RUNC",
        }
    }

    fn probe(&self, _kit: &Kit) -> Availability {
        self.tool().probe()
    }

    fn suits(&self, assignment: &Assignment) -> Availability {
        if *self == OciRuntime::CrunWithoutCgroup && assignment.limits != Limits::default() {
            return Availability::Unavailable {
                why: "without a cgroup nothing is limited".to_owned(),
                remedy: "compare crun".to_owned(),
            };
        }
        suits(assignment)
    }

    fn prepare(&self, kit: &Kit, assignment: &Assignment) -> Result<Box<dyn Prepared>, Error> {
        let name = self.name();
        let failed = Error::prepare(name);
        refuse_streams(assignment.output).map_err(|error| failed(&error))?;
        let lower = if assignment.with_rootfs { kit.rootfs() } else { kit.empty_root() };
        let lower = lower.map_err(|error| failed(&error))?;
        let enclosure = Enclosure::new(kit, lower).map_err(|error| failed(&error))?;
        let directory = kit.new_scratch_dir().map_err(|error| failed(&error))?;
        let mut job = assignment.job.clone();
        job.channel = Wire::Fd(FIRST_FD);
        let Ok(version) = self.tool().version() else {
            return Err(failed(&"it does not tell its version any more"));
        };
        let ready = Ready {
            name,
            runtime: *self,
            version,
            enclosure: Rc::new(enclosure),
            directory,
            words: job.to_words(),
            limits: assignment.limits,
            id: RefCell::default(),
        };
        Ok(Box::new(ready))
    }
}

struct Ready {
    name: &'static str,
    runtime: OciRuntime,
    version: String,
    enclosure: Rc<Enclosure>,
    /// The bundle, and the runtime's records of its boxes.
    directory: PathBuf,
    words: Vec<String>,
    limits: Limits,
    /// The next box's.
    id: RefCell<String>,
}

impl Ready {
    fn records(&self) -> PathBuf {
        self.directory.join("records")
    }

    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["--root".to_owned(), self.records().display().to_string()];
        arguments.extend(self.runtime.options().iter().map(|&option| option.to_owned()));
        arguments
    }
}

impl Prepared for Ready {
    fn state(&self) -> Vec<String> {
        let cgroup = match (self.runtime, self.limits == Limits::default()) {
            (OciRuntime::CrunWithoutCgroup, _) => "no limits, no cgroup joined",
            (_, true) => "no limits; it makes and joins a cgroup all the same",
            (_, false) => "cgroup made by the runtime, with the limits that are asked for",
        };
        let mut state = vec![
            self.version.clone(),
            format!(
                "{} {} run --preserve-fds 1",
                self.runtime.tool().program,
                self.arguments().join(" ")
            ),
            cgroup.to_owned(),
            "fresh network namespace, lo up".to_owned(),
            "bundle written before each launch: our namespaces, capabilities, masked paths and \
             refused system calls, the latter without the rules on arguments"
                .to_owned(),
        ];
        state.extend(Enclosure::state());
        state
    }

    fn reset(&self) -> Result<(), Error> {
        let failed = Error::prepare(self.name);
        let cgroup = tare_container::own_cgroup_name().map_err(|error| failed(&error))?;
        let root = self.enclosure.root.display().to_string();
        let config = bundle::config(&root, &self.words, &cgroup, self.limits);
        let path = self.directory.join("config.json");
        fs::write(&path, config.to_string()).map_err(|error| failed(&error))?;
        *self.id.borrow_mut() = cgroup.rsplit('/').next().unwrap_or_default().to_owned();
        Ok(())
    }

    fn launch(&self) -> Result<Box<dyn Instance>, Error> {
        let id = self.id.borrow().clone();
        let mut command = Command::new(self.runtime.tool().path());
        command.args(self.arguments()).args(["run", "--preserve-fds", "1", "--bundle"]);
        command.arg(&self.directory).arg(&id);
        let mut arguments = self.arguments();
        arguments.extend(["delete", "--force", &id].map(str::to_owned));
        let remains = Remains {
            record: self.records().join(&id),
            program: self.runtime.tool().path(),
            arguments,
        };
        let started = Boxed::start(&self.enclosure, command, &[], Some(remains));
        Ok(Box::new(started.map_err(|error| Error::launch(self.name)(&error))?))
    }
}
