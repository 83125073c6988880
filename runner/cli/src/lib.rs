//! The program: one file per subcommand; arguments in, one library call, output.
//!
//! Whoever writes stages of their own registers them beside ours and calls [`main_with`] from a small binary.
//!
//! Invariant: decides nothing about pipelines, keys or results; all of that is in the libraries below.

mod arguments;
mod cells;
mod diagnostic;
mod failure;
mod layout;
mod machine;
mod output;
mod parameters;
mod program;
mod progress;
mod results;
mod signals;
mod style;
mod units;

mod accept;
mod cache;
mod check;
mod completions;
mod diff;
mod doctor;
mod explain;
mod export;
mod gc;
mod graph;
mod init;
mod predict;
mod run;
mod runs;
mod schema;
mod show;
mod stage;
mod stages;
mod status;
mod verify;

pub use program::{main_with, main_with_arguments};
