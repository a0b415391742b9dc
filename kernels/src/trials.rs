//! The registry of trials: every op's list, for the test program and the benchmarks.

use crate::gpu::trial::Trial;

/// Every op's trials, in the order of the ops.
pub fn all() -> Vec<Trial> {
    let mut trials = crate::probes::trials::all();
    trials.extend(crate::embedding::trials::all());
    trials.extend(crate::rms_norm::trials::all());
    trials.extend(crate::attention::trials::all());
    trials.extend(crate::attention::edge_trials::all());
    trials.extend(crate::attention::refusal_trials::all());
    trials.extend(crate::linear::trials::all());
    trials.extend(crate::linear::launcher_trials::all());
    trials.extend(crate::linear::codes::trials::all());
    trials.extend(crate::linear::codes::launcher_trials::all());
    trials.extend(crate::rope_kv::trials::all());
    trials.extend(crate::silu_mul::trials::all());
    trials.extend(crate::comm::trials::all());
    trials.extend(crate::block_copy::trials::all());
    trials.extend(crate::poison::trials::all());
    trials.extend(crate::checksum::trials::all());
    trials.extend(crate::sampling::trials::all());
    trials.extend(crate::planned::all());
    trials
}
