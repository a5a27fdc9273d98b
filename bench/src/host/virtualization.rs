//! Whether and how a microVM runs here.

use std::env;

use super::Source;
use super::probe::{Finding, Probe};
use crate::lab::{DETERMINISTIC, LAB_VARIABLE};

pub(super) const PROBES: &[Probe] = &[
    Probe {
        id: "virtualization",
        title: "hardware virtualization",
        distorts: "no microVM runs on this machine in useful time",
        amount: "an emulated CPU is about a hundred times slower than the one that emulates it (seen in the lab)",
        remedy: "tare runs the comparison in the lab, in virtual time; for wall clock use a machine with VMX or SVM, or \
                 turn on nested virtualization in the hypervisor",
        find: |source| match flag(source) {
            Some(flag) => Finding::ok(flag.to_owned()),
            None => Finding::warn("none".to_owned()),
        },
    },
    Probe {
        id: "kvm",
        title: "/dev/kvm",
        distorts: "the microVM backends cannot run",
        amount: "all of it",
        remedy: "load the module kvm_intel or kvm_amd",
        find: |source| {
            let is_there = source.exists("/dev/kvm");
            let value = if is_there { "present" } else { "absent" };
            Finding::warn_if(!is_there, value.to_owned())
        },
    },
    Probe {
        id: "hypervisor",
        title: "runs under",
        distorts: "in a virtual machine a microVM is a nested one, whose exits go through the hypervisor below; in the \
                   lab time is virtual, and caches, TLBs and world switches cost nothing",
        amount: "nested guests lost 6–8 % on common workloads (Ben-Yehuda and others, OSDI 2010), and far more where \
                 they exit often",
        remedy: "measure on bare metal; compare figures of one machine with each other only",
        find: hypervisor,
    },
    Probe {
        id: "nested_paging",
        title: "nested paging (EPT, NPT)",
        distorts: "without it KVM follows every change of a guest's page tables by exits, and what creates processes or \
                   touches memory in a microVM is slow",
        amount: "with it, benchmarks that change page tables much gained up to 48 %, microbenchmarks up to 600 % \
                 (Bhatia, Performance Evaluation of Intel EPT Hardware Assist, VMware 2009)",
        remedy: "load kvm_intel with ept=1 or kvm_amd with npt=1",
        find: |source| {
            let ept = source.text("/sys/module/kvm_intel/parameters/ept");
            let npt = source.text("/sys/module/kvm_amd/parameters/npt");
            let value = ept.or(npt);
            Finding::warn_if(matches!(value.as_deref(), Some("N" | "0")), value)
        },
    },
    Probe {
        id: "nx_huge_pages",
        title: "KVM nx_huge_pages",
        distorts: "KVM splits huge pages that a guest executes from (CVE-2018-12207) and starts a thread for each VM to \
                   merge them again",
        amount: "on 6.x kernels creating a VM took 8.8 ms instead of 1.9 ms (hyperlight-dev/hyperlight issue 47)",
        remedy: "where the CPU is not affected (vulnerabilities/itlb_multihit), load kvm with nx_huge_pages=never",
        find: |source| {
            let value = source.text("/sys/module/kvm/parameters/nx_huge_pages");
            Finding::note_if(matches!(value.as_deref(), Some("Y" | "1" | "force")), value)
        },
    },
    Probe {
        id: "halt_poll",
        title: "KVM halt polling",
        distorts: "after a guest halts, its host's CPU spins for a while before it sleeps: a microVM that waits answers \
                   sooner and uses CPU time that is not the guest's",
        amount: "",
        remedy: "echo 0 > /sys/module/kvm/parameters/halt_poll_ns, to measure without it",
        find: |source| {
            let value = source.text("/sys/module/kvm/parameters/halt_poll_ns");
            let poll_ns = value.as_deref().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
            let amount = (poll_ns > 0)
                .then(|| format!("up to {} µs of CPU time for each halt", poll_ns / 1000));
            Finding::note_if(poll_ns > 0, value.map(|ns| format!("{ns} ns"))).by(amount)
        },
    },
];

/// `vmx`, `svm`, or nothing.
pub(super) fn flag(source: &Source) -> Option<&'static str> {
    let flags = source.field("/proc/cpuinfo", "flags")?;
    ["vmx", "svm"].into_iter().find(|flag| flags.split_whitespace().any(|word| word == *flag))
}

fn hypervisor(source: &Source) -> Finding {
    if let Ok(flavour) = env::var(LAB_VARIABLE) {
        let value = format!("tare's lab ({flavour})");
        if flavour == DETERMINISTIC {
            return Finding::note(value).by("one instruction is one nanosecond".to_owned());
        }
        let amount = "the CPU is emulated without counting instructions: times say nothing about any machine";
        return Finding::warn(value).by(amount.to_owned());
    }
    let flags = source.field("/proc/cpuinfo", "flags").unwrap_or_default();
    if !flags.split_whitespace().any(|word| word == "hypervisor") {
        return Finding::ok("bare metal".to_owned());
    }
    let vendor = source.text("/sys/class/dmi/id/sys_vendor").filter(|name| !name.is_empty());
    Finding::note(vendor.unwrap_or_else(|| "a hypervisor".to_owned()))
}
