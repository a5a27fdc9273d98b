//! Who has which address of a network.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::NetworkError;
use super::subnet::{PREFIX, STATIONS, Subnet};

/// The addresses of a network.
#[derive(Debug)]
pub(super) struct Addresses {
    pub(super) subnet: Subnet,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    taken: BTreeSet<u32>,
    /// Where the search begins: an address that was just given back is the last to be taken again,
    /// for the interface that had it may still be on its way out.
    next: u32,
}

impl Addresses {
    pub(super) fn new(subnet: Subnet) -> Arc<Addresses> {
        Arc::new(Addresses { subnet, state: Mutex::default() })
    }

    /// A free address.
    pub(super) fn lease(self: &Arc<Addresses>) -> Result<Lease, NetworkError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let free = (state.next..STATIONS).chain(0..state.next).find(|n| !state.taken.contains(n));
        let full = NetworkError::Full { gateway: self.subnet.gateway(), addresses: STATIONS };
        let number = free.ok_or(full)?;
        state.taken.insert(number);
        state.next = (number + 1) % STATIONS;
        Ok(Lease { addresses: Arc::clone(self), number })
    }
}

/// An address of a [`Bridge`](super::Bridge)'s network; given back when it is dropped.
#[derive(Debug)]
pub struct Lease {
    addresses: Arc<Addresses>,
    pub(super) number: u32,
}

impl Lease {
    /// The address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.addresses.subnet.station(self.number)
    }

    /// How many leading bits of it are the network's.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        PREFIX
    }

    /// The bridge's own address, by which everything else is reached.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        self.addresses.subnet.gateway()
    }

    /// The address on the link that goes with it: a locally administered one (IEEE 802, bit 1 of
    /// the first byte), so that each is there once.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        mac_of(self.address())
    }

    /// The name of the interface that has it, on this host.
    pub(super) fn port(&self) -> String {
        self.addresses.subnet.port(self.number)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.addresses.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.taken.remove(&self.number);
    }
}

pub(super) fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_lease_is_unique_comes_back_last_and_runs_out() {
        let addresses = Addresses::new(Subnet::all().next().unwrap());
        let first = addresses.lease().unwrap();
        let second = addresses.lease().unwrap();
        assert_eq!(first.address(), Ipv4Addr::new(198, 18, 0, 2));
        assert_eq!(second.mac(), [2, 0, 198, 18, 0, 3]);
        drop(first);
        let rest: Vec<Lease> =
            std::iter::from_fn(|| addresses.lease().ok()).take(STATIONS as usize).collect();
        assert_eq!(rest.len(), STATIONS as usize - 1);
        assert_eq!(rest.last().unwrap().address(), Ipv4Addr::new(198, 18, 0, 2));
        assert!(matches!(addresses.lease(), Err(NetworkError::Full { .. })));
    }
}
