//! `neighbours` for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wc_fuzz::neighbours::target(data));
