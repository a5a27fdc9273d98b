//! A switch of this host, which its stations share.

use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};

use super::addresses::{Addresses, Lease, mac_of};
use super::error::NetworkError;
use super::nat::Nat;
use super::socket::Socket;
use super::subnet::{Claim, PREFIX, Subnet};
use super::{forwarding, route};

/// What the stations of a bridge reach besides each other and this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Nothing.
    Host,
    /// What this host reaches. While the bridge is there this host forwards
    /// (`net.ipv4.ip_forward`) and keeps track of connections.
    Outside,
}

/// The remark on a bridge whose owner turned forwarding on.
const FORWARDS: &str = "net.ipv4.ip_forward was 0 before";

/// A bridge with the gateway's address. It is removed when this and all that is on it have been
/// dropped. See the module's text.
#[derive(Debug, Clone)]
pub struct Bridge(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    addresses: Arc<Addresses>,
    index: u32,
    socket: Mutex<Socket>,
    _nat: Option<Nat>,
    _claim: Claim,
}

impl Bridge {
    /// Makes one in this thread's network namespace, in the first network of the range that nobody
    /// holds and no route leads to.
    ///
    /// # Errors
    /// No privileges, no such kernel, or every network in use. Nothing is left then.
    pub fn new(reach: Reach) -> Result<Bridge, NetworkError> {
        let mut socket = open()?;
        let (subnet, claim) = claim(&mut socket)?;
        let name = subnet.bridge();
        let made = make(&mut socket, subnet, reach);
        let (index, nat) = made.inspect_err(|_| {
            // What was made is of no use; the first error counts.
            let _ = take_down(&mut socket, subnet);
        })?;
        Ok(Bridge(Arc::new(Inner {
            addresses: Addresses::new(subnet),
            index: index.ok_or(NetworkError::Refused {
                action: "find",
                object: name,
                source: std::io::ErrorKind::NotFound.into(),
            })?,
            socket: Mutex::new(socket),
            _nat: nat,
            _claim: claim,
        })))
    }

    /// Its name among this host's interfaces.
    #[must_use]
    pub fn name(&self) -> String {
        self.0.addresses.subnet.bridge()
    }

    /// This host's address on it.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        self.0.addresses.subnet.gateway()
    }

    /// How many leading bits of its addresses are the network's.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        PREFIX
    }

    /// Puts an interface of this host on the bridge, a tap device for one, and turns it on. Whoever
    /// is behind it may have the address that is returned.
    ///
    /// # Errors
    /// No such interface, no place, or no address.
    pub fn join(&self, interface: &str) -> Result<Lease, NetworkError> {
        let lease = self.0.addresses.lease()?;
        let bridge = self.0.index;
        self.change("put on the bridge the interface", interface, |socket| {
            let index = route::index(socket, interface)?;
            route::enslave(socket, index, bridge)
        })?;
        Ok(lease)
    }

    pub(super) fn lease(&self) -> Result<Lease, NetworkError> {
        self.0.addresses.lease()
    }

    /// Makes a pair of interfaces, one end on the bridge, the other in `namespace`.
    pub(super) fn connect(
        &self,
        lease: &Lease,
        namespace: BorrowedFd<'_>,
    ) -> Result<(), NetworkError> {
        self.change("make the interface", &lease.port(), |socket| {
            route::add_pair(socket, &lease.port(), self.0.index, namespace, lease.mac())
        })
    }

    /// Removes a station's pair.
    pub(super) fn disconnect(&self, lease: &Lease) -> Result<(), NetworkError> {
        self.change("remove the interface", &lease.port(), |socket| {
            route::remove(socket, &lease.port())
        })
    }

    fn change<T>(
        &self,
        action: &'static str,
        object: &str,
        by: impl FnOnce(&mut Socket) -> std::io::Result<T>,
    ) -> Result<T, NetworkError> {
        let mut socket = self.0.socket.lock().unwrap_or_else(PoisonError::into_inner);
        by(&mut socket).map_err(NetworkError::refused(action, object))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        // What cannot be removed now, the next run removes.
        let _ = take_down(&mut socket, self.addresses.subnet);
    }
}

