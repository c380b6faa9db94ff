#![no_main]

libfuzzer_sys::fuzz_target!(init: amop_fuzz::write_seeds("certificate"), |data: &[u8]| amop_fuzz::targets::certificate::run(data));
