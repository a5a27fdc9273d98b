//! Interfaces, addresses and routes, by rtnetlink(7).

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::message::{CREATE, DUMP, EXCLUSIVE, Message, attributes, number};
use super::socket::Socket;

/// Fixed parts: `struct ifinfomsg` and `struct rtmsg`.
const LINK_BYTES: usize = 16;
const ROUTE_BYTES: usize = 12;

// linux/if_link.h
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
const VETH_INFO_PEER: u16 = 1;

const UP: u32 = libc::IFF_UP as u32;
/// The loopback interface is the first of every namespace.
pub(super) const LOOPBACK: u32 = 1;

/// A new interface, to be turned on.
fn new_link() -> Message {
    Message::new(libc::RTM_NEWLINK, CREATE | EXCLUSIVE).fixed(&link_bytes(0, true))
}

/// `struct ifinfomsg`: family, type, index, flags, mask of flags.
fn link_bytes(index: u32, up: bool) -> [u8; LINK_BYTES] {
    let mut bytes = [0; LINK_BYTES];
    let flags = if up { UP } else { 0 };
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&flags.to_ne_bytes());
    bytes
}

/// A bridge that is up. It forwards at once (no spanning tree) and asks nobody for groups.
pub(super) fn add_bridge(socket: &mut Socket, name: &str, mac: [u8; 6]) -> io::Result<()> {
    let message = new_link()
        .text(libc::IFLA_IFNAME, name)
        // Its own, or it would change with the interfaces that come and go.
        .attribute(libc::IFLA_ADDRESS, &mac)
        .nest(libc::IFLA_LINKINFO, |info| {
            info.text(libc::IFLA_INFO_KIND, "bridge")
                .nest(libc::IFLA_INFO_DATA, |data| data.attribute(IFLA_BR_MCAST_SNOOPING, &[0]))
        });
    socket.ask(&[message])
}

/// A pair of interfaces: `name` here, up and on a bridge, and `eth0` in another namespace, which can
/// only be turned on once there is a pair.
pub(super) fn add_pair(
    socket: &mut Socket,
    name: &str,
    bridge: u32,
    namespace: BorrowedFd<'_>,
    mac: [u8; 6],
) -> io::Result<()> {
    let message = new_link()
        .text(libc::IFLA_IFNAME, name)
        .attribute(libc::IFLA_MASTER, &bridge.to_ne_bytes())
        .nest(libc::IFLA_LINKINFO, |info| {
            info.text(libc::IFLA_INFO_KIND, "veth").nest(libc::IFLA_INFO_DATA, |data| {
                data.nest(VETH_INFO_PEER, |peer| {
                    peer.fixed(&link_bytes(0, false))
                        .text(libc::IFLA_IFNAME, STATION_INTERFACE)
                        .attribute(libc::IFLA_ADDRESS, &mac)
                        .attribute(
                            libc::IFLA_NET_NS_FD,
                            &namespace.as_raw_fd().cast_unsigned().to_ne_bytes(),
                        )
                })
            })
        });
    socket.ask(&[message])
}

/// What a station's interface is called in its namespace.
pub(super) const STATION_INTERFACE: &str = "eth0";

/// Puts an interface on a bridge and turns it on.
pub(super) fn enslave(socket: &mut Socket, index: u32, bridge: u32) -> io::Result<()> {
    socket.ask(&[raise(index).attribute(libc::IFLA_MASTER, &bridge.to_ne_bytes())])
}

/// Removes an interface, and with a pair its other end; one that is gone already is no error.
pub(super) fn remove(socket: &mut Socket, name: &str) -> io::Result<()> {
    let message =
        Message::new(libc::RTM_DELLINK, 0).fixed(&[0; LINK_BYTES]).text(libc::IFLA_IFNAME, name);
    match socket.ask(&[message]) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        other => other,
    }
}

/// Leaves a remark on an interface, for whoever finds it.
pub(super) fn remark(socket: &mut Socket, index: u32, text: &str) -> io::Result<()> {
    socket.ask(&[raise(index).attribute(libc::IFLA_IFALIAS, text.as_bytes())])
}

/// The number of an interface.
pub(super) fn index(socket: &mut Socket, name: &str) -> io::Result<u32> {
    let request = Message::new(libc::RTM_GETLINK, 0).fixed(&[0; LINK_BYTES]);
    let mut found = None;
    socket.dump(&request.text(libc::IFLA_IFNAME, name), |_, payload| {
        found = number(payload, 4);
    })?;
    found.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// An address of an interface, with the route to its network.
pub(super) fn address(index: u32, address: Ipv4Addr, prefix: u8) -> Message {
    // struct ifaddrmsg: family, prefix, flags, scope, index.
    let mut fixed = [libc::AF_INET as u8, prefix, 0, 0, 0, 0, 0, 0];
    fixed[4..].copy_from_slice(&index.to_ne_bytes());
    Message::new(libc::RTM_NEWADDR, CREATE | EXCLUSIVE)
        .fixed(&fixed)
        .attribute(libc::IFA_LOCAL, &address.octets())
        .attribute(libc::IFA_ADDRESS, &address.octets())
}

/// The route to everywhere.
pub(super) fn default_route(index: u32, gateway: Ipv4Addr) -> Message {
    // struct rtmsg: family, lengths, type of service, table, protocol, scope, type, flags.
    let fixed = [
        libc::AF_INET as u8,
        0,
        0,
        0,
        libc::RT_TABLE_MAIN,
        libc::RTPROT_STATIC,
        libc::RT_SCOPE_UNIVERSE,
        libc::RTN_UNICAST,
        0,
        0,
        0,
        0,
    ];
    Message::new(libc::RTM_NEWROUTE, CREATE | EXCLUSIVE)
        .fixed(&fixed)
        .attribute(libc::RTA_GATEWAY, &gateway.octets())
        .attribute(libc::RTA_OIF, &index.to_ne_bytes())
}

/// Turns an interface on.
pub(super) fn raise(index: u32) -> Message {
    Message::new(libc::RTM_NEWLINK, 0).fixed(&link_bytes(index, true))
}

/// The destinations of all routes, local addresses among them: network and prefix.
pub(super) fn destinations(socket: &mut Socket) -> io::Result<Vec<(Ipv4Addr, u8)>> {
    let mut fixed = [0; ROUTE_BYTES];
    fixed[0] = libc::AF_INET as u8;
    let mut found = Vec::new();
    socket.dump(&Message::new(libc::RTM_GETROUTE, DUMP).fixed(&fixed), |_, payload| {
        let network = attributes(payload, ROUTE_BYTES)
            .find(|(kind, _)| *kind == libc::RTA_DST)
            .and_then(|(_, value)| <[u8; 4]>::try_from(value).ok());
        if let (Some(network), Some(prefix)) = (network, payload.get(1)) {
            found.push((network.into(), *prefix));
        }
    })?;
    Ok(found)
}

/// An interface of this namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) name: String,
    /// See [`remark`].
    pub(super) remark: String,
}

/// All interfaces.
pub(super) fn links(socket: &mut Socket) -> io::Result<Vec<Link>> {
    let mut found = Vec::new();
    let request = Message::new(libc::RTM_GETLINK, DUMP).fixed(&[0; LINK_BYTES]);
    socket.dump(&request, |_, payload| {
        let text = |wanted| {
            let mut all = attributes(payload, LINK_BYTES);
            let value = all.find(|(kind, _)| *kind == wanted).map_or(&[][..], |(_, value)| value);
            String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
        };
        found.push(Link { name: text(libc::IFLA_IFNAME), remark: text(libc::IFLA_IFALIAS) });
    })?;
    Ok(found)
}
