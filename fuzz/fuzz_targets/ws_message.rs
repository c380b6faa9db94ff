#![no_main]

libfuzzer_sys::fuzz_target!(init: amop_fuzz::write_seeds("ws_message"), |data: &[u8]| amop_fuzz::targets::ws::message(data));
