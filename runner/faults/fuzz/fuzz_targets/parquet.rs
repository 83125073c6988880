#![no_main]

natron_fuzz::target!("parquet");
