//! Numbers of a model that change its results but not its size.

/// How rotary frequencies are stretched for longer contexts.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// `default`: not at all.
    None,
    /// `linear`: every frequency divided by `factor`.
    Linear { factor: f64 },
    /// `llama3`: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_context: u32,
    },
    /// One divisor per frequency, as GGUF files of Llama 3.x carry them (`rope_freqs.weight`).
    Factors(Vec<f32>),
}

/// Rotary embedding over pairs (i, i + head_dim / 2) of each head.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeParams {
    /// `rope_theta`
    pub theta: f64,
    pub scaling: RopeScaling,
}

impl RopeParams {
    /// The head_dim / 2 angles per position, in radians: `theta^(-2i/head_dim)`, scaled.
    ///
    /// The formulas of transformers' `modeling_rope_utils`, computed in f64.
    pub fn inverse_frequencies(&self, head_dim: u32) -> Vec<f64> {
        let base = |i: u32| self.theta.powf(-2.0 * f64::from(i) / f64::from(head_dim));
        (0..head_dim / 2)
            .map(|i| match &self.scaling {
                RopeScaling::None => base(i),
                RopeScaling::Linear { factor } => base(i) / factor,
                RopeScaling::Llama3 {
                    factor,
                    low_freq_factor,
                    high_freq_factor,
                    original_context,
                } => {
                    let frequency = base(i);
                    let turns = f64::from(*original_context) * frequency / std::f64::consts::TAU;
                    if turns < *low_freq_factor {
                        frequency / factor
                    } else if turns > *high_freq_factor {
                        frequency
                    } else {
                        let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        (1.0 - kept) * frequency / factor + kept * frequency
                    }
                }
                RopeScaling::Factors(divisors) => {
                    base(i) / divisors.get(i as usize).map_or(1.0, |d| f64::from(*d))
                }
            })
            .collect()
    }
}

/// What the forward pass needs to know beside the shape.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelParams {
    /// `rms_norm_eps`
    pub rms_eps: f32,
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
