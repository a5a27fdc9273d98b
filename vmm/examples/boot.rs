//! Boots a kernel and prints its serial port, the edges with their distances, and the exits.
//!
//! ```text
//! boot KERNEL [--initramfs FILE] [--cmdline WORDS] [--memory-mib N] [--vcpus N] [--acpi]
//!      [--block FILE] [--block-ro FILE] [--block-direct FILE] [--repeat N] [--floor]
//! ```

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use tare_vmm::{BlockConfig, Config, Edge, Observer, Vmm, floor};

/// Prints what the guest writes and how long it took to get there.
struct Printer {
    before_ns: Option<u64>,
    first_serial: bool,
}

impl Printer {
    fn since_last(&mut self, at_ns: u64) -> f64 {
        let before_ns = self.before_ns.replace(at_ns).unwrap_or(at_ns);
        at_ns.saturating_sub(before_ns) as f64 / 1e6
    }
}

impl Observer for Printer {
    fn edge(&mut self, edge: Edge, at_ns: u64) {
        let milliseconds = self.since_last(at_ns);
        eprintln!("[{milliseconds:10.3} ms] {edge:?}");
    }

    fn serial(&mut self, at_ns: u64, bytes: &[u8]) {
        if std::mem::take(&mut self.first_serial) {
            let milliseconds = self.since_last(at_ns);
            eprintln!("[{milliseconds:10.3} ms] first byte on COM1: {:#04x}", bytes[0]);
        }
        // A console that is gone is no reason to stop the guest.
        let _ = std::io::stdout().write_all(bytes);
    }
}

struct Arguments {
    config: Config,
    repeat: u32,
    floor: bool,
}

fn parse() -> Result<Arguments, Box<dyn Error>> {
    let mut arguments = Arguments { config: Config::default(), repeat: 1, floor: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let config = &mut arguments.config;
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        let block = |path: String, read_only, direct| BlockConfig {
            read_only,
            direct,
            ..BlockConfig::new(path)
        };
        match word.as_str() {
            "--initramfs" => config.initramfs = Some(value()?.into()),
            "--cmdline" => config.cmdline = value()?,
            "--memory-mib" => config.memory_bytes = value()?.parse::<u64>()? << 20,
            "--vcpus" => config.vcpus = value()?.parse()?,
            "--acpi" => config.acpi = true,
            "--block" => config.blocks.push(block(value()?, false, false)),
            "--block-ro" => config.blocks.push(block(value()?, true, false)),
            "--block-direct" => config.blocks.push(block(value()?, false, true)),
            "--repeat" => arguments.repeat = value()?.parse()?,
            "--floor" => arguments.floor = true,
            _ => config.kernel = word.into(),
        }
    }
    Ok(arguments)
}

fn boot() -> Result<(), Box<dyn Error>> {
    let arguments = parse()?;
    if arguments.floor {
        println!("{:?}", floor::run()?);
        return Ok(());
    }
    for _ in 0..arguments.repeat {
        let mut printer = Printer { before_ns: None, first_serial: true };
        let mut start = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `start` is valid for writing.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut start) };
        printer.before_ns = Some(start.tv_sec as u64 * 1_000_000_000 + start.tv_nsec as u64);
        let mut vmm = Vmm::new(&arguments.config, Box::new(printer))?;
        eprintln!("guest RAM at {:x?}", vmm.guest_memory());
        let outcome = vmm.run()?;
        eprintln!("{:?}", outcome.end);
        for (reason, count) in outcome.exits.iter().filter(|(_, count)| *count > 0) {
            eprintln!("{count:8} {reason}");
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    match boot() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("boot: {error}");
            ExitCode::FAILURE
        }
    }
}
