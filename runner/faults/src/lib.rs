//! Faults on purpose: the program is killed, its disk lies, its files are damaged, and every time the same questions are
//! asked of what is left (see [`playground`]).
//!
//! Each module from [`kill`] on is a family of faults; [`sweep`] runs them, writes a line of JSON for each case, and
//! [`figures`] makes the page of figures from what they counted. [`toys`] are stages that take no time.
//!
//! Invariant: nothing of the program knows of this crate.

mod dice;
pub mod figures;
pub mod playground;
pub mod sweep;
pub mod toys;

pub mod kill;

pub mod concurrency;
pub mod corpora;
pub mod corruption;
pub mod crash;
mod faulty;
pub mod fuzz;
pub mod io_errors;
pub mod mutants;
pub mod plugins;
pub mod readers;
pub mod resume;
pub mod scheduler;

pub use dice::Dice;

/// A result whose error is a sentence for a person who looks for the fault.
pub type Checked<T = ()> = Result<T, String>;

/// Says what was being done when an error occurred.
pub trait While<T> {
    /// The value, or `what: error`.
    fn at(self, what: impl std::fmt::Display) -> Checked<T>;
}

impl<T, E: std::fmt::Display> While<T> for Result<T, E> {
    fn at(self, what: impl std::fmt::Display) -> Checked<T> {
        self.map_err(|error| format!("{what}: {error}"))
    }
}
