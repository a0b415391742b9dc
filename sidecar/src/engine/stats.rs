//! What the engine counts. Gauges are of the last step; counters only grow.

use std::time::Duration;

use super::rest::{Transition, TransitionCounts};

/// Upper edges, inclusive, of [`EngineStats::step_sizes`]; vLLM's, so that its dashboards read ours.
pub const STEP_SIZE_EDGES: [u32; 13] = [
    1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384,
];

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
    /// Sequences of each slot for an adapter: those that run, and those that wait.
    pub adapted: Vec<[u32; 2]>,
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
    /// Steps by the tokens they computed, one count per edge; the last is of those past all edges.
    pub step_sizes: [u64; STEP_SIZE_EDGES.len() + 1],
    pub step_time: Duration,
    /// Part of `step_time` in which no rank computed: scheduling, publishing.
    pub host_time: Duration,
    pub last_step: Duration,
    /// In the order of [`Transition::ALL`].
    pub transitions: [TransitionCounts; Transition::ALL.len()],
}

impl EngineStats {
    /// Counts a step of `tokens` that took `time`, of which ranks computed for `computing`.
    pub(crate) fn count_step(&mut self, tokens: u64, time: Duration, computing: Duration) {
        self.steps += 1;
        self.step_tokens += tokens;
        let size = STEP_SIZE_EDGES.partition_point(|edge| u64::from(*edge) < tokens);
        self.step_sizes[size] += 1;
        self.step_time += time;
        self.host_time += time.saturating_sub(computing);
        self.last_step = time;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_count_in_the_first_edge_they_do_not_pass() {
        let mut stats = EngineStats::default();
        let ms = Duration::from_millis;
        for tokens in [1, 2, 8, 9, 2048, 16_384, 16_385] {
            stats.count_step(tokens, ms(5), ms(4));
        }
        assert_eq!(stats.step_sizes, [1, 2, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 1]);
        assert_eq!(stats.steps, stats.step_sizes.iter().sum::<u64>());
        assert_eq!(stats.step_tokens, 34_837);
        assert_eq!((stats.step_time, stats.host_time), (ms(35), ms(7)));
    }
}
