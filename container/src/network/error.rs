//! What can go wrong with a network.

use std::io;
use std::net::Ipv4Addr;

/// A network could not be made, joined or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// The kernel refused to change an interface, address, route or rule.
    #[error("cannot {action} {object}: {source}; {}", remedy(source))]
    Refused {
        /// What was tried.
        action: &'static str,
        /// To what.
        object: String,
        /// The system's error.
        source: io::Error,
    },
    /// Every part of the range is in use.
    #[error(
        "no network of 198.18.0.0/15 is free: each is held by another tare or lies on a route of \
         this host; end one, or remove its route (ip route)"
    )]
    NoSubnet,
    /// A bridge has no address left.
    #[error("the network of {gateway} is full: it has {addresses} addresses; end some boxes")]
    Full {
        /// The bridge's own address.
        gateway: Ipv4Addr,
        /// How many addresses it can give away.
        addresses: u32,
    },
    /// There is no way outside.
    #[error("cannot {action} {path}: {source}; boxes reach the outside only if the host forwards")]
    Forwarding {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

impl NetworkError {
    pub(super) fn refused(
        action: &'static str,
        object: impl Into<String>,
    ) -> impl FnOnce(io::Error) -> NetworkError {
        let object = object.into();
        move |source| NetworkError::Refused { action, object, source }
    }
}

fn remedy(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "run as root: it takes CAP_NET_ADMIN",
        Some(libc::EOPNOTSUPP | libc::ENOENT | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT) => {
            "the kernel needs bridge, veth and, for the way outside, nf_tables, nft_chain_nat and \
             nft_masq: load these modules"
        }
        Some(libc::EXFULL) => "a bridge takes 1023 interfaces: end some boxes",
        _ => "see the system's error",
    }
}
