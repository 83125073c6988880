#![no_main]

natron_fuzz::target!("model_json");
