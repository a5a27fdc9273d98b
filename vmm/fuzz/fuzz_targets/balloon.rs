#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tare_vmm::fuzzing::balloon(data));
