#![no_main]

natron_fuzz::target!("lock_file");
