//! Deliberately broken behaviour, by which the fault suite shows that it would notice such a mistake.
//!
//! Only a build with the feature `mutants` has it. In every other one [`is`] is `false` at compile time and nothing remains.

/// Whether the behaviour called `name` is chosen, by the variable `NATRON_MUTANT`.
#[cfg(feature = "mutants")]
pub(crate) fn is(name: &str) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| std::env::var("NATRON_MUTANT").ok());
    chosen.as_deref() == Some(name)
}

/// Never.
#[cfg(not(feature = "mutants"))]
pub(crate) const fn is(_: &str) -> bool {
    false
}
