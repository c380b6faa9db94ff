#![no_main]

libfuzzer_sys::fuzz_target!(init: amop_fuzz::write_seeds("wire"), |data: &[u8]| amop_fuzz::targets::wire::run(data));
