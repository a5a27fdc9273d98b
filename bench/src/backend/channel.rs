//! The host's end of a box's channel: bytes in, stamped notices out.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use tare_workload::{Decoder, Event, FrameError, FrameKind, Mark};

use super::Error;
use crate::results::Edge;

/// Something a box, or the monitor that runs it, has announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// An edge was passed.
    Edge(Edge),
    /// A mark of no meaning: one of a series that measures what a mark costs.
    Probe,
    /// The agent's report, in its text form.
    Report(Vec<u8>),
    /// What the command wrote: `true` for standard error.
    Output(bool, Vec<u8>),
    /// So many bytes of input have left the agent.
    Taken(u32),
    /// Console text of a guest kernel or of the VMM itself.
    Console(Vec<u8>),
    /// The box's exit status by its own word.
    ExitCode(i32),
    /// Why the agent, or the VMM, gave up.
    Failure(String),
    /// Number of exits by reason, of one microVM.
    VmExits(Vec<(String, u64)>),
    /// Where the time of one microVM's vCPU went, in nanoseconds.
    VmTimes(Vec<(String, u64)>),
}

/// A notice and when it happened, CLOCK_MONOTONIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamped {
    /// Nanoseconds.
    pub at_ns: u64,
    /// What happened.
    pub notice: Notice,
}

/// What a descriptor carries.
#[derive(Debug)]
pub(crate) enum Wire {
    /// The agent's own bytes; the harness stamps them as it wakes.
    Raw(Decoder),
    /// Records of our VMM, stamped on the vCPU thread, around the agent's bytes.
    Records {
        /// Bytes of a record that has not arrived whole.
        partial: Vec<u8>,
        /// Decodes the agent's bytes inside the records.
        decoder: Decoder,
    },
    /// A command's own output: `true` for standard error.
    Output(bool),
    /// What a runtime says of itself.
    Console,
    /// A command's standard streams, over a socket: the host's side of `tare_workload`'s `Line`.
    Conversation(Decoder),
}

/// A descriptor that is read until its end.
#[derive(Debug)]
pub struct Channel {
    fd: Option<OwnedFd>,
    wire: Wire,
}

/// Kinds of records between the VMM's process and the harness; see `microvm.rs`, which writes them.
pub(crate) mod record {
    /// Bytes that the guest wrote to its serial port.
    pub(crate) const SERIAL: u32 = 0;
    /// First KVM_RUN.
    pub(crate) const ENTER: u32 = 1;
    /// First exit of the guest.
    pub(crate) const KERNEL: u32 = 2;
    /// Number of exits by reason, as lines of `name count`.
    pub(crate) const EXITS: u32 = 3;
    /// The VMM failed; the payload says why.
    pub(crate) const FAILURE: u32 = 4;
    /// Where the vCPU's time went, as lines of `name nanoseconds`.
    pub(crate) const TIMES: u32 = 5;
    /// Stamp (8 bytes), kind (4), payload length (4).
    pub(crate) const HEADER_BYTES: usize = 16;
    /// No VMM of ours writes a longer payload.
    pub(crate) const PAYLOAD_MAX_BYTES: usize = 1 << 20;

    /// The header of a record, native byte order: both ends are one program.
    pub(crate) fn header(at_ns: u64, kind: u32, payload_bytes: u32) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&at_ns.to_ne_bytes());
        header[8..12].copy_from_slice(&kind.to_ne_bytes());
        header[12..].copy_from_slice(&payload_bytes.to_ne_bytes());
        header
    }
}

impl Channel {
    /// A channel that carries the agent's own bytes.
    pub(crate) fn raw(fd: OwnedFd) -> Channel {
        Channel { fd: Some(fd), wire: Wire::Raw(Decoder::default()) }
    }

    /// A channel that carries our VMM's records.
    pub(crate) fn records(fd: OwnedFd) -> Channel {
        let wire = Wire::Records { partial: Vec::new(), decoder: Decoder::default() };
        Channel { fd: Some(fd), wire }
    }

    /// A command's standard output, or error.
    pub(crate) fn output(fd: OwnedFd, is_stderr: bool) -> Channel {
        Channel { fd: Some(fd), wire: Wire::Output(is_stderr) }
    }

