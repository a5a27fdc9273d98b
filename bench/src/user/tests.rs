use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tare_workload::{Decoder, Event};

use super::*;
use crate::backend::{self, Channel, Reaped, Scale};

/// Signals are the whole process's.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A microVM of which there is nothing but the conversation.
struct Box {
    ours: UnixStream,
    agent: UnixStream,
    decoder: Decoder,
}

impl Instance for Box {
    fn pidfd(&self) -> BorrowedFd<'_> {
        self.ours.as_fd()
    }
    fn channels(&mut self) -> &mut [Channel] {
        &mut []
    }
    fn reap(&mut self) -> Result<Reaped, backend::Error> {
        Ok(Reaped { code: 0, peak_rss_bytes: None })
    }
    fn kill(&mut self) {}
    fn scale(&self) -> Scale {
        Scale { pid: 0, guest_ram_bytes: None }
    }
    fn conversation(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ours.as_fd())
    }
    fn clean(self: std::boxed::Box<Self>) -> Result<(), backend::Error> {
        Ok(())
    }
}

impl Box {
    fn new() -> Box {
        let (ours, agent) = UnixStream::pair().unwrap();
        agent.set_nonblocking(true).unwrap();
        Box { ours, agent, decoder: Decoder::default() }
    }

    /// What the agent hears now.
    fn hear(&mut self) -> Vec<(FrameKind, Vec<u8>)> {
        let mut frames = Vec::new();
        let mut bytes = vec![0; 1 << 20];
        while let Ok(count @ 1..) = self.agent.read(&mut bytes) {
            let mut sink = |event| match event {
                Event::Frame(kind, payload) => frames.push((kind, payload)),
                other => panic!("{other:?}"),
            };
            self.decoder.push(&bytes[..count], &mut sink).unwrap();
        }
        frames
    }
}

/// The ends of the user's standard streams that are the user's.
fn streams() -> ((PipeReader, PipeWriter), [(PipeReader, PipeWriter); 2]) {
    (pipe().unwrap(), [pipe().unwrap(), pipe().unwrap()])
}

fn serve(user: &mut User<'_>, instance: &Box) {
    for _ in 0..64 {
        user.serve(instance).unwrap();
    }
}

#[test]
fn test_input_goes_out_as_the_agent_takes_it_and_then_its_end() {
    let _guard = alone();
    let ((input, mut typed), [out, err]) = streams();
    let mut instance = Box::new();
    let mut user = User::begin(input.as_fd(), [out.1.as_fd(), err.1.as_fd()], false).unwrap();
    let sent: Vec<u8> = (0..300_000_u32).map(|index| (index % 251) as u8).collect();
    let bytes = sent.clone();
    let writer = std::thread::spawn(move || typed.write_all(&bytes).unwrap());
    let mut heard = Vec::new();
    let mut window_bytes = INPUT_WINDOW_BYTES;
    'all: loop {
        serve(&mut user, &instance);
        for (kind, payload) in instance.hear() {
            assert_eq!(kind, FrameKind::Stdin);
            if payload.is_empty() {
                break 'all;
            }
            assert!(payload.len() <= window_bytes, "more than the agent has room for");
            window_bytes -= payload.len();
            heard.extend(payload);
        }
        if window_bytes == 0 {
            // With no room nothing comes, and nothing but room wakes the harness.
            serve(&mut user, &instance);
            assert!(instance.hear().is_empty());
            assert_eq!(user.polls(&instance).len(), 1);
            user.taken(INPUT_WINDOW_BYTES as u32);
            window_bytes = INPUT_WINDOW_BYTES;
        }
    }
    writer.join().unwrap();
    assert!(heard == sent);
    serve(&mut user, &instance);
    assert!(instance.hear().is_empty(), "the end is said once");
}

