#![no_main]

libfuzzer_sys::fuzz_target!(init: amop_fuzz::write_seeds("config"), |data: &[u8]| amop_fuzz::targets::config::run(data));
