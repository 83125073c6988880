#![no_main]

natron_fuzz::target!("run_record");
