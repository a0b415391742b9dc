//! Version `v1alpha1` of the API, in the order the data flows: what is asked (`spec`), what the
//! model is (`facts`), what the engine is told (`engine`), what it answers (`report`), what is
//! shown (`status`, `conditions`).

pub mod conditions;
pub mod convert;
pub mod engine;
pub mod facts;
pub mod quantity;
pub mod report;
pub mod spec;
pub mod status;
pub mod template;

pub mod schema;

pub use conditions::{ConditionType, EventReason, Reason};
pub use engine::EngineConfig;
pub use facts::{InspectError, InspectResult, ModelFacts};
pub use report::MemoryReport;
pub use spec::{InferenceDeployment, InferenceDeploymentSpec};
pub use status::InferenceDeploymentStatus;
