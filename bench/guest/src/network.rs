//! Giving a network interface its addresses (netdevice(7)).

use tare_workload::{Context, Errno, Error, Network};

/// Gives `network` to the machine: the link's address first, which the kernel takes while the
/// interface is down, then the rest, then up.
///
/// # Errors
/// No such interface, a kernel without IPv4, or a driver that takes no address.
pub(crate) fn take_on(network: &Network) -> Result<(), Error> {
    let of = |what: &str| alloc::format!("{what} of {network}");
    // SAFETY: touches no memory.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    let socket = Socket(check(socket).on("socket", "AF_INET (CONFIG_INET)")?);
    socket.set_up(network, false).on("set down", of("the interface"))?;
    socket.set_mac(network).on("set", of("the link's address"))?;
    socket.set_address(network, libc::SIOCSIFADDR, network.address).on("set", of("the address"))?;
    socket.set_address(network, libc::SIOCSIFNETMASK, network.mask()).on("set", of("the mask"))?;
    socket.set_up(network, true).on("set up", of("the interface"))?;
    match network.gateway {
        Some(gateway) => socket.add_route(gateway).on("add", of("the gateway")),
        None => Ok(()),
    }
}

struct Socket(libc::c_int);

impl Socket {
    fn set_up(&self, network: &Network, up: bool) -> Result<(), Errno> {
        let flags = if up { libc::IFF_UP | libc::IFF_RUNNING } else { 0 };
        let mut request = request(network);
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        self.ask(libc::SIOCSIFFLAGS, &request)
    }

    fn set_mac(&self, network: &Network) -> Result<(), Errno> {
        let mut address = libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: [0; 14] };
        for (place, byte) in address.sa_data.iter_mut().zip(network.mac) {
            *place = byte.cast_signed();
        }
        let mut request = request(network);
        request.ifr_ifru.ifru_hwaddr = address;
        self.ask(libc::SIOCSIFHWADDR, &request)
    }

    fn set_address(
        &self,
        network: &Network,
        what: libc::c_ulong,
        address: [u8; 4],
    ) -> Result<(), Errno> {
        let mut request = request(network);
        request.ifr_ifru.ifru_addr = inet(address);
        self.ask(what, &request)
    }

    /// To everywhere: destination and mask are zero.
    fn add_route(&self, gateway: [u8; 4]) -> Result<(), Errno> {
        // SAFETY: plain numbers and a pointer that may be null.
        let mut route: libc::rtentry = unsafe { core::mem::zeroed() };
        route.rt_dst = inet([0; 4]);
        route.rt_genmask = inet([0; 4]);
        route.rt_gateway = inet(gateway);
        route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
        self.ask(libc::SIOCADDRT, &route)
    }

    fn ask<T>(&self, what: libc::c_ulong, request: &T) -> Result<(), Errno> {
        // SAFETY: each caller gives the struct that its request names; none keeps it.
        check(unsafe { libc::ioctl(self.0, what as _, core::ptr::from_ref(request)) }).map(drop)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // SAFETY: the descriptor is this value's own.
        unsafe { libc::close(self.0) };
    }
}

fn request(network: &Network) -> libc::ifreq {
    // SAFETY: plain numbers and a pointer that may be null.
    let mut request: libc::ifreq = unsafe { core::mem::zeroed() };
    // The last byte stays 0.
    let places = request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1);
    for (place, byte) in places.zip(network.interface.bytes()) {
        *place = byte.cast_signed();
    }
    request
}

/// A `sockaddr_in` in the general form: family, port 0, address.
fn inet(address: [u8; 4]) -> libc::sockaddr {
    let mut general =
        libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: [0; 14] };
    for (place, byte) in general.sa_data[2..].iter_mut().zip(address) {
        *place = byte.cast_signed();
    }
    general
}

fn check(result: libc::c_int) -> Result<libc::c_int, Errno> {
    if result < 0 { Err(Errno::last()) } else { Ok(result) }
}
