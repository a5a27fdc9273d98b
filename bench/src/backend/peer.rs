//! The program of the host that boxes exchange data with: a process of its own, so that it has
//! nothing to do but that, and serves one box after the other.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use tare_workload::{Errno, Job, Peer as Address};

use super::instance::Child;
use super::microvm::{close_all_but, leave_the_harness};
use super::network::{self, Network};
use crate::kit::Kit;

/// The host's vsock port in guests of ours.
pub(super) const VSOCK_PORT: u32 = 1025;

/// A peer process; it ends when this is dropped, or this process.
pub(super) struct Peer {
    child: Child,
    /// Where our VMM reaches it for its guests.
    path: Option<PathBuf>,
    /// Where a box reaches it.
    pub(super) address: Address,
}

impl Peer {
    /// Behind our VMM's socket device: a Unix socket at `path`.
    pub(super) fn unix(path: &Path) -> io::Result<Peer> {
        let child = serve(UnixListener::bind(path)?.into(), false)?;
        Ok(Peer { child, path: Some(path.to_owned()), address: Address::Vsock(VSOCK_PORT) })
    }

    /// At an address of this host.
    pub(super) fn tcp(address: Ipv4Addr) -> io::Result<Peer> {
        let listener = TcpListener::bind((address, 0))?;
        let address = Address::Tcp(address.octets(), listener.local_addr()?.port());
        Ok(Peer { child: serve(listener.into(), true)?, path: None, address })
    }

    /// At a vsock port of this host's kernel.
    pub(super) fn vsock() -> io::Result<Peer> {
        // SAFETY: touches no memory.
        let fd = check(unsafe {
            libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0)
        })?;
        // SAFETY: just made, and nobody else's.
        let listener = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: plain numbers, for which zero is a value.
        let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
        address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
        address.svm_cid = libc::VMADDR_CID_ANY;
        address.svm_port = libc::VMADDR_PORT_ANY;
        let mut length = size_of_val(&address) as libc::socklen_t;
        // SAFETY: `address` is valid for reading of `length`.
        check(unsafe { libc::bind(fd, (&raw const address).cast(), length) })?;
        // SAFETY: touches no memory.
        check(unsafe { libc::listen(fd, 8) })?;
        // SAFETY: `address` is valid for writing of `length`.
        check(unsafe { libc::getsockname(fd, (&raw mut address).cast(), &raw mut length) })?;
        let address = Address::Vsock(address.svm_port);
        Ok(Peer { child: serve(listener, false)?, path: None, address })
    }
}

impl Peer {
    /// For a cell's declared state.
    pub(super) fn state(&self) -> String {
        format!("the program that the box talks with runs, at {}", self.address)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.child.kill();
        if let Some(path) = &self.path {
            // It is in the run's directory, which goes as well.
            let _ = fs::remove_file(path);
        }
    }
}

/// A guest's way to a peer of its own, or to whomever its command wants.
pub(super) struct Link {
    peer: Option<Peer>,
    /// The network that it goes over, if it goes over one.
    pub(super) network: Option<Network>,
}

/// There is no way to a peer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The network could not be made.
    #[error(transparent)]
    Network(#[from] network::Error),
    /// The run's directory.
    #[error(transparent)]
    Kit(#[from] crate::kit::Error),
    /// The peer could not be started.
    #[error("cannot start the program that boxes talk with, at {at}: {error}")]
    Peer {
        /// Where it was to listen.
        at: &'static str,
        /// Why it does not.
        error: io::Error,
    },
}

impl Link {
    /// Through our VMM's socket device.
    pub(super) fn unix(kit: &Kit) -> Result<Link, Error> {
        let path = kit.new_scratch_dir()?.join("peer");
        let peer = Peer::unix(&path).map_err(failed("a Unix socket"))?;
        Ok(Link { peer: Some(peer), network: None })
    }

    /// Through the host's own virtual sockets.
    pub(super) fn vsock() -> Result<Link, Error> {
        let peer = Peer::vsock().map_err(failed("a virtual socket (module vhost_vsock)"))?;
        Ok(Link { peer: Some(peer), network: None })
    }

    /// Over a network.
    pub(super) fn net(kit: &Kit) -> Result<Link, Error> {
        let network = Network::new(kit.bridge()?)?;
        let peer = Peer::tcp(network.host).map_err(failed("the host's address on the bridge"))?;
        Ok(Link { peer: Some(peer), network: Some(network) })
    }

    /// A network, and nobody in particular on it.
    pub(super) fn alone(kit: &Kit) -> Result<Link, Error> {
        Ok(Link { peer: None, network: Some(Network::new(kit.bridge()?)?) })
    }

    /// Tells the agent where the peer is, and what address the guest has.
    pub(super) fn name_in(&self, job: &mut Job) {
        job.peer = self.peer.as_ref().map(|peer| peer.address);
        job.network = self.network.as_ref().map(|network| network.guest.clone());
    }

    /// A connection for a guest of our VMM's, if that makes it.
    pub(super) fn connect(&self) -> io::Result<Option<UnixStream>> {
        let path = self.peer.as_ref().and_then(|peer| peer.path.as_ref());
        path.map(UnixStream::connect).transpose()
    }

    /// For a cell's declared state.
    pub(super) fn state(&self, kit: &Kit) -> Vec<String> {
        let network = self.network.as_ref();
        let network = network.map(|_| format!("a tap device is there; {}", kit.bridge_state()));
        network.into_iter().chain(self.peer.as_ref().map(Peer::state)).collect()
    }
}

fn failed(at: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |error| Error::Peer { at, error }
}

/// Forks the process that serves whoever connects.
fn serve(listener: OwnedFd, is_tcp: bool) -> io::Result<Child> {
    // SAFETY: this process has a single thread (the harness starts none), so the child may go on
    // using all of the program.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            leave_the_harness();
            close_all_but(vec![listener.as_raw_fd()]);
            loop {
                // SAFETY: wants no address.
                let socket = unsafe {
                    let null = std::ptr::null_mut();
                    libc::accept4(listener.as_raw_fd(), null, null.cast(), libc::SOCK_CLOEXEC)
                };
                if socket >= 0 {
                    // A box that was killed is no reason to end: the next one comes.
                    let _: Result<(), Errno> = tare_workload::serve(socket, is_tcp);
                } else if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                    // SAFETY: ends this process at once; atexit handlers belong to the parent.
                    unsafe { libc::_exit(1) };
                }
            }
        }
        pid => Child::adopt(pid),
    }
}

fn check(result: i32) -> io::Result<i32> {
    if result >= 0 { Ok(result) } else { Err(io::Error::last_os_error()) }
}
