//! A command whose standard streams are a conversation: the agent's side, with this test as host.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::{agent, job};
use tare_workload::{
    Channel, Decoder, Event, FrameKind, INPUT_WINDOW_BYTES, Line, WindowSize, frame_header,
};

struct Host {
    child: Child,
    socket: UnixStream,
    decoder: Decoder,
    frames: std::collections::VecDeque<(FrameKind, Vec<u8>)>,
}

impl Host {
    fn start(script: &str, terminal: Option<WindowSize>) -> Host {
        let (socket, theirs) = UnixStream::pair().unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut job = job("run", &[]);
        let null = std::fs::File::options().write(true).open("/dev/null").unwrap();
        let inherited = [theirs.as_raw_fd(), null.as_raw_fd()];
        job.stdio = Some(Line::Fd(inherited[0]));
        job.channel = Channel::Fd(inherited[1]);
        job.terminal = terminal;
        job.command = ["sh", "-c", script].map(str::to_string).to_vec();
        let mut command = Command::new(agent());
        command.args(job.to_words()).stdin(Stdio::null()).stdout(Stdio::null());
        // SAFETY: fcntl is async-signal-safe.
        unsafe {
            command.pre_exec(move || {
                let done = inherited.map(|fd| libc::fcntl(fd, libc::F_SETFD, 0));
                if done == [0; 2] { Ok(()) } else { Err(std::io::Error::last_os_error()) }
            });
        }
        let child = command.spawn().unwrap();
        Host { child, socket, decoder: Decoder::default(), frames: Default::default() }
    }

    fn say(&mut self, kind: FrameKind, payload: &[u8]) {
        self.socket.write_all(&frame_header(kind, payload.len() as u32)).unwrap();
        self.socket.write_all(payload).unwrap();
    }

    /// The next frame; `None` at the end.
    fn hear(&mut self) -> Option<(FrameKind, Vec<u8>)> {
        let mut buffer = [0; 4096];
        while self.frames.is_empty() {
            let bytes = self.socket.read(&mut buffer).unwrap();
            if bytes == 0 {
                return None;
            }
            self.decoder
                .push(&buffer[..bytes], |event| match event {
                    Event::Frame(kind, payload) => self.frames.push_back((kind, payload)),
                    other => panic!("{other:?}"),
                })
                .unwrap();
        }
        self.frames.pop_front()
    }

    /// Hears until the output holds `text`.
    fn hear_until(&mut self, text: &str) -> String {
        let mut heard = String::new();
        while !heard.contains(text) {
            match self.hear() {
                Some((FrameKind::Stdout, bytes)) => {
                    heard.push_str(&String::from_utf8_lossy(&bytes))
                }
                Some((FrameKind::Taken, _)) => {}
                other => panic!("{other:?} after {heard:?}"),
            }
        }
        heard
    }

    /// Hears all to the `Exit`, answers it and waits for the agent: output, error, bytes taken, and
    /// the status, by both of its ways.
    fn finish(mut self) -> (Vec<u8>, Vec<u8>, usize, i32) {
        let (mut out, mut err, mut taken) = (Vec::new(), Vec::new(), 0);
        let status = loop {
            match self.hear().expect("the agent ended in mid-sentence") {
                (FrameKind::Stdout, bytes) => out.extend(bytes),
                (FrameKind::Stderr, bytes) => err.extend(bytes),
                (FrameKind::Taken, bytes) => {
                    taken += u32::from_le_bytes(bytes.try_into().unwrap()) as usize;
                }
                (FrameKind::Exit, bytes) => break i32::from_le_bytes(bytes.try_into().unwrap()),
                other => panic!("{other:?}"),
            }
        };
        // Until it is answered the agent waits.
        std::thread::sleep(Duration::from_millis(50));
        assert!(self.child.try_wait().unwrap().is_none());
        self.socket.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(self.hear(), None);
        assert_eq!(self.child.wait().unwrap().code(), Some(status));
        (out, err, taken, status)
    }
}

#[test]
fn test_streams_are_kept_apart_and_the_status_comes_last() {
    let mut host = Host::start("cat; echo problem >&2; exit 7", None);
    host.say(FrameKind::Stdin, b"one\n");
    host.say(FrameKind::Stdin, b"two");
    host.say(FrameKind::Stdin, b"");
    assert_eq!(host.finish(), (b"one\ntwo".to_vec(), b"problem\n".to_vec(), 7, 7));
}

