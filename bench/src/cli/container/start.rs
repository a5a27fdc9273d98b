//! The start of a container that has a name, attended or detached.

use std::fs::File;
use std::io::{PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tare_container::{Bundle, Container, OciError, PreparedBundle, Running, Spec, Terminal};

use crate::held::{Held, Record};
use crate::interrupt::Signals;
use crate::relay::{self, Far, Near, Piece};

/// Of a shell, where a command could not be started at all.
const NOT_STARTED: u8 = 125;
/// What is kept of a terminal's output while nobody is attached.
const BACKLOG_BYTES: usize = 64 << 10;

/// How a container is started.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct Start {
    /// Its name [default: made of this process's id]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Leave it running, held by a process of its own; prints its name
    #[arg(short, long)]
    detach: bool,
}

impl Start {
    pub(in crate::cli) fn is_detached(&self) -> bool {
        self.detach
    }

    fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| format!("tare-{}", std::process::id()))
    }
}

/// What is started.
pub(in crate::cli) enum Launch {
    /// One of this program's own.
    Spec { spec: Box<Spec>, command: Vec<String>, rootless: bool },
    /// A bundle in this directory, whose configuration this is.
    Bundle { bundle: Box<Bundle>, directory: PathBuf, config: String },
}

/// Starts it; the exit code of its command, or of this one if it is detached.
pub(in crate::cli) fn start(args: &Start, launch: Launch) -> anyhow::Result<u8> {
    if args.detach {
        return detach(args, launch);
    }
    let held = Held::claim(&args.name())?;
    let (mut container, bundle) = match begin(&held, &args.name(), launch) {
        Ok(begun) => begun,
        Err(error) => return could_not(&error),
    };
    match container.take_terminal() {
        Some(terminal) => {
            let mut near = Near { terminal: File::from(terminal), container: &container };
            relay::converse(&mut near, false)?;
        }
        None => forward_signals(&container)?,
    }
    let code = end(container)?;
    if let Some(bundle) = bundle {
        bundle.after_end();
    }
    Ok(code)
}

/// Says why, as a shell does of a command that it cannot start.
fn could_not(error: &anyhow::Error) -> anyhow::Result<u8> {
    eprintln!("tare: {}", crate::cli::explain(error));
    let status = error.chain().find_map(|cause| {
        let container = cause.downcast_ref::<tare_container::Error>();
        let oci = cause.downcast_ref::<OciError>().and_then(|error| match error {
            OciError::Container(error) => Some(error),
            _ => None,
        });
        container.or(oci).map(tare_container::Error::shell_status)
    });
    Ok(status.unwrap_or(NOT_STARTED))
}

fn begin(
    held: &Held,
    name: &str,
    launch: Launch,
) -> anyhow::Result<(Container, Option<PreparedBundle>)> {
    let (container, bundle, mut record) = match launch {
        Launch::Spec { spec, command, rootless } => {
            let has_terminal = spec.terminal.is_some();
            let container = spec.prepare()?.spawn()?;
            (container, None, Record { command, rootless, has_terminal, ..Record::new(name) })
        }
        Launch::Bundle { mut bundle, directory, config } => {
            let has_terminal = bundle.has_terminal();
            let words = bundle.spec_mut().args.iter();
            let command = words.map(|word| word.to_string_lossy().into_owned()).collect();
            let prepared = bundle.prepare(name)?;
            let record = Record {
                command,
                has_terminal,
                bundle: Some((directory, config)),
                ..Record::new(name)
            };
            (prepared.spawn()?, Some(prepared), record)
        }
    };
    // One that has ended already is nobody's to find.
    if let Ok(running) = Running::of(&container) {
        record.pid = running.pid();
        record.start_ticks = running.start_ticks();
        record.cgroups = container.cgroup_paths();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        record.started_unix_s = now.as_secs();
        held.record(&record)?;
    }
    Ok((container, bundle))
}

