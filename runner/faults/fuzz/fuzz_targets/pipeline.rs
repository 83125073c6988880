#![no_main]

natron_fuzz::target!("pipeline");
