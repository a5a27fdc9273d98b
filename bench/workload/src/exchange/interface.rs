//! A network interface's address, by the requests of netdevice(7): the host's end of a network as
//! well as the box's.
//!
//! A guest kernel's own way (`ip=`) waits for the interface in steps of 10 ms and more.

use super::Address;
use super::peer::INTERNET;
use crate::sys::{File, check};
use crate::{Context, Error};

/// Gives the interface of that name its address, the only one, and turns it on.
///
/// # Errors
/// There is no such interface, or no privilege to set it up.
pub fn raise_interface(name: &str, address: Address) -> Result<(), Error> {
    // SAFETY: touches no memory.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    let socket = check(socket).map(File::from_raw).on("socket", INTERNET)?;
    let ask = |what, code, value: &libc::ifreq| {
        // SAFETY: a whole `struct ifreq`, which these requests only read.
        check(unsafe { libc::ioctl(socket.fd(), code, &raw const *value) }).on(what, name)
    };
    let with = |bytes| {
        let mut request = request(name);
        request.ifr_ifru.ifru_addr = internet(bytes);
        request
    };
    ask("SIOCSIFADDR", libc::SIOCSIFADDR as _, &with(address.bytes))?;
    ask("SIOCSIFNETMASK", libc::SIOCSIFNETMASK as _, &with(address.mask()))?;
    let mut up = request(name);
    up.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    ask("SIOCSIFFLAGS", libc::SIOCSIFFLAGS as _, &up).map(drop)
}

fn request(name: &str) -> libc::ifreq {
    // SAFETY: it is made of plain numbers and pointers, for all of which 0 is a value.
    let mut request: libc::ifreq = unsafe { core::mem::zeroed() };
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

/// `struct sockaddr_in` in the form of `struct sockaddr`: port, address, and nothing.
fn internet(address: [u8; 4]) -> libc::sockaddr {
    let mut data = [0; 14];
    for (to, from) in data[2..].iter_mut().zip(address) {
        *to = from as libc::c_char;
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}
