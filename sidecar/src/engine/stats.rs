//! What the engine counts. Gauges are of the last step; counters only grow.

use std::time::Duration;

/// One consistent copy of the engine's figures; the metrics layer names them as vLLM does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EngineStats {
    /// Sequences that hold KV blocks.
    pub running: usize,
    /// Sequences that wait for their first (or, preempted, next) turn.
    pub waiting: usize,
    /// Blocks in use / blocks there are, 0 to 1.
    pub kv_usage: f64,
    /// Bytes of blocks in use that hold no token yet / bytes of blocks in use, 0 to 1.
    pub kv_waste: f64,
    pub preemptions: u64,
    /// Tokens looked up in, and found in, the prefix cache.
    pub prefix_queries: u64,
    pub prefix_hits: u64,
    /// Prompt tokens computed or found (each prompt once), and tokens generated.
    pub prompt_tokens: u64,
    pub generation_tokens: u64,
    pub finished_stop: u64,
    pub finished_length: u64,
    pub finished_abort: u64,
    pub finished_error: u64,
    /// Steps run, tokens they computed, and their time in all.
    pub steps: u64,
    pub step_tokens: u64,
    pub step_time: Duration,
    /// Part of `step_time` in which no rank computed: scheduling, publishing.
    pub host_time: Duration,
    pub last_step: Duration,
}
