//! Version `v1alpha1` of the API, in the order the data flows: what is asked (`spec`), what the
//! model is (`facts`), what an engine is started with and what it is told (`boot`, `target`), what it
//! answers (`report`), what is shown (`status`, `conditions`).

// What is asked.
pub mod adapters;
pub mod kv_cache;
pub mod limits;
pub mod model;
mod rules;
pub mod sleep;
pub mod spec;
pub mod template;

// What the model is; what an engine is started with, is told, and answers.
pub mod boot;
pub mod engine;
pub mod facts;
pub mod report;
pub mod target;

// What is shown.
pub mod conditions;
pub mod status;
pub mod weights;

// From here to the planner and to the API server.
pub mod convert;
pub mod quantity;
pub mod schema;
mod words;

pub use boot::Boot;
pub use conditions::{ConditionType, EventReason, Reason};
pub use facts::{InspectError, InspectResult, ModelFacts};
pub use report::MemoryReport;
pub use spec::{InferenceDeployment, InferenceDeploymentSpec};
pub use status::InferenceDeploymentStatus;
pub use target::{Target, TargetOutcome, TargetReport};
