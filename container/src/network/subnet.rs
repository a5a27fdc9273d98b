//! Which part of the range a network has, and how it is held.

use std::io;
use std::net::Ipv4Addr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Networks are cut from 198.18.0.0/15, which is for measurements between networks (RFC 2544,
/// appendix C.2.2), so that they are nobody else's.
const BASE: u32 = u32::from_be_bytes([198, 18, 0, 0]);
const RANGE_PREFIX: u8 = 15;
/// A bridge takes 1023 interfaces; a network of this prefix has 1022 addresses.
pub(super) const PREFIX: u8 = 22;
/// How many networks there are.
pub(super) const COUNT: u32 = 1 << (PREFIX - RANGE_PREFIX);
/// How many addresses a network has besides its own, the gateway's and that of all.
pub(super) const STATIONS: u32 = (1 << (32 - PREFIX)) - 3;

/// One of the networks; its number names its bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Subnet(u32);

impl Subnet {
    /// All, in order.
    pub(super) fn all() -> impl Iterator<Item = Subnet> {
        (0..COUNT).map(Subnet)
    }

    /// The network that a bridge of that name has; `None` if it is not one of ours.
    pub(super) fn of_bridge(name: &str) -> Option<Subnet> {
        let number = name.strip_prefix("tare-br")?.parse().ok()?;
        Some(Subnet(number)).filter(|subnet| number < COUNT && subnet.bridge() == name)
    }

    /// The name of its bridge.
    pub(super) fn bridge(self) -> String {
        format!("tare-br{}", self.0)
    }

    /// The name of a station's interface on this host.
    pub(super) fn port(self, number: u32) -> String {
        format!("tare{}-{number}", self.0)
    }

    pub(super) fn network(self) -> Ipv4Addr {
        self.address(0)
    }

    pub(super) fn gateway(self) -> Ipv4Addr {
        self.address(1)
    }

    /// The address of a station, from 0.
    pub(super) fn station(self, number: u32) -> Ipv4Addr {
        self.address(2 + number)
    }

    fn address(self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from(BASE + (self.0 << (32 - PREFIX)) + number)
    }

    /// Whether it shares addresses with another network. One of everything is a way there, not there.
    pub(super) fn overlaps(self, network: Ipv4Addr, prefix: u8) -> bool {
        let common = prefix.min(PREFIX);
        prefix > 0 && mask(common) & u32::from(network) == mask(common) & u32::from(self.network())
    }

    /// Holds it against others, as long as the result lives; `None` where someone else does.
    pub(super) fn claim(self) -> io::Result<Option<Claim>> {
        let name = SocketAddr::from_abstract_name(format!("tare-network-{}", self.0))?;
        match UnixDatagram::bind_addr(&name) {
            Ok(socket) => Ok(Some(Claim { _socket: socket })),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A network is held: by a socket's name, which is gone with the last descriptor of it.
#[derive(Debug)]
pub(super) struct Claim {
    _socket: UnixDatagram,
}

/// The bits that a prefix covers.
pub(super) fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32_u32.saturating_sub(prefix.into())).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_subnets_share_nothing_and_fill_the_range() {
        let subnets: Vec<Subnet> = Subnet::all().collect();
        assert_eq!(subnets.len(), 128);
        assert_eq!(subnets[0].network(), Ipv4Addr::new(198, 18, 0, 0));
        assert_eq!(subnets[127].station(STATIONS - 1), Ipv4Addr::new(198, 19, 255, 254));
        assert!(!subnets[4].overlaps(subnets[5].network(), PREFIX));
    }

    #[test]
    fn test_overlaps_knows_wider_and_narrower_networks_and_no_default() {
        let subnet = Subnet(1);
        assert!(subnet.overlaps(Ipv4Addr::new(198, 18, 4, 7), 32));
        assert!(subnet.overlaps(Ipv4Addr::new(198, 0, 0, 0), 8));
        assert!(!subnet.overlaps(Ipv4Addr::new(198, 18, 8, 0), 24));
        assert!(!subnet.overlaps(Ipv4Addr::new(0, 0, 0, 0), 0));
    }

    #[test]
    fn test_of_bridge_takes_its_own_names_alone() {
        assert_eq!(Subnet::of_bridge("tare-br17"), Some(Subnet(17)));
        assert!(Subnet(127).port(STATIONS).len() < libc::IFNAMSIZ);
        for name in ["tare-br128", "tare-br", "tare-br01", "tare-br+1", "docker0"] {
            assert_eq!(Subnet::of_bridge(name), None, "{name}");
        }
    }

    #[test]
    fn test_claim_excludes_others_until_it_is_dropped() {
        // The last, which a run takes only if all others are taken.
        let subnet = Subnet(COUNT - 1);
        let claim = subnet.claim().unwrap();
        assert!(claim.is_some() && subnet.claim().unwrap().is_none());
        drop(claim);
        assert!(subnet.claim().unwrap().is_some());
    }
}