    /// What a runtime says of itself.
    pub(crate) fn console(fd: OwnedFd) -> Channel {
        Channel { fd: Some(fd), wire: Wire::Console }
    }

    /// A command's standard streams.
    pub(crate) fn conversing(fd: OwnedFd) -> Channel {
        Channel { fd: Some(fd), wire: Wire::Conversation(Decoder::default()) }
    }

    /// The socket, if this is a conversation that has not ended.
    pub(crate) fn conversation(&self) -> Option<BorrowedFd<'_>> {
        match self.wire {
            Wire::Conversation(_) => self.fd(),
            _ => None,
        }
    }

    /// What to wait on; `None` after the end.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(OwnedFd::as_fd)
    }

    /// True while a message has begun and not ended.
    pub fn is_inside_message(&self) -> bool {
        match &self.wire {
            Wire::Raw(decoder) => decoder.is_inside_frame(),
            Wire::Records { partial, decoder } => !partial.is_empty() || decoder.is_inside_frame(),
            // A guest that ends in one has said nothing of its exit status either.
            Wire::Output(_) | Wire::Console | Wire::Conversation(_) => false,
        }
    }

    /// Reads what is there, once, and hands on what it means. `woke_ns` is when the harness woke.
    ///
    /// # Errors
    /// [`Error::Drive`] where reading fails, [`Error::Protocol`] where the box talks nonsense.
    pub fn read(&mut self, woke_ns: u64, sink: &mut dyn FnMut(Stamped)) -> Result<(), Error> {
        let Some(fd) = &self.fd else { return Ok(()) };
        let mut buffer = [0u8; 16384];
        // SAFETY: the buffer is valid for writes of its own length.
        let count = unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        if count < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => Ok(()),
                // A VMM that ended before it had read what was said to it.
                io::ErrorKind::ConnectionReset => {
                    self.fd = None;
                    Ok(())
                }
                _ => Err(Error::drive("cannot read the box's channel")(error)),
            };
        }
        if count == 0 {
            self.fd = None;
            return Ok(());
        }
        let bytes = &buffer[..count.unsigned_abs()];
        match &mut self.wire {
            Wire::Raw(decoder) => decode(decoder, woke_ns, bytes, sink)?,
            Wire::Records { partial, decoder } => read_records(partial, decoder, bytes, sink)?,
            Wire::Output(is_stderr) => {
                sink(Stamped { at_ns: woke_ns, notice: Notice::Output(*is_stderr, bytes.to_vec()) })
            }
            Wire::Console => {
                sink(Stamped { at_ns: woke_ns, notice: Notice::Console(bytes.to_vec()) });
            }
            Wire::Conversation(decoder) => converse(decoder, fd, woke_ns, bytes, sink)?,
        }
        Ok(())
    }
}

fn decode(
    decoder: &mut Decoder,
    at_ns: u64,
    bytes: &[u8],
    sink: &mut dyn FnMut(Stamped),
) -> Result<(), FrameError> {
    decoder.push(bytes, |event| sink(Stamped { at_ns, notice: notice_of(event) }))
}

/// Hears the agent; its last word is answered by the end of this direction.
fn converse(
    decoder: &mut Decoder,
    socket: &OwnedFd,
    at_ns: u64,
    bytes: &[u8],
    sink: &mut dyn FnMut(Stamped),
) -> Result<(), FrameError> {
    let mut misplaced = None;
    decoder.push(bytes, |event| {
        let notice = match event {
            Event::Frame(FrameKind::Stdout | FrameKind::Stderr, _) => notice_of(event),
            Event::Frame(FrameKind::Exit, ref status) if status.len() == 4 => {
                // It fails only if the VMM is gone, which ends the stream as well.
                // SAFETY: touches no memory.
                unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_WR) };
                notice_of(event)
            }
            Event::Frame(FrameKind::Taken, ref count) => match <[u8; 4]>::try_from(&count[..]) {
                Ok(count) => Notice::Taken(u32::from_le_bytes(count)),
                Err(_) => return misplaced = Some("a count of input that is not four bytes"),
            },
            _ => return misplaced = Some("something that is not for a command's streams"),
        };
        sink(Stamped { at_ns, notice });
    })?;
    misplaced.map_or(Ok(()), |what| Err(FrameError::Misplaced(what)))
}

