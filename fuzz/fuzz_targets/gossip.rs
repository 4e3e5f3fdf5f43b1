//! `gossip` for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wc_fuzz::gossip::target(data));
