//! How good predictions are: scores, their naive baselines and their bootstrap intervals.
//!
//! Every score takes `counts`, how often each observation was drawn: all ones for the sample itself, a resample's
//! multiplicities for its bootstrap. A score that cannot be computed is `None`, never a neutral value.

pub(crate) mod bootstrap;
pub(crate) mod confusion;
pub(crate) mod head;
pub(crate) mod probability;
pub(crate) mod ranking;
