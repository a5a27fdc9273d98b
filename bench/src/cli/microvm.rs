//! Options of the machine that a microVM is.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::ValueEnum;
use tare_vmm::{BootProtocol, CpuProfile, NetBackend, Pages, VCPUS_MAX};

use crate::kit::GuestMachine;

/// The machine that a microVM is; for every command that starts some.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct MicroVmArgs {
    /// Directory with the modules of the guest kernel, which the agent inserts [default: with
    /// --kernel ROOT/boot/vmlinuz-VERSION it is ROOT/lib/modules/VERSION, if that is there]
    #[arg(long, value_name = "DIR", env = "TARE_MODULES")]
    pub(super) modules: Option<PathBuf>,
    /// vCPUs of a microVM. The kernel that tare builds by default has one processor
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u8).range(1..=i64::from(VCPUS_MAX)))]
    vcpus: u8,
    /// What the vCPUs of our microVM say they are
    #[arg(long, value_enum, default_value_t = CpuProfileArg::Host)]
    cpu_profile: CpuProfileArg,
    /// What the RAM of our microVM is made of
    #[arg(long, value_enum, default_value_t = PagesArg::Thp)]
    pages: PagesArg,
    /// Allocate all of our microVM's RAM at launch
    #[arg(long)]
    prefault: bool,
    /// How our microVM enters the kernel
    #[arg(long, value_enum, default_value_t = BootArg::Linux64)]
    boot: BootArg,
    /// Who moves the packets of our microVM's network [default: user]
    #[arg(long, value_enum)]
    net_backend: Option<NetBackendArg>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CpuProfileArg {
    /// All that this host's KVM supports
    Host,
    /// x86-64-v2, the same on every host of a vendor
    Portable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PagesArg {
    /// Transparent huge pages
    Thp,
    /// 4 KiB
    Small,
    /// 2 MiB from the host's pool (vm.nr_hugepages)
    Huge2m,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum NetBackendArg {
    /// A thread of the host's kernel
    Vhost,
    /// The VMM
    User,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BootArg {
    /// The 64-bit boot protocol
    Linux64,
    /// PVH, for kernels with CONFIG_PVH
    Pvh,
}

impl MicroVmArgs {
    pub(super) fn machine(&self) -> GuestMachine {
        GuestMachine {
            vcpus: self.vcpus,
            cpu_profile: match self.cpu_profile {
                CpuProfileArg::Host => CpuProfile::Host,
                CpuProfileArg::Portable => CpuProfile::Portable,
            },
            pages: match self.pages {
                PagesArg::Thp => Pages::Thp,
                PagesArg::Small => Pages::Small,
                PagesArg::Huge2m => Pages::Huge2M,
            },
            prefault: self.prefault,
            protocol: match self.boot {
                BootArg::Linux64 => BootProtocol::Linux64,
                BootArg::Pvh => BootProtocol::Pvh,
            },
            net_backend: self.net_backend.map(|backend| match backend {
                NetBackendArg::Vhost => NetBackend::Vhost,
                NetBackendArg::User => NetBackend::User,
            }),
        }
    }

    /// The same options for a tare in the lab, which gets the modules from there.
    pub(super) fn forward(&self) -> Vec<OsString> {
        let name = |value: Option<clap::builder::PossibleValue>| {
            value.map_or_else(String::new, |value| value.get_name().to_owned())
        };
        let mut arguments = vec![
            "--vcpus".to_owned(),
            self.vcpus.to_string(),
            "--cpu-profile".to_owned(),
            name(self.cpu_profile.to_possible_value()),
            "--pages".to_owned(),
            name(self.pages.to_possible_value()),
            "--boot".to_owned(),
            name(self.boot.to_possible_value()),
        ];
        if let Some(backend) = self.net_backend {
            arguments.extend(["--net-backend".to_owned(), name(backend.to_possible_value())]);
        }
        arguments.extend(self.prefault.then(|| "--prefault".to_owned()));
        arguments.into_iter().map(OsString::from).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Wrapped {
        #[command(flatten)]
        args: MicroVmArgs,
    }

    #[test]
    fn test_forward_gives_the_same_machine() {
        for line in [
            "x",
            "x --vcpus 8 --cpu-profile portable --pages huge2m --prefault --boot pvh",
            "x --pages small --net-backend user",
        ] {
            let args = Wrapped::parse_from(line.split(' ')).args;
            let words = ["x".into()].into_iter().chain(args.forward());
            assert_eq!(Wrapped::parse_from(words).args.machine(), args.machine(), "{line}");
        }
    }
}
