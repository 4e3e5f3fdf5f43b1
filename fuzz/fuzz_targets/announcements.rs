//! `announcements` for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wc_fuzz::announcements::target(data));
