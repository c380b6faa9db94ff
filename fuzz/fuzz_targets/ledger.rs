#![no_main]

libfuzzer_sys::fuzz_target!(init: amop_fuzz::write_seeds("ledger"), |data: &[u8]| amop_fuzz::targets::ledger::run(data));
