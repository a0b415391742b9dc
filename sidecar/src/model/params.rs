//! Numbers of a model that change its results but not its size.

use plimsoll_kernels::rope::RopeParams;

/// What the forward pass needs to know beside the shape.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelParams {
    /// `rms_norm_eps`
    pub rms_eps: f32,
    /// Rotary embedding over pairs (i, i + head_dim / 2) of each head.
    pub rope: RopeParams,
    /// Tokens that attention looks back on (`sliding_window`), in the layers that have a window.
    pub sliding_window: Option<u32>,
    /// The first layer with a sliding window (Qwen2's `max_window_layers`; 0 for Mistral).
    pub first_sliding_layer: u32,
}

impl ModelParams {
    /// The window of one layer, None where attention sees the whole context.
    pub fn window(&self, layer: u32) -> Option<u32> {
        self.sliding_window
            .filter(|_| layer >= self.first_sliding_layer)
    }
}
