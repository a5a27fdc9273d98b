//! A network of two stations: a tap device, whose one end is this host and whose other is a guest.
//!
//! The tap is held by a descriptor and nothing else, and its address is its own: both are gone when
//! the descriptor is closed, also by a kill. There is no bridge, for nobody else is on the network.

use std::ffi::CString;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};

use tare_workload::Network as Identity;

/// Networks are cut from 198.18.0.0/15, which is for measurements between networks (RFC 2544,
/// appendix C.2.2), so that they are nobody else's: four addresses for each.
const BASE: u32 = u32::from_be_bytes([198, 18, 0, 0]);
const NETWORKS: u32 = 1 << 15;
const PREFIX: u8 = 30;

/// See the module's text.
pub(super) struct Network {
    tap: OwnedFd,
    /// The host's end.
    pub(super) host: Ipv4Addr,
    /// The guest's end.
    pub(super) guest: Identity,
}

/// A network could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// There is no tap.
    #[error(transparent)]
    Tap(#[from] tare_vmm::NetError),
    /// The host's end has no address.
    #[error(transparent)]
    Address(#[from] tare_container::Error),
    /// The tap is gone again.
    #[error("the tap device {name} has no index: {error}")]
    Index {
        /// Its name.
        name: String,
        /// What the kernel answered.
        error: io::Error,
    },
}

impl Network {
    /// The guest's hardware address: it is alone on its network.
    pub(super) const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];

    /// Makes one.
    pub(super) fn new() -> Result<Network, Error> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("tare-{}-{number}", std::process::id());
        let tap = tare_vmm::open_tap(&name)?;
        // No other interface has that number, hence that network.
        let base = BASE + index(&name)? % NETWORKS * 4;
        let host = Ipv4Addr::from(base + 1);
        tare_container::raise_interface(&name, host, PREFIX)?;
        let guest = Identity {
            interface: "eth0".to_owned(),
            mac: Network::MAC,
            address: (base + 2).to_be_bytes(),
            prefix: PREFIX,
            gateway: None,
        };
        Ok(Network { tap, host, guest })
    }

    /// The guest's hardware address as text.
    pub(super) fn mac_text() -> String {
        Network::MAC.map(|byte| format!("{byte:02x}")).join(":")
    }
}

impl AsRawFd for Network {
    fn as_raw_fd(&self) -> RawFd {
        self.tap.as_raw_fd()
    }
}

fn index(name: &str) -> Result<u32, Error> {
    let failed = |error| Error::Index { name: name.to_owned(), error };
    let text = CString::new(name).map_err(|error| failed(error.into()))?;
    // SAFETY: the name ends with a NUL.
    match unsafe { libc::if_nametoindex(text.as_ptr()) } {
        0 => Err(failed(io::Error::last_os_error())),
        index => Ok(index),
    }
}
