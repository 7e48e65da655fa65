#![no_main]
//! See `enforcer_fuzz_targets::compile`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| enforcer_fuzz_targets::compile::run(data));
