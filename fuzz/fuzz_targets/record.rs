#![no_main]

libfuzzer_sys::fuzz_target!(init: amop_fuzz::write_seeds("record"), |data: &[u8]| amop_fuzz::targets::record::run(data));