#[test]
fn test_output_waits_for_a_slow_reader_and_arrives_whole() {
    let _guard = alone();
    let ((input, _typed), [mut out, mut err]) = streams();
    let instance = Box::new();
    let mut user = User::begin(input.as_fd(), [out.1.as_fd(), err.1.as_fd()], false).unwrap();
    let sent: Vec<u8> = (0..200_000_u32).map(|index| (index % 241) as u8).collect();
    user.output(false, &sent);
    user.output(true, b"problem");
    serve(&mut user, &instance);
    assert!(user.is_full(), "a pipe holds less");
    let mut heard = vec![0; 10_000];
    out.0.read_exact(&mut heard).unwrap();
    let mut more = vec![0; sent.len() - heard.len()];
    std::thread::scope(|scope| {
        scope.spawn(|| out.0.read_exact(&mut more).unwrap());
        user.finish().unwrap();
    });
    assert!([heard, more].concat() == sent);
    let mut heard = [0; 7];
    err.0.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"problem");
}

#[test]
fn test_output_that_nobody_reads_is_a_broken_pipe_for_the_command() {
    let _guard = alone();
    let ((input, _typed), [out, err]) = streams();
    let mut instance = Box::new();
    let mut user = User::begin(input.as_fd(), [out.1.as_fd(), err.1.as_fd()], false).unwrap();
    drop(out.0);
    user.output(false, b"lost");
    serve(&mut user, &instance);
    assert!(!user.is_full());
    assert_eq!(instance.hear(), [(FrameKind::Signal, vec![libc::SIGPIPE as u8])]);
    // And what comes yet does not pile up.
    user.output(false, b"lost");
    assert!(!user.is_full());
}

#[test]
fn test_signals_and_window_sizes_go_to_the_command_past_its_input() {
    let _guard = alone();
    let (_, [out, err]) = streams();
    let size = |rows| nix::pty::Winsize { ws_row: rows, ws_col: 9, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = nix::pty::openpty(Some(&size(7)), None).unwrap();
    let before = nix::sys::termios::tcgetattr(&terminal.slave).unwrap();
    let mut instance = Box::new();
    let input = terminal.slave.as_fd();
    assert_eq!(terminal_size(input), WindowSize { rows: 7, columns: 9 });
    let mut user = User::begin(input, [out.1.as_fd(), err.1.as_fd()], true).unwrap();
    assert_ne!(nix::sys::termios::tcgetattr(&terminal.slave).unwrap(), before);
    user.window_bytes = 0;
    std::fs::File::from(terminal.master.try_clone().unwrap()).write_all(b"typed").unwrap();
    let grown = size(8);
    // SAFETY: the handlers are installed; the size is what the request reads.
    unsafe {
        libc::raise(libc::SIGTERM);
        libc::raise(libc::SIGINT);
        libc::ioctl(terminal.slave.as_raw_fd(), libc::TIOCSWINSZ, &raw const grown);
        libc::raise(libc::SIGWINCH);
    }
    serve(&mut user, &instance);
    let window = WindowSize { rows: 8, columns: 9 }.to_bytes().to_vec();
    assert_eq!(
        instance.hear(),
        [
            (FrameKind::Signal, vec![libc::SIGINT as u8]),
            (FrameKind::Signal, vec![libc::SIGTERM as u8]),
            (FrameKind::Window, window),
        ]
    );
    user.taken(9);
    serve(&mut user, &instance);
    assert_eq!(instance.hear(), [(FrameKind::Stdin, b"typed".to_vec())]);
    user.finish().unwrap();
    assert_eq!(nix::sys::termios::tcgetattr(&terminal.slave).unwrap(), before);
}

#[test]
fn test_agent_that_is_gone_hears_no_more() {
    let _guard = alone();
    let ((input, mut typed), [out, err]) = streams();
    let mut instance = Box::new();
    let mut user = User::begin(input.as_fd(), [out.1.as_fd(), err.1.as_fd()], false).unwrap();
    instance.agent = UnixStream::pair().unwrap().0;
    typed.write_all(b"unheard").unwrap();
    serve(&mut user, &instance);
    assert!(user.input.is_none() && user.outgoing.is_empty());
}
