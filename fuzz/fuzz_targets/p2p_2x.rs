#![no_main]

libfuzzer_sys::fuzz_target!(init: amop_fuzz::write_seeds("p2p_2x"), |data: &[u8]| amop_fuzz::targets::p2p_2x::run(data));
