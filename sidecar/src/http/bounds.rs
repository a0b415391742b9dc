//! What the engine bounds of a request: the facts that parameters are checked against.

/// Bounds that depend on the engine.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub max_model_len: u32,
    pub max_num_seqs: u32,
    pub vocabulary: u32,
}