/// Removes the bridges whose owner is gone (by `kill -9`, for example) from this thread's network
/// namespace, and undoes what they changed. Those of live owners are left alone. Returns their
/// names.
///
/// # Errors
/// No privileges.
pub fn sweep_networks() -> Result<Vec<String>, NetworkError> {
    let mut socket = open()?;
    let links = route::links(&mut socket).map_err(NetworkError::refused("list", "interfaces"))?;
    let mut removed = Vec::new();
    for subnet in links.iter().filter_map(|link| Subnet::of_bridge(&link.name)) {
        if let Some(_claim) = claim_of(subnet)? {
            take_down(&mut socket, subnet)?;
            removed.push(subnet.bridge());
        }
    }
    Ok(removed)
}

fn open() -> Result<Socket, NetworkError> {
    Socket::open(libc::NETLINK_ROUTE).map_err(NetworkError::refused("open", "a netlink socket"))
}

fn claim_of(subnet: Subnet) -> Result<Option<Claim>, NetworkError> {
    subnet.claim().map_err(NetworkError::refused("claim", subnet.network().to_string()))
}

/// A network that is nobody else's. A bridge that a dead owner left there is removed.
fn claim(socket: &mut Socket) -> Result<(Subnet, Claim), NetworkError> {
    for subnet in Subnet::all() {
        let Some(claim) = claim_of(subnet)? else { continue };
        take_down(socket, subnet)?;
        let routes = route::destinations(socket);
        let routes = routes.map_err(NetworkError::refused("list", "routes"))?;
        if !routes.iter().any(|(network, prefix)| subnet.overlaps(*network, *prefix)) {
            return Ok((subnet, claim));
        }
    }
    Err(NetworkError::NoSubnet)
}

/// The bridge's number, and the way outside.
fn make(
    socket: &mut Socket,
    subnet: Subnet,
    reach: Reach,
) -> Result<(Option<u32>, Option<Nat>), NetworkError> {
    let name = subnet.bridge();
    let failed = |action| NetworkError::refused(action, name.clone());
    let gateway = subnet.gateway();
    route::add_bridge(socket, &name, mac_of(gateway)).map_err(failed("make the bridge"))?;
    let index = route::index(socket, &name).map_err(failed("find the bridge"))?;
    let address = route::address(index, gateway, PREFIX);
    socket.ask(&[address]).map_err(failed("give its address to the bridge"))?;
    let nat = match reach {
        Reach::Host => None,
        Reach::Outside => {
            let inherited = bridges(socket)?.iter().any(|other| other.remark == FORWARDS);
            // The remark first: what a killed run has changed can then be undone.
            route::remark(socket, index, FORWARDS).map_err(failed("leave a remark on"))?;
            if !forwarding::turn_on()? && !inherited {
                route::remark(socket, index, "").map_err(failed("leave a remark on"))?;
            }
            Some(Nat::new(subnet).map_err(failed("make the rules (nf_tables) of"))?)
        }
    };
    Ok((Some(index), nat))
}

/// All bridges of ours, in this namespace.
fn bridges(socket: &mut Socket) -> Result<Vec<route::Link>, NetworkError> {
    let links = route::links(socket).map_err(NetworkError::refused("list", "interfaces"))?;
    Ok(links.into_iter().filter(|link| Subnet::of_bridge(&link.name).is_some()).collect())
}

/// Removes a network's bridge, if it is there. The last of those for which the host forwards ends
/// that.
fn take_down(socket: &mut Socket, subnet: Subnet) -> Result<(), NetworkError> {
    let name = subnet.bridge();
    let (own, others): (Vec<_>, Vec<_>) =
        bridges(socket)?.into_iter().partition(|link| link.name == name);
    let Some(own) = own.first() else { return Ok(()) };
    let is_last = !others.iter().any(|other| other.remark == FORWARDS);
    if own.remark == FORWARDS && is_last {
        forwarding::turn_off()?;
    }
    route::remove(socket, &name).map_err(NetworkError::refused("remove", name))
}
