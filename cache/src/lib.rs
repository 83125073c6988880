//! The store: bytes by digest, and which computation made which of them.
//!
//! # Layout
//!
//! ```text
//! <root>/v2/
//!   FORMAT             version and creation time
//!   generation         kernel lock: everybody who has the store open holds it shared, collection exclusively
//!   cas/ab/<62 hex>    objects: immutable, mode 0444, named by the BLAKE3 of their bytes
//!   ac/<writer>.seg    action records with the small objects that they name, appended by one writer each
//!   ckpt/<key>/        checkpoints of running and killed stages
//!   tmp/<writer>.lock  kernel lock that says the writer lives
//!   tmp/<writer>/      what the writer has not finished; swept when its lock is free
//!   lease/keys         one byte per key that is being computed, locked by the kernel
//!   lease/holders      who computes them, and a stamp that changes with each commit
//!   quarantine/        objects whose content is not what their name says
//!   roots/<id>         the workspaces that use the store
//!   verified/          which results were computed again, one file for each writer
//!   pins/<id>          results that collection leaves alone
//!   trash/             on its way out
//! ```
//!
//! # Commit order
//!
//! Objects of 4 KiB or more are written to `tmp/`, hashed on the way, flushed, made read-only, renamed into `cas/`; then the
//! directories of `cas/` are flushed; only then is the record appended, together with the smaller objects, and its segment
//! flushed. A record therefore names only what is there, whenever the power fails. Results that are
//! [handed over](Store::commit_later) go through these steps in groups, one flush of the segment for all. A flush that fails
//! is final: nothing of that commit is published and the same file is never flushed again.
//!
//! A hit is a record that parses and whose objects are all present; an object's bytes are hashed each time they are read.
//! What is damaged is moved to `quarantine/`, reported, and counts as missing.
//!
//! Invariant: knows artifacts, no stage, no pipeline and no workspace. Correctness never rests on a lock: commits are
//! idempotent, and leases only save work.

pub mod clock;
pub mod collect;
pub mod health;
pub mod recording;
mod shared_value;
pub mod stats;

mod actions;
mod commits;
mod frame;
mod index;
mod key;
mod lease;
mod mutants;
mod objects;
mod stat_cache;
mod storage;
mod store;
mod store_error;
mod verified;
mod writer;

pub use actions::{Accepted, DamagedRecord, Execution, Hit, Record};
pub use key::{ColumnIngredient, Difference, Ingredients, InputIngredient, StageKey, diff};
pub use lease::Lease;
pub use shared_value::SharedValue;
pub use stat_cache::{FileStat, StatCache, StatError};
pub use storage::{
    Disk, Durability, Entry, EntryKind, Storage, StorageFile, StorageReader, read_regular,
};
pub use store::{Committed, Pin, Scratch, Store, Workspace, layout_root};
pub use store_error::StoreError;
pub use verified::{Confirmation, ConfirmationLog, Confirmed};
