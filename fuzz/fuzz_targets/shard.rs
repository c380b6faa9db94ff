#![no_main]

libfuzzer_sys::fuzz_target!(init: amop_fuzz::write_seeds("shard"), |data: &[u8]| amop_fuzz::targets::shard::run(data));
