#![no_main]

libfuzzer_sys::fuzz_target!(init: amop_fuzz::write_seeds("relay"), |data: &[u8]| amop_fuzz::targets::relay::run(data));
