#![no_main]

natron_fuzz::target!("stat_cache");
