//! The address of an interface, by the interface of old (netdevice(7)).

use std::ffi::c_char;
use std::io;
use std::mem;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::error::Error;

/// Gives an interface of this network namespace its address, the only one, and turns it on
/// (netdevice(7)). Both go with the interface.
///
/// # Errors
/// There is no such interface, or no privileges.
pub fn raise_interface(name: &str, address: Ipv4Addr, prefix: u8) -> Result<(), Error> {
    set_up(name, address, prefix).map_err(|source| Error::Path {
        role: "network interface",
        path: name.into(),
        source,
        remedy: "run as root: its address takes CAP_NET_ADMIN",
    })
}

fn set_up(name: &str, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
    let mask = u32::MAX.checked_shl(32_u32.saturating_sub(prefix.into())).unwrap_or(0);
    // SAFETY: a system call on plain numbers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: plain numbers and a pointer, for all of which 0 is a value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    // The last byte stays 0.
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
        *to = from as c_char;
    }
    let mut ask = |what, value| {
        request.ifr_ifru = value;
        // SAFETY: a whole `struct ifreq`, which these requests only read.
        match unsafe { libc::ioctl(socket.as_raw_fd(), what, &raw const request) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    let inet = |address| libc::__c_anonymous_ifr_ifru { ifru_addr: general(address) };
    ask(libc::SIOCSIFADDR as _, inet(address))?;
    ask(libc::SIOCSIFNETMASK as _, inet(mask.into()))?;
    let up = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    ask(libc::SIOCSIFFLAGS as _, libc::__c_anonymous_ifr_ifru { ifru_flags: up })
}

/// A `sockaddr_in` in the general form: family, port 0, address.
fn general(address: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    for (to, from) in data[2..].iter_mut().zip(address.octets()) {
        *to = from as c_char;
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}
