#![no_main]
//! See `enforcer_fuzz_targets::leave`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| enforcer_fuzz_targets::leave::run(data));
