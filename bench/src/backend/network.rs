//! A guest's place on the run's bridge: a tap device, whose other end is the guest's.
//!
//! The tap is held by a descriptor and nothing else: it leaves the bridge and is gone when the
//! descriptor is closed, also by a kill.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};

use tare_container::{Bridge, Lease};
use tare_workload::Network as Identity;

/// See the module's text.
pub(super) struct Network {
    tap: OwnedFd,
    /// Who the guest is on the bridge.
    pub(super) guest: Identity,
    /// The host's address there.
    pub(super) host: Ipv4Addr,
    _lease: Lease,
}

/// A network could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// There is no tap.
    #[error(transparent)]
    Tap(#[from] tare_vmm::NetError),
    /// It cannot be put on the bridge.
    #[error(transparent)]
    Bridge(#[from] tare_container::NetworkError),
}

impl Network {
    /// Makes a tap on the bridge.
    pub(super) fn new(bridge: &Bridge) -> Result<Network, Error> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("tare-{}-{number}", std::process::id());
        let tap = tare_vmm::open_tap(&name)?;
        let lease = bridge.join(&name)?;
        let guest = Identity {
            interface: "eth0".to_owned(),
            mac: lease.mac(),
            address: lease.address().octets(),
            prefix: lease.prefix(),
            gateway: Some(lease.gateway().octets()),
        };
        Ok(Network { tap, guest, host: lease.gateway(), _lease: lease })
    }

    /// The guest's hardware address as text.
    pub(super) fn mac_text(&self) -> String {
        self.guest.mac.map(|byte| format!("{byte:02x}")).join(":")
    }
}

impl AsRawFd for Network {
    fn as_raw_fd(&self) -> RawFd {
        self.tap.as_raw_fd()
    }
}
