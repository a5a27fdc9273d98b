//! Where a box finds its peer.

use core::fmt;

use super::wire::no_delay;
use crate::sys::{File, check, retry};
use crate::{Context, Errno, Error};

/// The host's CID (vsock(7)).
const HOST_CID: u32 = 2;
/// What a kernel without these sockets lacks.
const INTERNET: &str = "AF_INET (CONFIG_INET: --kernel full has it)";

/// Where the peer listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// This port of the host (CID 2), by vsock.
    Vsock(u32),
    /// This address and port, by TCP over IPv4.
    Tcp([u8; 4], u16),
}

impl Peer {
    /// Reads `vsock:PORT` or `tcp:ADDRESS:PORT`.
    pub(crate) fn parse(value: &str) -> Option<Peer> {
        let (kind, rest) = value.split_once(':')?;
        match kind {
            "vsock" => number(rest).map(Peer::Vsock),
            "tcp" => {
                let (address, port) = rest.split_once(':')?;
                Some(Peer::Tcp(quad(address)?, number(port)?))
            }
            _ => None,
        }
    }

    /// Connects a stream socket, which no program that is executed from here inherits.
    ///
    /// # Errors
    /// What the kernel answered: it may not have such sockets, or nobody listens.
    pub fn connect(self) -> Result<i32, Error> {
        self.open().map(File::into_raw)
    }

    pub(crate) fn open(self) -> Result<File, Error> {
        let (family, what) = match self {
            Peer::Vsock(_) => (libc::AF_VSOCK, "AF_VSOCK (CONFIG_VIRTIO_VSOCKETS)"),
            Peer::Tcp(..) => (libc::AF_INET, INTERNET),
        };
        // SAFETY: touches no memory.
        let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
        let socket = check(fd).map(File::from_raw).on("socket", what)?;
        let connected = match self {
            Peer::Vsock(port) => {
                // SAFETY: plain numbers, for which zero is a value.
                let mut address: libc::sockaddr_vm = unsafe { core::mem::zeroed() };
                address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
                address.svm_cid = HOST_CID;
                address.svm_port = port;
                connect(&socket, &address)
            }
            Peer::Tcp(address, port) => {
                no_delay(&socket).on("setsockopt", "TCP_NODELAY")?;
                connect(&socket, &internet(address, port))
            }
        };
        connected.on("connect", alloc::format!("the host's {self}"))?;
        Ok(socket)
    }
}

fn connect<T>(socket: &File, address: &T) -> Result<(), Errno> {
    let length = size_of::<T>() as libc::socklen_t;
    retry(|| {
        // SAFETY: `address` is valid for reading of `length`.
        check(unsafe { libc::connect(socket.fd(), (&raw const *address).cast(), length) })
    })
    .map(drop)
}

/// An address of the internet's sockets.
fn internet(address: [u8; 4], port: u16) -> libc::sockaddr_in {
    // SAFETY: plain numbers, for which zero is a value.
    let mut socket: libc::sockaddr_in = unsafe { core::mem::zeroed() };
    socket.sin_family = libc::AF_INET as libc::sa_family_t;
    socket.sin_port = port.to_be();
    socket.sin_addr.s_addr = u32::from_ne_bytes(address);
    socket
}

impl fmt::Display for Peer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Vsock(port) => write!(formatter, "vsock:{port}"),
            Peer::Tcp([a, b, c, d], port) => write!(formatter, "tcp:{a}.{b}.{c}.{d}:{port}"),
        }
    }
}

fn quad(text: &str) -> Option<[u8; 4]> {
    let mut parts = text.split('.').map(number);
    let quad = [parts.next()??, parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(quad)
}

/// A number in digits alone; the parser would also take a sign.
fn number<T: core::str::FromStr>(digits: &str) -> Option<T> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn test_peer_round_trips_through_text() {
        for peer in [Peer::Vsock(0), Peer::Vsock(u32::MAX), Peer::Tcp([1, 20, 255, 0], 65535)] {
            assert_eq!(Peer::parse(&peer.to_string()), Some(peer));
        }
    }

    #[test]
    fn test_peer_invalid_text_returns_none() {
        for text in
            ["", "vsock", "vsock:", "vsock:+1", "tcp:1.2.3.4", "tcp:1.2.3:5", "tcp:1.2.3.4.5:6"]
        {
            assert_eq!(Peer::parse(text), None, "{text}");
        }
    }
}
