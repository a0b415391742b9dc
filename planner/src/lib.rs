//! The arithmetic of Plimsoll: what a model needs on each rank, how it is split, what fits.
//!
//! Same inputs, same plan: no IO, no clock, no async, no serde, std only. The operator asks it
//! before a pod exists and the sidecar asks it again at boot; the two answers must be equal.
#![forbid(unsafe_code)]

// The vocabulary.
pub mod account;
pub mod bytes;
pub mod model;
pub mod request;
pub mod shard;

// Bytes of each account on one rank, and of the host.
pub mod host;
pub mod kv_cache;
pub mod scratch;
pub mod weights;

// From a request to a plan or a refusal.
pub mod plan;
pub mod refusal;

pub use account::Account;
pub use bytes::Bytes;
pub use host::{HostReserve, host_reserve};
pub use model::{Architecture, Dtype, ModelShape};
pub use plan::{Plan, RankPlan, plan};
pub use refusal::Refusal;
pub use request::{Backend, KvLayout, Limits, RankCapacity, Request, Utilization};
pub use shard::Shard;
