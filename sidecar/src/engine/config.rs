//! What the engine is started with.

use std::sync::Arc;

use plimsoll_planner::Request;

use super::weights::WeightsInForce;
use crate::adapters::{Dynamic, Validation};

/// The request a plan was made from, and what a plan does not depend on.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// dtype, KV layout, limits and quotas: what `planner::plan` was asked.
    pub request: Request,
    /// Requests that may wait for their first turn; one more is refused with `QueueFull`.
    pub max_waiting: usize,
    /// Threads of each rank; None: the CPUs this process may use, divided by the ranks.
    pub threads_per_rank: Option<usize>,
    /// A lower instruction set than the machine's best (`Isa::parse` names them); None: the best.
    pub isa: Option<String>,
    /// Reuse the KV blocks of equal prefixes.
    pub prefix_cache: bool,
    /// 2: the next step is planned and sent while ranks compute one, so that they need not wait for
    /// the loop; 1: each step waits for the one before it (to compare with). The tokens are the
    /// same.
    pub steps_under_way: usize,
    /// Answer a few fixed tokens after the load, and prove with them after each wake that nothing
    /// changed. Without it checksums alone are the proof.
    pub probe: bool,
    /// What is done about adapters whose merge cannot be proved.
    pub validation: Validation,
    /// What the weights are called that are loaded first.
    pub weight_version: String,
    /// Blocks of the KV cache, the null block included, that are taken before the engine serves; the
    /// others come behind its first requests, at most as many at once. None: as many as take some tens
    /// of milliseconds.
    pub first_kv_blocks: Option<u32>,
    /// What requests may choose from the start; at most as many as the request has slots.
    pub adapters: Vec<Arc<Dynamic>>,
}

impl EngineConfig {
    pub const DEFAULT_MAX_WAITING: usize = 256;

    pub fn new(request: Request) -> EngineConfig {
        EngineConfig {
            request,
            max_waiting: EngineConfig::DEFAULT_MAX_WAITING,
            threads_per_rank: None,
            isa: None,
            prefix_cache: true,
            steps_under_way: 2,
            probe: true,
            validation: Validation::default(),
            weight_version: WeightsInForce::DEFAULT_VERSION.to_owned(),
            first_kv_blocks: None,
            adapters: Vec::new(),
        }
    }
}

/// Why an engine did not start. After the start, failures are the state `Failed`.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("isa: {0}")]
    Isa(String),
    #[error("the plan does not belong to this model: {0}")]
    Plan(String),
    #[error("could not start a thread: {0}")]
    Thread(#[from] std::io::Error),
}
