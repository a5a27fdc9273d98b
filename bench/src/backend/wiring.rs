//! What network a box has.

use clap::ValueEnum;
use tare_container::Reach;

/// The network of a box. Boxes that share the host's, as a process does, have none of their own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Wiring {
    /// A network of its own with nothing in it
    #[default]
    None,
    /// A network with nothing in it, made once, which boxes of a kind share
    Shared,
    /// A network of its own in which only the loopback interface is up
    Loopback,
    /// A network of its own, on a bridge with the host and other boxes; made at the launch
    Bridge,
    /// The same, ready before the launch
    #[value(name = "bridge:pooled")]
    Pooled,
}

impl Wiring {
    /// As it is given on the command line and named in results.
    pub const fn name(self) -> &'static str {
        match self {
            Wiring::None => "none",
            Wiring::Shared => "shared",
            Wiring::Loopback => "loopback",
            Wiring::Bridge => "bridge",
            Wiring::Pooled => "bridge:pooled",
        }
    }

    /// Whether the box is on the run's bridge.
    pub const fn is_bridge(self) -> bool {
        matches!(self, Wiring::Bridge | Wiring::Pooled)
    }
}

/// What the bridge of a run leads to, in plain words.
pub(crate) fn reach_state(reach: Reach) -> &'static str {
    match reach {
        Reach::Host => "nothing but the host and the other boxes",
        Reach::Outside => "what the host reaches, by the host's address (nf_tables, masquerade)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_name_is_that_of_the_command_line() {
        for wiring in Wiring::value_variants() {
            let value = wiring.to_possible_value().unwrap();
            assert_eq!(value.get_name(), wiring.name());
        }
    }
}
