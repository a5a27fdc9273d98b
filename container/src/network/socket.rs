//! A netlink socket (netlink(7)): requests, acknowledgements and dumps.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::message::{Message, messages, number};

const ERROR: u16 = libc::NLMSG_ERROR as u16;
const DONE: u16 = libc::NLMSG_DONE as u16;
/// The kernel fills no larger datagram for a dump (linux/netlink.h).
const DATAGRAM_BYTES: usize = 32 << 10;
/// The kernel answers before the request returns; this only keeps a mistake from waiting for ever.
const PATIENCE_S: i64 = 10;

/// A socket of one network namespace: that in which it was opened, wherever it is used.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// `protocol` is `NETLINK_ROUTE` or `NETLINK_NETFILTER`.
    pub(super) fn open(protocol: i32) -> io::Result<Socket> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: plain numbers.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, protocol) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just opened, and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let patience = libc::timeval { tv_sec: PATIENCE_S, tv_usec: 0 };
        // SAFETY: a whole `struct timeval` of the size that is told.
        let result = unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVTIMEO,
                (&raw const patience).cast(),
                size_of_val(&patience) as libc::socklen_t,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Socket { fd, sequence: 0 })
    }

    /// Sends requests in one datagram and waits until each that asks for it is acknowledged; the
    /// first that fails is the error.
    pub(super) fn ask(&mut self, requests: &[Message]) -> io::Result<()> {
        let (first, acknowledged) = self.send(requests)?;
        let mut open = acknowledged;
        let mut buffer = vec![0; DATAGRAM_BYTES];
        while open > 0 {
            for message in messages(self.receive(&mut buffer)?) {
                // Answers to an earlier request that failed half-way are of no interest.
                if message.kind != ERROR || message.sequence < first {
                    continue;
                }
                match number(message.payload, 0) {
                    Some(0) => open -= 1,
                    Some(errno) => {
                        return Err(io::Error::from_raw_os_error(-errno.cast_signed()));
                    }
                    None => return Err(io::ErrorKind::InvalidData.into()),
                }
            }
        }
        Ok(())
    }

    /// Sends a request and hands each message of the answer to `take`: type and payload.
    pub(super) fn dump(
        &mut self,
        request: &Message,
        mut take: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        let (first, _) = self.send(std::slice::from_ref(request))?;
        let mut buffer = vec![0; DATAGRAM_BYTES];
        loop {
            for message in messages(self.receive(&mut buffer)?) {
                match (message.kind, number(message.payload, 0)) {
                    _ if message.sequence < first => {}
                    (DONE, _) => return Ok(()),
                    (ERROR, Some(0)) => return Ok(()),
                    (ERROR, Some(errno)) => {
                        return Err(io::Error::from_raw_os_error(-errno.cast_signed()));
                    }
                    (ERROR, None) => return Err(io::ErrorKind::InvalidData.into()),
                    (kind, _) => take(kind, message.payload),
                }
            }
        }
    }

    /// The first sequence number, and how many acknowledgements will come.
    fn send(&mut self, requests: &[Message]) -> io::Result<(u32, usize)> {
        let first = self.sequence + 1;
        let mut datagram = Vec::new();
        for request in requests {
            self.sequence += 1;
            datagram.extend(request.finish(self.sequence));
        }
        // SAFETY: the buffer is valid for reads of its own length.
        let sent =
            unsafe { libc::send(self.fd.as_raw_fd(), datagram.as_ptr().cast(), datagram.len(), 0) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((first, requests.iter().filter(|request| request.is_acknowledged()).count()))
    }

    fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        loop {
            // SAFETY: the buffer is valid for writes of its own length.
            let count = unsafe {
                libc::recv(self.fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0)
            };
            if count >= 0 {
                return Ok(&buffer[..count.unsigned_abs()]);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}
