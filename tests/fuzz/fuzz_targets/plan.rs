#![no_main]
//! See `enforcer_fuzz_targets::plan`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| enforcer_fuzz_targets::plan::run(data));
