//! Places on a bridge, each a network namespace.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use super::addresses::Lease;
use super::bridge::Bridge;
use super::error::NetworkError;
use super::namespace::within_fresh;
use super::route::{self, STATION_INTERFACE};
use super::socket::Socket;
use crate::error::Error;

/// A network namespace with an interface on a bridge, `eth0`. Dropped, it is left to the kernel,
/// which removes it when the last process in it has ended.
#[derive(Debug)]
pub struct Station {
    namespace: OwnedFd,
    lease: Lease,
    bridge: Bridge,
}

impl Station {
    /// Makes one: loopback and `eth0` up, an address, a route to everywhere.
    ///
    /// # Errors
    /// No privileges, no place on the bridge, or no address.
    pub fn new(bridge: &Bridge) -> Result<Station, Error> {
        let (namespace, mut inside) = within_fresh(|| Socket::open(libc::NETLINK_ROUTE))?;
        let lease = connect(bridge, &namespace)?;
        let index = route::index(&mut inside, STATION_INTERFACE);
        let index = index.map_err(NetworkError::refused("find the interface", lease.port()))?;
        let set_up = [
            route::raise(route::LOOPBACK),
            route::raise(index),
            route::address(index, lease.address(), lease.prefix()),
            route::default_route(index, lease.gateway()),
        ];
        let done = inside.ask(&set_up);
        done.map_err(NetworkError::refused("give its address to the interface", lease.port()))?;
        Ok(Station { namespace, lease, bridge: bridge.clone() })
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.lease.address()
    }

    /// Removes its interface, now. Waits for the kernel's grace periods: some 23 ms.
    ///
    /// # Errors
    /// The kernel refuses; the interface goes with the namespace then.
    pub fn remove(self) -> Result<(), NetworkError> {
        self.bridge.disconnect(&self.lease)
    }
}

impl AsRawFd for Station {
    /// The namespace.
    fn as_raw_fd(&self) -> RawFd {
        self.namespace.as_raw_fd()
    }
}

/// Connects a namespace under an address whose last interface is gone.
fn connect(bridge: &Bridge, namespace: &OwnedFd) -> Result<Lease, NetworkError> {
    // Held until another is found, so that the search comes to an end.
    let mut passed_over = Vec::new();
    loop {
        let lease = bridge.lease()?;
        match bridge.connect(&lease, namespace.as_fd()) {
            Ok(()) => return Ok(lease),
            Err(NetworkError::Refused { source, .. })
                if source.raw_os_error() == Some(libc::EEXIST) =>
            {
                passed_over.push(lease);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Stations for the starts of a [`Spec`](crate::Spec): one for each, made at the start or before.
/// Copies share what is ready.
#[derive(Debug, Clone)]
pub struct Stations {
    bridge: Bridge,
    ready: Arc<Mutex<Vec<Station>>>,
}

impl Stations {
    /// Stations of a bridge, none of them ready.
    #[must_use]
    pub fn new(bridge: &Bridge) -> Stations {
        Stations { bridge: bridge.clone(), ready: Arc::default() }
    }

    /// Makes stations until so many are ready.
    ///
    /// # Errors
    /// As [`Station::new`]; those that are ready stay so.
    pub fn fill(&self, count: usize) -> Result<(), Error> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        while ready.len() < count {
            ready.push(Station::new(&self.bridge)?);
        }
        Ok(())
    }

    /// A station that is ready, or a new one.
    pub(crate) fn take(&self) -> Result<Station, Error> {
        let ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner).pop();
        ready.map_or_else(|| Station::new(&self.bridge), Ok)
    }
}
