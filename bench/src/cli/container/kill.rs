//! `tare container kill`.

use std::str::FromStr;

use clap::Args;
use nix::sys::signal::Signal;

use crate::held;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tare container kill web\n  \
    tare container kill --signal HUP web\n\n\
    The first process of a container heeds only signals that it has a handler for, KILL and STOP\n\
    excepted; with an init (run --init) its command is sent them.")]
pub(in crate::cli) struct KillArgs {
    /// The signal: its name or its number
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL", value_parser = signal)]
    signal: i32,
    /// The container
    name: String,
}

fn signal(text: &str) -> Result<i32, String> {
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err("not 1 to 64".into()) };
    }
    let name = text.to_ascii_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    Signal::from_str(&name).map(|signal| signal as i32).map_err(|_| "there is none such".into())
}

pub(super) fn run(args: &KillArgs) -> anyhow::Result<u8> {
    let (_, running) = held::find(&args.name)?;
    running.signal(args.signal)?;
    Ok(crate::cli::exit::OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_signal_by_name_and_number() {
        assert_eq!(signal("KILL"), Ok(9));
        assert_eq!(signal("sigterm"), Ok(15));
        assert_eq!(signal("64"), Ok(64));
        assert!(signal("0").is_err() && signal("65").is_err() && signal("NONE").is_err());
    }
}
