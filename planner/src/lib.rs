//! The arithmetic of Plimsoll: what a model needs on each rank, how it is split, what fits.
//!
//! Same inputs, same plan: no IO, no clock, no async, no serde, std only. The operator asks it
//! before a pod exists and the sidecar asks it again at boot; the two answers must be equal.
#![forbid(unsafe_code)]

// The vocabulary.
pub mod account;
pub mod blocks;
pub mod bytes;
pub mod limits;
pub mod model;
pub mod order;
pub mod request;
pub mod shard;
pub mod stored;
pub mod tensor;

// Bytes of each account on one rank, and of the host.
pub mod adapters;
pub mod card;
pub mod host;
pub mod kv_cache;
pub mod offload;
pub mod scratch;
pub mod weights;

// From a request to a plan or a refusal.
mod check;
mod holdings;
pub mod plan;
pub mod refusal;
mod refuse;
mod remedies;
pub mod remedy;
mod split;

// The same with a split that stands.
pub mod refit;

// A refusal in words.
mod message;

// The CPU backend's memory; a plan as text.
pub mod capacity;
pub mod container;
pub mod table;

pub use account::Account;
pub use blocks::{BlockFormat, LayerBlocks, ModelBlocks};
pub use bytes::Bytes;
pub use capacity::{cpu_capacity, cpu_memory_limit};
pub use check::MOST_RANKS;
pub use container::{plan_within, refit_within};
pub use host::{HostReserve, host_reserve};
pub use message::{MEMORY_LIMIT, MOST_CHARACTERS};
pub use model::{Architecture, Dtype, KvDtype, ModelShape};
pub use offload::Offload;
pub use order::{LayerOrders, Order};
pub use plan::{Plan, RankPlan, plan};
pub use refit::{Gain, refit, restart_gain};
pub use refusal::{RankRefusal, Reason, Refusal};
pub use remedy::Remedy;
pub use request::{
    AdapterSlots, Backend, Bound, Budget, KvLayout, Limits, RankCapacity, Request, Utilization,
};
pub use shard::Shard;
pub use split::LEAST_CONTEXT;
pub use stored::{BlockCompute, InputForm, Integers, Kept, Quantization};
pub use table::table;
