//! The `natron` program with one more kind of stage.
//!
//! Everything else stays as it is: `cargo run --release -- run` in this folder runs `pipelines/rolling_mean.toml`, and
//! `stages rolling_mean` prints the new stage's documentation.

mod rolling_mean;

use std::process::ExitCode;

use natron_artifacts::Digest;
use rolling_mean::RollingMean;

fn main() -> ExitCode {
    let mut registry = natron_stages::registry();
    // The fingerprint of the code: results are made anew when the stage's source changes.
    let code = Digest::of(include_bytes!("rolling_mean.rs")).to_hex();
    registry.register::<RollingMean>("rolling_mean", &code);
    natron_cli::main_with(registry)
}
