//! Who a box is on its network.

use alloc::borrow::ToOwned;
use alloc::string::String;

/// A network interface's name has at most so many bytes (`IFNAMSIZ` less the NUL, linux/if.h).
const NAME_MAX_BYTES: usize = 15;

/// What a box's agent gives to a network interface before it does anything else:
/// `NAME,MAC,ADDRESS/PREFIX[,GATEWAY]`, as in `eth0,02:00:00:00:00:07,10.0.0.7/24,10.0.0.1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The interface.
    pub interface: String,
    /// Its address on the link: no group's, and not all zeros.
    pub mac: [u8; 6],
    /// Its IPv4 address.
    pub address: [u8; 4],
    /// How many leading bits of it are the network's: at most 32.
    pub prefix: u8,
    /// The router to everywhere else.
    pub gateway: Option<[u8; 4]>,
}

impl Network {
    /// Reads what [`Display`](core::fmt::Display) writes.
    pub fn parse(value: &str) -> Option<Network> {
        let mut parts = value.split(',');
        let (interface, mac, address) = (parts.next()?, parts.next()?, parts.next()?);
        let gateway = parts.next();
        let (address, prefix) = address.split_once('/')?;
        let network = Network {
            interface: interface.to_owned(),
            mac: numbers(mac, ':', 16)?,
            address: numbers(address, '.', 10)?,
            prefix: number(prefix, 10)?,
            gateway: match gateway {
                Some(gateway) => Some(numbers(gateway, '.', 10)?),
                None => None,
            },
        };
        let named = (1..=NAME_MAX_BYTES).contains(&interface.len())
            && interface.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let possible = network.mac[0] & 1 == 0 && network.mac != [0; 6] && network.prefix <= 32;
        (named && possible && parts.next().is_none()).then_some(network)
    }

    /// The mask that its prefix stands for.
    pub fn mask(&self) -> [u8; 4] {
        let host_bits = 32 - u32::from(self.prefix.min(32));
        u32::MAX.checked_shl(host_bits).unwrap_or(0).to_be_bytes()
    }
}

impl core::fmt::Display for Network {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [a, b, c, d, e, f] = self.mac;
        write!(formatter, "{},{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}", self.interface)?;
        let [a, b, c, d] = self.address;
        write!(formatter, ",{a}.{b}.{c}.{d}/{}", self.prefix)?;
        match self.gateway {
            Some([a, b, c, d]) => write!(formatter, ",{a}.{b}.{c}.{d}"),
            None => Ok(()),
        }
    }
}

fn numbers<const N: usize>(text: &str, separator: char, radix: u32) -> Option<[u8; N]> {
    let mut numbers = [0; N];
    let mut words = text.split(separator);
    for place in &mut numbers {
        *place = number(words.next()?, radix)?;
    }
    words.next().is_none().then_some(numbers)
}

/// In digits alone; the parser would also take a sign.
fn number(digits: &str, radix: u32) -> Option<u8> {
    if digits.chars().all(|digit| digit.is_digit(radix)) {
        u8::from_str_radix(digits, radix).ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn test_network_round_trips_through_text() {
        for text in [
            "eth0,02:00:00:00:00:07,10.0.0.7/24,10.0.0.1",
            "e,fe:ff:ff:ff:ff:ff,255.255.255.255/32",
            "eth0,02:00:00:00:00:07,0.0.0.0/0",
        ] {
            assert_eq!(Network::parse(text).unwrap().to_string(), text);
        }
        let masks = [(0, [0; 4]), (9, [255, 128, 0, 0]), (32, [255; 4])];
        for (prefix, mask) in masks {
            let text = std::format!("eth0,02:00:00:00:00:07,10.0.0.7/{prefix}");
            assert_eq!(Network::parse(&text).unwrap().mask(), mask);
        }
    }

    #[test]
    fn test_network_of_what_cannot_be_returns_none() {
        for text in [
            "",
            "eth0",
            "eth0,02:00:00:00:00:07",
            "eth0,02:00:00:00:00:07,10.0.0.7",
            "eth0,02:00:00:00:00:07,10.0.0.7/33",
            "eth0,02:00:00:00:00:07,10.0.0/24",
            "eth0,02:00:00:00:00:07,10.0.0.256/24",
            "eth0,02:00:00:00:00:07,10.0.0.+7/24",
            "eth0,02:00:00:00:00,10.0.0.7/24",
            "eth0,03:00:00:00:00:07,10.0.0.7/24",
            "eth0,00:00:00:00:00:00,10.0.0.7/24",
            "eth0/1,02:00:00:00:00:07,10.0.0.7/24",
            "sixteencharacter,02:00:00:00:00:07,10.0.0.7/24",
            "eth0,02:00:00:00:00:07,10.0.0.7/24,10.0.0.1,",
        ] {
            assert_eq!(Network::parse(text), None, "{text}");
        }
    }
}
