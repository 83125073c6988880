//! Child processes that cannot outlive, block or flood whoever starts them.
//!
//! A program is not our child but that of a *keeper*: a small process of our own executable, idle between two programs,
//! that starts one program at a time. The keeper is the subreaper of all that the program starts, so that whatever is
//! left when the program ends is the keeper's child by then, wherever it went (`setsid`, double fork, closed pipes): one
//! `wait` tells whether there is anything, without a look at the other processes of the machine. The keeper notices our
//! own death, `kill -9` included, by the end of its socket, and kills what runs below it. Starting a program from a small
//! process also costs less, and its peak memory is its own and not ours.
//!
//! Invariant: knows nothing of stages, pipelines, artifacts or keys; and no program that it started is alive after
//! [`run`] has returned, nor a second after the process that called it is gone.

mod cgroup;
mod child;
mod keeper;
mod lines;
mod processes;
mod program;
mod request;

pub use cgroup::{Mechanism, Mechanisms, mechanisms};
pub use child::{Channel, End, Ended, GRACE, ProcessError, run};
pub use lines::{Lines, shown};
pub use program::{Limits, MARK, Program};
