//! What the decoders make of states that nobody wrote: with a right checksum, so that they are taken
//! apart to the end.

use std::fs::{self, File};

use proptest::prelude::*;

use super::{Kind, Sections, SnapshotFiles, WorkingSet, Writer};
use crate::{controllers, cpu, devices};

const MEMORY_BYTES: u64 = 1 << 20;

/// Every kind of section there is, with its right length where it has one.
fn sections() -> Vec<(Kind, usize, Vec<u8>)> {
    use kvm_bindings as kvm;
    let sized = |kind, bytes: usize| (kind, 0, vec![0; bytes]);
    let mut guest = vec![0; 48];
    guest[..8].copy_from_slice(&MEMORY_BYTES.to_le_bytes());
    guest[8] = 1;
    let mut list = vec![
        (Kind::Guest, 0, guest),
        sized(Kind::CpuId, 3 * size_of::<kvm::kvm_cpuid_entry2>()),
        sized(Kind::Id, 16),
        sized(Kind::Parent, 24),
        (Kind::Parent, 1, b"/nowhere".to_vec()),
        sized(Kind::Registers, size_of::<kvm::kvm_regs>()),
        sized(Kind::SystemRegisters, size_of::<kvm::kvm_sregs>()),
        sized(Kind::ExtendedControl, size_of::<kvm::kvm_xcrs>()),
        sized(Kind::ExtendedState, size_of::<kvm::kvm_xsave>()),
        sized(Kind::LocalApic, size_of::<kvm::kvm_lapic_state>()),
        sized(Kind::ModelSpecific, 5 * size_of::<kvm::kvm_msr_entry>()),
        sized(Kind::Debug, size_of::<kvm::kvm_debugregs>()),
        sized(Kind::Events, size_of::<kvm::kvm_vcpu_events>()),
        sized(Kind::Running, size_of::<kvm::kvm_mp_state>()),
        sized(Kind::TscFrequency, 4),
        sized(Kind::Timer, size_of::<kvm::kvm_pit_state2>()),
        sized(Kind::Clock, size_of::<kvm::kvm_clock_data>()),
        sized(Kind::Serial, 1 + 8),
        sized(Kind::Virtio, 1 + 40),
        sized(Kind::Memory, 4),
        (Kind::Memory, 1, vec![0; 32]),
    ];
    list.extend(
        (0..3).map(|chip| (Kind::Controller, chip, vec![0; size_of::<kvm::kvm_irqchip>()])),
    );
    list
}

/// Has everything that reads a state read it.
fn decode(state: &[u8]) {
    if let Ok(sections) = Sections::parse(state.to_vec()) {
        for index in 0..2 {
            let _ = cpu::Saved::read(&sections, index);
        }
        let _ = controllers::Saved::read(&sections);
        let _ = devices::Saved::read(&sections, 3);
    }
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("state"), state).unwrap();
    fs::write(directory.path().join("working-set"), state).unwrap();
    let memory = File::create(directory.path().join("memory")).unwrap();
    memory.set_len(MEMORY_BYTES).unwrap();
    let _ = WorkingSet::load(directory.path(), MEMORY_BYTES);
    if let Ok(files) = SnapshotFiles::open(directory.path()) {
        files.describe();
        let _ = files.verify();
        let _ = files.rebase(&directory.path().join("rebased"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn test_decoders_of_any_contents_never_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        cut in prop::option::of((any::<prop::sample::Index>(), 0_usize..64)),
        without in prop::option::of(any::<prop::sample::Index>()),
        indices in prop::collection::vec(0_usize..3, 24),
    ) {
        let mut list = sections();
        if let Some(without) = without {
            list.remove(without.index(list.len()));
        }
        if let Some((which, length)) = cut {
            let which = which.index(list.len());
            list[which].2.resize(length, 0xff);
        }
        let mut writer = Writer::new();
        for ((kind, index, mut contents), other) in list.into_iter().zip(indices) {
            for (at, value) in &damage {
                if !contents.is_empty() && kind != Kind::Guest {
                    let at = at.index(contents.len());
                    contents[at] = *value;
                }
            }
            // A section twice, or where none is looked for.
            writer.section(kind, if damage.len() > 8 { other } else { index }, contents.as_slice());
        }
        decode(&writer.finish());
    }

    #[test]
    fn test_decoders_of_any_bytes_refuse_them(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(Sections::parse(bytes.clone()).is_err());
        decode(&bytes);
    }

    #[test]
    fn test_a_flipped_bit_is_refused(bit in any::<prop::sample::Index>()) {
        let mut writer = Writer::new();
        for (kind, index, contents) in sections() {
            writer.section(kind, index, contents.as_slice());
        }
        let mut state = writer.finish();
        prop_assert!(Sections::parse(state.clone()).is_ok());
        let bit = bit.index(state.len() * 8);
        state[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Sections::parse(state).is_err());
    }
}
