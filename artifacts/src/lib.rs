//! What flows along an edge of a pipeline, and the contract of what makes it.
//!
//! [`Artifact`]s are typed values with one canonical form of bytes, named by its BLAKE3 digest: a [`Table`], a [`Model`],
//! [`Metrics`], a [`Report`], [`Files`]. A [`Stage`] is a pure function from artifacts, parameters and a seed to artifacts;
//! it declares itself by its [`Signature`] before it runs and reaches the world only through its [`StageContext`].
//! The [`Registry`] lists the kinds of stages that a program knows.
//!
//! Invariant: knows no stage kind, no cache, no runner and no GPU.

pub mod canonical;

mod artifact;
mod bytes;
mod column;
mod conditions;
mod digest;
mod files;
mod limits;
mod manifest;
mod metrics;
mod model;
mod random;
mod registry;
mod report;
mod signature;
mod stage;
mod stage_context;
mod stage_error;
mod table;
mod table_digest;

pub use artifact::{Artifact, ArtifactError, Kind, Sealed};
pub use bytes::{Bytes, MAP_FROM_BYTES, ReadError};
pub use column::{Column, ColumnType};
pub use conditions::Conditions;
pub use digest::{Digest, Hasher};
pub use files::{FileContent, Files, safe_name};
pub use limits::Limits;
pub use manifest::{ColumnDigest, FileDigest, Manifest, TensorDigest};
pub use metrics::Metrics;
pub use model::{Model, ModelCard, Scaler, Tensor};
pub use random::{Stream, Streams};
pub use registry::{ParameterError, ParsedStage, Registry, StageKind};
pub use report::Report;
pub use signature::{
    Gpu, InputColumns, InputPort, OutputPort, PortSchema, Resources, Schemas, Signature,
    SourceFile, Threads,
};
pub use stage::Stage;
pub use stage_context::{
    Cancel, DeviceGrant, Input, Level, Lineage, LineageStage, Observer, Progress, Silent,
    StageContext, StageContextParts,
};
pub use stage_error::StageError;
pub use table::{Table, TableBuilder};
