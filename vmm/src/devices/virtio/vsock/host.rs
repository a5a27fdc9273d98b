//! The host's side: Unix sockets, none of which ever blocks.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// The longest path of a Unix socket: `sun_path` less its NUL (unix(7)).
const PATH_MAX_BYTES: usize = 107;
/// `_` and the digits of the largest port.
const SUFFIX_BYTES: usize = 11;

/// Why a vsock device cannot be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VsockError {
    /// The guest cannot have that CID.
    #[error(
        "guest CID {guest_cid} is reserved: give one from 3 to 4294967294 that no other guest has"
    )]
    Cid {
        /// What was asked for.
        guest_cid: u32,
    },
    /// The path is no possible address of a Unix socket.
    #[error("the vsock path {} is empty or longer than {limit} bytes, which with a port's suffix is all a Unix socket can have: give a shorter one", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// The longest that is possible.
        limit: usize,
    },
    /// Something else has that path.
    #[error("the vsock path {} is in use by another program or is no socket: give another, or remove it", path.display())]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// The socket could not be made.
    #[error("cannot listen on the vsock path {}: {error}; see that its directory exists and may be written", path.display())]
    Listen {
        /// The path.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        error: io::Error,
    },
    /// A socket for a port of the host cannot be used.
    #[error("a socket for the guest cannot be made non-blocking: {error}; give one that is open")]
    Stream {
        /// The kernel's answer.
        #[source]
        error: io::Error,
    },
    /// The device could not watch its sockets.
    #[error(
        "the vsock device cannot watch its sockets: {error}; see the limit on descriptors (`ulimit -n`)"
    )]
    Watch {
        /// The kernel's answer.
        #[source]
        error: io::Error,
    },
}

/// Sockets that a guest reaches at ports of the host, by port. Each is for one connection.
pub type Streams = BTreeMap<u32, UnixStream>;

/// The programs of the host.
#[derive(Debug)]
pub(super) struct Host {
    streams: Streams,
    listener: Option<Listener>,
}

impl Host {
    /// Takes the sockets, and listens on `path` if there is one.
    pub(super) fn new(path: Option<&Path>, streams: Streams) -> Result<Host, VsockError> {
        for socket in streams.values() {
            socket.set_nonblocking(true).map_err(|error| VsockError::Stream { error })?;
        }
        Ok(Host { streams, listener: path.map(Listener::new).transpose()? })
    }

    /// What becomes readable when a program wants to reach the guest, if any can.
    pub(super) fn fd(&self) -> Option<RawFd> {
        self.listener.as_ref().map(|listener| listener.socket.as_raw_fd())
    }

