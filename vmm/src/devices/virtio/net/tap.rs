//! A tap device of the host: an Ethernet port whose other end is the host's kernel
//! (Documentation/networking/tuntap.rst).

use std::ffi::c_char;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use thiserror::Error;

use super::super::descriptor::{check, duplicate, own, set_nonblocking};
use super::HEADER_BYTES;
use crate::{NetConfig, TapSource};

/// Every packet has the header of section 5.1.6 before it.
const FLAGS: i32 = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
/// A name with its terminating NUL (`IFNAMSIZ`).
const NAME_BYTES: usize = libc::IFNAMSIZ;

/// Why a tap device cannot be a network device.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NetError {
    /// No such name can be.
    #[error(
        "\"{name}\" cannot be a tap device's name: give from 1 to 15 bytes without '/', NUL, '%' or white space"
    )]
    Name {
        /// What was asked for.
        name: String,
    },
    /// The tap could not be had.
    #[error(
        "cannot {action} the tap device {tap}: {error}; make one (`ip tuntap add NAME mode tap user USER`), see that nothing else uses it, and that /dev/net/tun can be opened (module tun)"
    )]
    Open {
        /// What failed.
        action: &'static str,
        /// The tap's name or descriptor.
        tap: String,
        /// The kernel's answer.
        #[source]
        error: io::Error,
    },
    /// A descriptor is of another kind.
    #[error(
        "descriptor {fd} is no tap device with IFF_NO_PI and IFF_VNET_HDR (its flags are {flags:#x}): get one from `open_tap`"
    )]
    Kind {
        /// The descriptor.
        fd: RawFd,
        /// What the kernel says that it is.
        flags: i32,
    },
    /// The address cannot be a station's.
    #[error("{} cannot be a station's address: clear the lowest bit of its first byte, and leave not all bytes 0", text(.mac))]
    Mac {
        /// What was asked for.
        mac: [u8; 6],
    },
    /// The host's kernel cannot move the packets.
    #[error(
        "cannot {action} /dev/vhost-net: {error}; load the module vhost_net and see that this user may open it, or have the VMM move the packets"
    )]
    Vhost {
        /// What failed.
        action: &'static str,
        /// The kernel's answer.
        #[source]
        error: io::Error,
    },
    /// The device cannot watch its tap.
    #[error(
        "cannot watch the tap device: {error}; see the limits on descriptors (`ulimit -n`, fs.epoll.max_user_watches)"
    )]
    Watch {
        /// The kernel's answer.
        #[source]
        error: io::Error,
    },
}

fn text(bytes: &[u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// Opens the host's tap device `name`, which is made if there is none and may be, for a network
/// device of a microVM. To open it before a launch spares the launch that time and, where the tap
/// belongs to another network namespace or user, a privilege.
///
/// # Errors
///
/// A name that cannot be, or a tap that cannot be had.
pub fn open_tap(name: &str) -> Result<OwnedFd, NetError> {
    let odd = |byte: &u8| matches!(byte, 0 | b'/' | b'%') || byte.is_ascii_whitespace();
    if name.is_empty() || name.len() >= NAME_BYTES || name.as_bytes().iter().any(odd) {
        return Err(NetError::Name { name: name.to_owned() });
    }
    let failed =
        |action: &'static str| move |error| NetError::Open { action, tap: name.to_owned(), error };
    let flags = libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC;
    // SAFETY: the path ends with a NUL.
    let fd = own(unsafe { libc::open(c"/dev/net/tun".as_ptr(), flags) });
    let fd = fd.map_err(failed("open /dev/net/tun for"))?;
    let mut request = request();
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as c_char;
    }
    request.ifr_ifru.ifru_flags = FLAGS as i16;
    // SAFETY: the request is a whole `struct ifreq`.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    check(done).map_err(failed("attach to"))?;
    Ok(fd)
}

/// The network device's end of a tap.
#[derive(Debug)]
pub(super) struct Tap {
    fd: OwnedFd,
}

impl Tap {
    /// Opens or takes what the configuration names, with this device's header and no offloads.
    pub(super) fn open(config: &NetConfig) -> Result<Tap, NetError> {
        let (fd, tap) = match &config.tap {
            TapSource::Name(name) => (open_tap(name)?, name.clone()),
            &TapSource::Fd(fd) => (take(fd)?, format!("of descriptor {fd}")),
        };
        let failed = |action| move |error| NetError::Open { action, tap, error };
        let bytes = HEADER_BYTES as i32;
        // SAFETY: the kernel reads one int.
        let sized = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const bytes) };
        check(sized).map_err(failed("set the header's size of"))?;
        let tap = Tap { fd };
        tap.set_offloads(0);
        Ok(tap)
    }

    /// Something that behaves like a tap.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn from_fd(fd: OwnedFd) -> Tap {
        Tap { fd }
    }

    /// Says which unfinished packets (`TUN_F_`) may come from the host. One that the kernel does
    /// not know leaves all as they were, and the driver without what it may expect, never with
    /// more.
    pub(super) fn set_offloads(&self, offloads: u32) {
        // SAFETY: a request on a plain number.
        unsafe {
            libc::ioctl(self.fd.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads))
        };
    }

    /// Receives one packet into `buffers`; what has no room is lost.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if there is none.
    ///
    /// # Safety
    ///
    /// The buffers must be valid for writing.
    pub(super) unsafe fn receive(&self, buffers: &[libc::iovec]) -> io::Result<usize> {
        // SAFETY: the caller warrants the buffers; there are at most `IOV_MAX` of them, or the
        // kernel refuses.
        let got = unsafe {
            libc::readv(self.fd.as_raw_fd(), buffers.as_ptr(), buffers.len() as libc::c_int)
        };
        usize::try_from(got).map_err(|_| io::Error::last_os_error())
    }

    /// Sends the packet in `buffers`, or not, as Ethernet does: what the host cannot take is lost.
    ///
    /// # Safety
    ///
    /// The buffers must be valid for reading.
    pub(super) unsafe fn send(&self, buffers: &[libc::iovec]) {
        // SAFETY: as in `receive`.
        unsafe {
            libc::writev(self.fd.as_raw_fd(), buffers.as_ptr(), buffers.len() as libc::c_int)
        };
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// A descriptor of one's own of a tap that the embedder has opened. It does not block from now on.
fn take(fd: RawFd) -> Result<OwnedFd, NetError> {
    let failed = |action: &'static str| {
        move |error| NetError::Open { action, tap: format!("of descriptor {fd}"), error }
    };
    let own = duplicate(fd).map_err(failed("duplicate"))?;
    let mut request = request();
    // SAFETY: the request is a whole `struct ifreq`, which only a tap or tun device fills.
    let known = unsafe { libc::ioctl(own.as_raw_fd(), libc::TUNGETIFF, &raw mut request) };
    check(known).map_err(failed("recognise"))?;
    // SAFETY: all bytes were set to 0, and the kernel has set these.
    let flags = i32::from(unsafe { request.ifr_ifru.ifru_flags });
    if flags & (FLAGS | libc::IFF_TUN) != FLAGS {
        return Err(NetError::Kind { fd, flags });
    }
    set_nonblocking(own.as_raw_fd()).map_err(failed("set up"))?;
    Ok(own)
}

fn request() -> libc::ifreq {
    // SAFETY: it is made of plain numbers and pointers, for all of which 0 is a value.
    unsafe { std::mem::zeroed() }
}
