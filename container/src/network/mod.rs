//! The network of a box: none, an empty one, or a place on a bridge.
//!
//! A [`Bridge`] is a switch of this host with an address of its own, the gateway, from
//! 198.18.0.0/15. A [`Station`] is a network namespace with an interface on it: loopback up, an
//! address, a route to everywhere by the gateway. [`Stations`] keeps some ready, so that a start
//! need not wait for them: making one costs about a millisecond, removing one 23. Whoever holds the
//! descriptor of a tap device can [join](Bridge::join) as well, so that microVMs and containers are
//! on one network.
//!
//! # Nothing outlives its owner
//!
//! A station is held by its namespace: when the last process and descriptor of that are gone, the
//! kernel removes the interface on both sides. The rules for the way outside belong to a netlink
//! socket (`NFT_TABLE_F_OWNER`, Linux 5.12) and go with it. A bridge alone has to be removed; a
//! socket with an abstract name (unix(7)), which is gone with its process, tells whether its owner
//! lives. [`sweep_networks`], and whoever wants the same addresses next, removes those left behind.

mod addresses;
mod bridge;
mod error;
mod forwarding;
mod interface;
mod message;
mod namespace;
mod nat;
mod route;
mod socket;
mod station;
mod subnet;

pub use addresses::Lease;
pub use bridge::{Bridge, Reach, sweep_networks};
pub use error::NetworkError;
pub use interface::raise_interface;
pub use namespace::empty_network;
pub use station::{Station, Stations};
