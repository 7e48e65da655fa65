#![no_main]
//! See `enforcer_fuzz_targets::decide`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| enforcer_fuzz_targets::decide::run(data));