fn notice_of(event: Event) -> Notice {
    match event {
        Event::Mark(Mark::Init) => Notice::Edge(Edge::Init),
        Event::Mark(Mark::Ready) => Notice::Edge(Edge::Ready),
        Event::Mark(Mark::Done) => Notice::Edge(Edge::Done),
        Event::Mark(Mark::Probe) => Notice::Probe,
        Event::Frame(FrameKind::Report, text) => Notice::Report(text),
        Event::Frame(FrameKind::Stdout, bytes) => Notice::Output(false, bytes),
        Event::Frame(FrameKind::Stderr, bytes) => Notice::Output(true, bytes),
        Event::Frame(FrameKind::Exit, bytes) => match <[u8; 4]>::try_from(bytes.as_slice()) {
            Ok(code) => Notice::ExitCode(i32::from_le_bytes(code)),
            Err(_) => Notice::Failure("the agent's exit status is not four bytes".to_owned()),
        },
        Event::Frame(FrameKind::Error, text) => {
            Notice::Failure(String::from_utf8_lossy(&text).into_owned())
        }
        Event::Frame(
            FrameKind::Stdin | FrameKind::Taken | FrameKind::Signal | FrameKind::Window,
            _,
        ) => Notice::Failure("the agent sent a frame of a command's streams elsewhere".to_owned()),
        Event::Text(text) => Notice::Console(text),
    }
}

fn read_records(
    partial: &mut Vec<u8>,
    decoder: &mut Decoder,
    bytes: &[u8],
    sink: &mut dyn FnMut(Stamped),
) -> Result<(), Error> {
    let garbled = || {
        let error = io::Error::from(io::ErrorKind::InvalidData);
        Error::drive("the VMM's process wrote a record that is none")(error)
    };
    partial.extend_from_slice(bytes);
    let mut used = 0;
    while let Some((header, rest)) = partial[used..].split_first_chunk::<{ record::HEADER_BYTES }>()
    {
        let (at, kind_and_length) = header.split_first_chunk::<8>().ok_or_else(garbled)?;
        let (kind, length) = kind_and_length.split_first_chunk::<4>().ok_or_else(garbled)?;
        let length = u32::from_ne_bytes(length.try_into().map_err(|_| garbled())?) as usize;
        if length > record::PAYLOAD_MAX_BYTES {
            return Err(garbled());
        }
        let Some(payload) = rest.get(..length) else { break };
        let at_ns = u64::from_ne_bytes(*at);
        let mut tell = |notice| sink(Stamped { at_ns, notice });
        match u32::from_ne_bytes(*kind) {
            record::SERIAL => decode(decoder, at_ns, payload, sink)?,
            record::ENTER => tell(Notice::Edge(Edge::Enter)),
            record::KERNEL => tell(Notice::Edge(Edge::Kernel)),
            record::EXITS => tell(Notice::VmExits(counts_of(payload))),
            record::TIMES => tell(Notice::VmTimes(counts_of(payload))),
            record::FAILURE => tell(Notice::Failure(String::from_utf8_lossy(payload).into_owned())),
            _ => return Err(garbled()),
        }
        used += record::HEADER_BYTES + length;
    }
    partial.drain(..used);
    Ok(())
}