/// Passes on what is sent to this program until the container has ended.
pub(super) fn forward_signals(container: &Container) -> anyhow::Result<()> {
    let mut signals = Signals::take()?;
    loop {
        let mut fds = [
            PollFd::new(container.pidfd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if fds[0].any().unwrap_or(false) {
            return Ok(());
        }
        for forwarded in signals.heard().filter(|f| f.signal != libc::SIGWINCH) {
            container.signal(forwarded.signal)?;
        }
    }
}

/// Its exit status, as a shell has it; it is gone then.
pub(super) fn end(mut container: Container) -> anyhow::Result<u8> {
    let status = container.wait()?.shell_status();
    container.remove()?;
    Ok(u8::try_from(status).unwrap_or(crate::cli::exit::FAILED))
}

/// Starts it in a process that holds it, and waits until it has begun.
fn detach(args: &Start, launch: Launch) -> anyhow::Result<u8> {
    let (mut reader, writer) = std::io::pipe()?;
    // SAFETY: this program has one thread, so that its child may do what it likes.
    match unsafe { nix::unistd::fork()? } {
        nix::unistd::ForkResult::Parent { .. } => {
            drop(writer);
            let mut said = Vec::new();
            reader.read_to_end(&mut said)?;
            match said.split_first() {
                Some((0, _)) => {
                    println!("{}", args.name_of_child(&said));
                    Ok(crate::cli::exit::OK)
                }
                Some((code, text)) => {
                    eprint!("{}", String::from_utf8_lossy(text));
                    Ok(*code)
                }
                None => anyhow::bail!("the process that was to hold the container has died"),
            }
        }
        nix::unistd::ForkResult::Child => {
            drop(reader);
            let code = hold(args, launch, writer).unwrap_or(crate::cli::exit::FAILED);
            std::process::exit(code.into());
        }
    }
}

impl Start {
    /// What the holder has said after its 0: the name.
    fn name_of_child(&self, said: &[u8]) -> String {
        String::from_utf8_lossy(said.get(1..).unwrap_or_default()).into_owned()
    }
}

/// The holder: a session of its own, without the caller's streams.
fn hold(args: &Start, launch: Launch, mut writer: PipeWriter) -> anyhow::Result<u8> {
    nix::unistd::setsid()?;
    let name = args.name();
    let begun = Held::claim(&name).and_then(|held| {
        let begun = begin(&held, &name, launch)?;
        let listener = UnixListener::bind(held.socket())?;
        Ok((held, begun, listener))
    });
    let (held, (mut container, bundle), listener) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            let code = could_not(&error)?;
            // The text is on the caller's standard error, which is still this process's.
            writer.write_all(&[code])?;
            return Ok(code);
        }
    };
    writer.write_all(&[0])?;
    writer.write_all(name.as_bytes())?;
    drop(writer);
    let null = File::options().read(true).write(true).open("/dev/null")?;
    for number in 0..3 {
        // SAFETY: plain numbers; the streams are used by their numbers only.
        unsafe { libc::dup2(null.as_raw_fd(), number) };
    }
    let terminal = container.take_terminal();
    serve(&mut container, terminal, &listener)?;
    let code = end(container)?;
    if let Some(bundle) = bundle {
        bundle.after_end();
    }
    drop(held);
    Ok(code)
}

/// Lets one user at a time have the terminal, until the container has ended.
fn serve(
    container: &mut Container,
    terminal: Option<OwnedFd>,
    listener: &UnixListener,
) -> anyhow::Result<()> {
    let mut client: Option<std::os::unix::net::UnixStream> = None;
    let mut backlog: Vec<u8> = Vec::new();
    // Signals are for the container, whose end ends this.
    let mut near = terminal.map(File::from);
    loop {
        let mut fds = vec![
            PollFd::new(container.pidfd(), PollFlags::POLLIN),
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(near.iter().map(|file| PollFd::new(file.as_fd(), PollFlags::POLLIN)));
        fds.extend(client.iter().map(|stream| PollFd::new(stream.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        drop(fds);
        let at = |index: usize| ready.get(index).copied().unwrap_or(false);
        let says = near.is_some() && at(2);
        let typed = client.is_some() && at(2 + usize::from(near.is_some()));
        if says && let Some(terminal) = near.take() {
            let mut end = Near { terminal, container };
            let heard = end.hear().unwrap_or(None);
            let Near { terminal, .. } = end;
            if let Some(bytes) = heard {
                near = Some(terminal);
                client =
                    client.filter(|stream| relay::send(&mut &*stream, Piece::Data, &bytes).is_ok());
                backlog.extend(bytes);
                let surplus = backlog.len().saturating_sub(BACKLOG_BYTES);
                backlog.drain(..surplus);
            }
        }
        if typed && let Some(mut stream) = client.take() {
            let piece = relay::receive(&mut stream).unwrap_or(None);
            if let (Some((kind, bytes)), Some(terminal)) = (piece, near.take()) {
                let mut end = Near { terminal, container };
                let told = match (kind, &bytes[..]) {
                    (Piece::Size, [a, b, c, d]) => end.resize(Terminal {
                        rows: u16::from_le_bytes([*a, *b]),
                        columns: u16::from_le_bytes([*c, *d]),
                    }),
                    (Piece::Data, bytes) => end.tell(bytes),
                    _ => Ok(()),
                };
                near = Some(end.terminal);
                client = told.is_ok().then_some(stream);
            }
        }
        if ready[1] {
            let (stream, _) = listener.accept()?;
            // One that does not listen must not stop the container's output.
            stream.set_write_timeout(Some(Duration::from_secs(1)))?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            let first = match (&client, &near) {
                (Some(_), _) => Some(&b"somebody else is attached\r\n"[..]),
                (None, None) => Some(&b"it has no terminal\r\n"[..]),
                _ => None,
            };
            let said = relay::send(&mut &stream, Piece::Data, first.unwrap_or(&backlog));
            if first.is_none() && said.is_ok() {
                client = Some(stream);
            }
        }
        if ready[0] && !says {
            let status = container.wait()?.shell_status();
            if let Some(stream) = &client {
                let _ = relay::send(&mut &*stream, Piece::Status, &[status.to_le_bytes()[0]]);
            }
            return Ok(());
        }
    }
}
