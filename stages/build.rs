//! Writes the code fingerprints of all stage kinds to `$OUT_DIR/fingerprints.rs`; see `build/fingerprint.rs`.

use std::{env, fs, path::Path};

#[path = "build/fingerprint.rs"]
mod fingerprint;

use fingerprint::{Root, Sources};

fn main() {
    // Cargo looks at every file below a folder that it is given.
    for path in [
        "src",
        "../artifacts/src",
        "../kernels/src",
        "../Cargo.lock",
        "build.rs",
        "build",
    ] {
        println!("cargo::rerun-if-changed={path}");
    }
    let sources = Sources {
        stages: "natron_stages",
        roots: vec![
            Root::new("natron_stages", "src"),
            Root::new("natron_kernels", "../kernels/src"),
            Root::new("natron_artifacts", "../artifacts/src"),
        ],
        lock: "../Cargo.lock".into(),
    };
    let out = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts");
    let text = fingerprint::render(&fingerprint::fingerprints(&sources));
    fs::write(Path::new(&out).join("fingerprints.rs"), text).expect("OUT_DIR can be written");
}