fn counts_of(payload: &[u8]) -> Vec<(String, u64)> {
    String::from_utf8_lossy(payload)
        .lines()
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(name, count)| Some((name.to_owned(), count.parse().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn read_all(mut channel: Channel) -> Result<Vec<Stamped>, Error> {
        let mut seen = Vec::new();
        while channel.fd().is_some() {
            channel.read(7, &mut |stamped| seen.push(stamped))?;
        }
        Ok(seen)
    }

    #[test]
    fn test_raw_channel_stamps_marks_with_the_wake() {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(&[Mark::Init.byte(), b'h', b'i', Mark::Done.byte()]).unwrap();
        drop(writer);
        let seen = read_all(Channel::raw(reader.into())).unwrap();
        let notices: Vec<_> = seen.iter().map(|stamped| stamped.notice.clone()).collect();
        assert_eq!(
            notices,
            [Notice::Edge(Edge::Init), Notice::Console(b"hi".to_vec()), Notice::Edge(Edge::Done)]
        );
        assert!(seen.iter().all(|stamped| stamped.at_ns == 7));
    }

    #[test]
    fn test_record_channel_keeps_the_vmm_s_stamps() {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(&record::header(100, record::ENTER, 0)).unwrap();
        writer.write_all(&record::header(250, record::SERIAL, 1)).unwrap();
        writer.write_all(&[Mark::Init.byte()]).unwrap();
        writer.write_all(&record::header(300, record::EXITS, 4)).unwrap();
        writer.write_all(b"io 3").unwrap();
        drop(writer);
        let seen = read_all(Channel::records(reader.into())).unwrap();
        assert_eq!(seen[0], Stamped { at_ns: 100, notice: Notice::Edge(Edge::Enter) });
        assert_eq!(seen[1], Stamped { at_ns: 250, notice: Notice::Edge(Edge::Init) });
        assert_eq!(seen[2].notice, Notice::VmExits(vec![("io".to_owned(), 3)]));
    }

    fn frame(kind: FrameKind, payload: &[u8]) -> Vec<u8> {
        [&tare_workload::frame_header(kind, payload.len() as u32)[..], payload].concat()
    }

    #[test]
    fn test_conversation_is_heard_and_its_end_answered() {
        let (ours, mut box_end) = std::os::unix::net::UnixStream::pair().unwrap();
        for (kind, payload) in [
            (FrameKind::Stdout, &b"out"[..]),
            (FrameKind::Taken, &[1, 1, 0, 0]),
            (FrameKind::Stderr, b"err"),
            (FrameKind::Exit, &[3, 0, 0, 0]),
        ] {
            box_end.write_all(&frame(kind, payload)).unwrap();
        }
        let mut channel = Channel::conversing(ours.into());
        let mut notices = Vec::new();
        channel.read(7, &mut |stamped| notices.push(stamped.notice)).unwrap();
        assert_eq!(
            notices,
            [
                Notice::Output(false, b"out".to_vec()),
                Notice::Taken(257),
                Notice::Output(true, b"err".to_vec()),
                Notice::ExitCode(3),
            ]
        );
        // The answer is there before the agent ends.
        assert_eq!(io::Read::read(&mut box_end, &mut [0]).unwrap(), 0);
        drop(box_end);
        channel.read(7, &mut |stamped| panic!("{stamped:?}")).unwrap();
        assert!(channel.fd().is_none() && channel.conversation().is_none());
    }

    #[test]
    fn test_conversation_of_anything_else_is_a_protocol_error() {
        let too_long = tare_workload::FRAME_PAYLOAD_MAX_BYTES as u32 + 1;
        for bytes in [
            frame(FrameKind::Stdin, b"x"),
            frame(FrameKind::Report, b""),
            frame(FrameKind::Exit, b"123"),
            frame(FrameKind::Taken, b"12345"),
            vec![Mark::Done.byte()],
            b"text".to_vec(),
            tare_workload::frame_header(FrameKind::Stdout, too_long).to_vec(),
        ] {
            let (ours, mut box_end) = std::os::unix::net::UnixStream::pair().unwrap();
            box_end.write_all(&bytes).unwrap();
            drop(box_end);
            let error = read_all(Channel::conversing(ours.into())).unwrap_err();
            assert!(matches!(error, Error::Protocol(_)), "{bytes:?}: {error}");
        }
    }

    #[test]
    fn test_record_of_unknown_kind_or_absurd_length_is_an_error() {
        for header in [record::header(1, 99, 0), record::header(1, record::SERIAL, u32::MAX)] {
            let (reader, mut writer) = io::pipe().unwrap();
            writer.write_all(&header).unwrap();
            drop(writer);
            assert!(read_all(Channel::records(reader.into())).is_err());
        }
    }
}
