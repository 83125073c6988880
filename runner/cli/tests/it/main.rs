//! The real binary in temporary folders.

mod help;
mod natron;
mod output;
mod workspace;