    /// The next program that wants to reach the guest.
    pub(super) fn accept(&self) -> io::Result<UnixStream> {
        let listener = self.listener.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let (socket, _) = listener.socket.accept()?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    /// Reaches the program that stands for the host's `port`.
    pub(super) fn connect(&mut self, port: u32) -> io::Result<UnixStream> {
        if let Some(socket) = self.streams.remove(&port) {
            return Ok(socket);
        }
        let listener = self.listener.as_ref().ok_or(io::ErrorKind::ConnectionRefused)?;
        let mut path = OsString::from(&listener.path);
        path.push(format!("_{port}"));
        connect(Path::new(&path))
    }
}

/// The listening socket, whose file goes with it.
#[derive(Debug)]
struct Listener {
    path: PathBuf,
    socket: UnixListener,
    /// Device and inode of the file, so that another's is not removed.
    file: (u64, u64),
}

impl Listener {
    /// Listens on `path`; a socket that nobody listens on any more is replaced.
    fn new(path: &Path) -> Result<Listener, VsockError> {
        let limit = PATH_MAX_BYTES - SUFFIX_BYTES;
        if path.as_os_str().is_empty() || path.as_os_str().len() > limit {
            return Err(VsockError::Path { path: path.to_owned(), limit });
        }
        let refused = |error| VsockError::Listen { path: path.to_owned(), error };
        let socket = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let socket = fs::symlink_metadata(path).map_err(refused)?.file_type().is_socket();
                let dead = connect(path)
                    .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
                if !(socket && dead) {
                    return Err(VsockError::InUse { path: path.to_owned() });
                }
                fs::remove_file(path).map_err(refused)?;
                UnixListener::bind(path)
            }
            bound => bound,
        }
        .map_err(refused)?;
        let metadata = fs::symlink_metadata(path).map_err(refused)?;
        let file = (metadata.dev(), metadata.ino());
        let listener = Listener { path: path.to_owned(), socket, file };
        listener.socket.set_nonblocking(true).map_err(refused)?;
        Ok(listener)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.file);
        if ours {
            // A file that cannot be removed is found stale by the next one.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Connects at once or not at all: the standard library's way would wait for a full backlog.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let bytes = path.as_os_str().as_bytes();
    // SAFETY: all zero is a valid `sockaddr_un`.
    let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
    if bytes.len() >= address.sun_path.len() || bytes.contains(&0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: a plain call.
    let fd = unsafe { libc::socket(libc::AF_UNIX, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let length = mem::size_of_val(&address) as libc::socklen_t;
    // SAFETY: `address` has `length` bytes.
    if unsafe { libc::connect(fd, (&raw const address).cast(), length) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket.into())
}

/// How much a socket may hold for a program that does not read yet.
const SOCKET_BYTES: libc::c_int = 208 << 10;

/// Has a socket hold as much as the host allows by default, twice over (socket(7): the kernel
/// doubles it for its own needs). A socket that holds less is slower, nothing else.
pub(super) fn enlarge(socket: &UnixStream) {
    let length = size_of_val(&SOCKET_BYTES) as libc::socklen_t;
    let bytes = SOCKET_BYTES;
    // SAFETY: the value is valid for reading of `length`.
    unsafe {
        let bytes = (&raw const bytes).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, bytes, length);
    }
}

/// Sends what the socket takes now of `parts`, as [`send`].
///
/// # Safety
///
/// The parts must be valid for reading.
pub(super) unsafe fn send_parts(socket: &UnixStream, parts: &[libc::iovec]) -> io::Result<usize> {
    let message = message(parts);
    // SAFETY: the message has nothing but the parts, for which the caller vouches.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// What a socket gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Received {
    /// How many bytes; 0 at the end of the stream.
    pub(super) bytes: usize,
    /// The sender has put something beside them, which is lost, and at which this reading ended:
    /// there may be more behind it.
    pub(super) is_cut: bool,
}

/// Receives what the socket has, into `parts`.
///
/// # Errors
///
/// `WouldBlock` if that is nothing.
///
/// # Safety
///
/// The parts must be valid for writing.
pub(super) unsafe fn receive_parts(
    socket: &UnixStream,
    parts: &[libc::iovec],
) -> io::Result<Received> {
    let mut message = message(parts);
    // SAFETY: the message has nothing but the parts, for which the caller vouches.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let bytes = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    Ok(Received { bytes, is_cut: message.msg_flags & libc::MSG_CTRUNC != 0 })
}

fn message(parts: &[libc::iovec]) -> libc::msghdr {
    // SAFETY: plain numbers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = parts.as_ptr().cast_mut();
    message.msg_iovlen = parts.len() as _;
    message
}

/// Sends what the socket takes now. A peer that is gone is an error, never a signal.
pub(super) fn send(socket: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: `bytes` are readable for as long as the call takes.
    let sent = unsafe {
        libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL)
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Whether the peer has closed its socket, not just one direction.
pub(super) fn is_gone(socket: &UnixStream) -> bool {
    poll(socket, 0) & libc::POLLHUP != 0
}

/// Whether there is something to read, be it the end.
pub(super) fn is_ready(socket: &UnixStream) -> bool {
    poll(socket, libc::POLLIN) != 0
}

fn poll(socket: &UnixStream, events: libc::c_short) -> libc::c_short {
    let mut entry = libc::pollfd { fd: socket.as_raw_fd(), events, revents: 0 };
    // SAFETY: one entry, and no time to wait.
    if unsafe { libc::poll(&raw mut entry, 1, 0) } > 0 { entry.revents } else { 0 }
}
