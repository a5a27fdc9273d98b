//! The way outside: what leaves a network bears the host's address (masquerading), by nf_tables
//! over nfnetlink (linux/netfilter/nf_tables.h).

use std::io;

use super::message::{CREATE, Message, REQUEST};
use super::socket::Socket;
use super::subnet::{PREFIX, Subnet, mask};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
/// `NLM_F_APPEND`.
const APPEND: u16 = 0x800;

/// The table is its socket's: gone when that is closed, and nobody else's to change (Linux 5.12).
const TABLE_OWNED: u32 = 2;
const CHAIN: &str = "postrouting";
/// `NF_INET_POST_ROUTING`, and `NF_IP_PRI_NAT_SRC`.
const HOOK: u32 = 4;
const PRIORITY: u32 = 100;

const REGISTER: u32 = 1;
const NETWORK_HEADER: u32 = 1;
/// In an IPv4 header (RFC 791).
const SOURCE_OFFSET: u32 = 12;
const DESTINATION_OFFSET: u32 = 16;
const ADDRESS_BYTES: u32 = 4;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const DATA_VALUE: u16 = 1;

/// A network's rules, as long as this lives.
#[derive(Debug)]
pub(super) struct Nat {
    _socket: Socket,
}

impl Nat {
    /// Hides the stations of a network behind the host's address, where they do not talk with each
    /// other.
    pub(super) fn new(subnet: Subnet) -> io::Result<Nat> {
        let mut socket = Socket::open(libc::NETLINK_NETFILTER)?;
        let table = subnet.bridge();
        socket.ask(&[
            batch(BATCH_BEGIN),
            of_nftables(NEW_TABLE, CREATE).text(1, &table).attribute(2, &TABLE_OWNED.to_be_bytes()),
            of_nftables(NEW_CHAIN, CREATE)
                .text(1, &table)
                .text(3, CHAIN)
                .nest(4, |hook| {
                    hook.attribute(1, &HOOK.to_be_bytes()).attribute(2, &PRIORITY.to_be_bytes())
                })
                .text(7, "nat"),
            of_nftables(NEW_RULE, CREATE | APPEND).text(1, &table).text(2, CHAIN).nest(4, |rule| {
                let rule = matching(rule, SOURCE_OFFSET, EQUAL, subnet);
                let rule = matching(rule, DESTINATION_OFFSET, NOT_EQUAL, subnet);
                expression(rule, "masq", |data| data)
            }),
            batch(BATCH_END),
        ])?;
        Ok(Nat { _socket: socket })
    }
}

/// `struct nfgenmsg`: family, version, resource in network byte order.
fn of_nftables(kind: u16, flags: u16) -> Message {
    Message::new(kind, flags).fixed(&[libc::AF_INET as u8, 0, 0, 0])
}

/// What is between a begin and an end happens wholly or not at all.
fn batch(kind: u16) -> Message {
    let [high, low] = SUBSYSTEM.to_be_bytes();
    Message::bare(kind, REQUEST).fixed(&[libc::AF_UNSPEC as u8, 0, high, low])
}

/// Goes on with the rule where the network part of an address compares so with `subnet`.
fn matching(rule: Message, offset: u32, comparison: u32, subnet: Subnet) -> Message {
    let register = REGISTER.to_be_bytes();
    let rule = expression(rule, "payload", |data| {
        data.attribute(1, &register)
            .attribute(2, &NETWORK_HEADER.to_be_bytes())
            .attribute(3, &offset.to_be_bytes())
            .attribute(4, &ADDRESS_BYTES.to_be_bytes())
    });
    let rule = expression(rule, "bitwise", |data| {
        data.attribute(1, &register)
            .attribute(2, &register)
            .attribute(3, &ADDRESS_BYTES.to_be_bytes())
            .nest(4, |value| value.attribute(DATA_VALUE, &mask(PREFIX).to_be_bytes()))
            .nest(5, |value| value.attribute(DATA_VALUE, &[0; 4]))
    });
    expression(rule, "cmp", |data| {
        data.attribute(1, &register)
            .attribute(2, &comparison.to_be_bytes())
            .nest(3, |value| value.attribute(DATA_VALUE, &subnet.network().octets()))
    })
}

fn expression(rule: Message, name: &str, fill: impl FnOnce(Message) -> Message) -> Message {
    rule.nest(1, |element| element.text(1, name).nest(2, fill))
}