#[test]
fn test_output_larger_than_every_buffer_arrives_whole() {
    let host = Host::start("head -c 3000000 /dev/zero | tr '\\0' x; head -c 9 /dev/zero >&2", None);
    let (out, err, _, status) = host.finish();
    assert_eq!((out.len(), err.len(), status), (3_000_000, 9, 0));
    assert!(out.iter().all(|byte| *byte == b'x'));
}

#[test]
fn test_signal_reaches_a_command_that_leaves_a_window_of_input_unread() {
    let mut host = Host::start("trap 'exit 9' TERM; echo; while :; do sleep 0.01; done", None);
    host.hear_until("\n");
    host.say(FrameKind::Stdin, &vec![0; INPUT_WINDOW_BYTES]);
    host.say(FrameKind::Signal, &[libc::SIGTERM as u8]);
    assert_eq!(host.finish().3, 9);
}

#[test]
fn test_signal_reaches_the_whole_group_while_output_is_stuck() {
    let mut host = Host::start("cat /dev/zero | cat", None);
    std::thread::sleep(Duration::from_millis(200));
    host.say(FrameKind::Signal, &[libc::SIGKILL as u8]);
    let (out, _, _, status) = host.finish();
    assert_eq!(status, 128 + libc::SIGKILL);
    assert!(!out.is_empty());
}

#[test]
fn test_input_that_the_command_does_not_want_is_taken_all_the_same() {
    let mut host = Host::start("exec <&-; while :; do sleep 0.01; done", None);
    let mut taken = 0;
    for _ in 0..4 {
        host.say(FrameKind::Stdin, &vec![0; INPUT_WINDOW_BYTES]);
        let sent = taken + INPUT_WINDOW_BYTES;
        while taken < sent {
            let Some((FrameKind::Taken, bytes)) = host.hear() else { panic!() };
            taken += u32::from_le_bytes(bytes.try_into().unwrap()) as usize;
        }
    }
    host.say(FrameKind::Signal, &[libc::SIGINT as u8]);
    assert_eq!(host.finish().3, 128 + libc::SIGINT);
}

#[test]
fn test_terminal_is_one_with_size_input_end_and_interrupt() {
    let size = WindowSize { rows: 10, columns: 33 };
    // Short sleeps: a shell that has just forked may lose the signal for its child.
    let mut host = Host::start(
        "tty; stty size; cat; trap 'exit 5' INT; echo armed; while :; do sleep 0.01; done",
        Some(size),
    );
    let heard = host.hear_until("10 33\r\n");
    assert!(heard.starts_with("/dev/pts/"), "{heard}");
    // An unfinished line: the first end-of-file character ends it, the second the input.
    host.say(FrameKind::Stdin, b"typed");
    host.say(FrameKind::Stdin, b"\x04\x04");
    // Echo and cat.
    assert!(host.hear_until("armed\r\n").contains("typedtyped"));
    // What the interrupt character does is the terminal's work.
    host.say(FrameKind::Stdin, b"\x03");
    assert_eq!(host.finish().3, 5);
}

#[test]
fn test_terminal_takes_its_new_size_and_the_end_of_input() {
    // A `read` that the signal interrupts would end in some shells: `cat` begins after it.
    let mut host = Host::start(
        "trap 'stty size; cat; echo over; exit 0' WINCH; echo set; while :; do sleep 0.01; done",
        Some(WindowSize::DEFAULT),
    );
    host.hear_until("set\r\n");
    host.say(FrameKind::Window, &WindowSize { rows: 5, columns: 6 }.to_bytes());
    host.hear_until("5 6\r\n");
    host.say(FrameKind::Stdin, b"");
    let (out, _, _, status) = host.finish();
    assert_eq!(status, 0);
    assert!(String::from_utf8(out).unwrap().contains("over"));
}

#[test]
fn test_host_that_goes_or_talks_nonsense_ends_the_agent() {
    let says: [(FrameKind, &[u8]); 4] = [
        (FrameKind::Stdout, b"x"),
        (FrameKind::Signal, &[65]),
        (FrameKind::Window, &[1]),
        (FrameKind::Stdin, &[0; INPUT_WINDOW_BYTES + 1]),
    ];
    for (kind, payload) in says {
        let mut host = Host::start("sleep 100", None);
        host.say(kind, payload);
        assert_eq!(host.child.wait().unwrap().code(), Some(125), "{kind:?}");
    }
    let mut host = Host::start("sleep 100", None);
    host.socket.shutdown(std::net::Shutdown::Both).unwrap();
    assert_eq!(host.child.wait().unwrap().code(), Some(125));
}
