//! rope: tables of cos and sin for rotary position embedding, half-split (NeoX) pairing.
//!
//! cos[p, i] = cos(p * f_i), f_i = theta^(-2i / head_dim), scaled as the model says. Frequencies
//! and angles are rounded to f32 as the reference implementation of these models rounds them, so
//! that long contexts see the angles that the model was trained with. YaRN also scales cos and sin
//! by its attention factor.

#[cfg(test)]
mod tests;

use std::f64::consts::PI;

use crate::pool::Pool;

/// `rope_scaling` of a config.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// None.
    Default,
    /// All frequencies divided by `factor`.
    Linear { factor: f64 },
    /// Llama 3: low frequencies divided, high ones kept, a ramp between.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_context: u32,
    },
    /// YaRN: pairs that turn at least `beta_fast` times over the original context keep their
    /// frequency, those that turn at most `beta_slow` times have it divided, a ramp between.
    Yarn {
        factor: f64,
        original_context: u32,
        beta_fast: f64,
        beta_slow: f64,
        /// cos and sin times this, so scores times its square.
        attention_factor: f64,
        /// The ramp begins and ends at whole pairs.
        truncate: bool,
    },
}

impl RopeScaling {
    /// What cos and sin are multiplied by.
    pub const fn attention_factor(&self) -> f64 {
        match self {
            RopeScaling::Yarn {
                attention_factor, ..
            } => *attention_factor,
            RopeScaling::Default | RopeScaling::Linear { .. } | RopeScaling::Llama3 { .. } => 1.0,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeParams {
    /// `rope_theta`
    pub theta: f64,
    pub scaling: RopeScaling,
}

/// The filled tables, each `[positions, head_dim / 2]`.
#[derive(Clone, Copy, Debug)]
pub struct RopeTables<'a> {
    pub cos: &'a [f32],
    pub sin: &'a [f32],
}

/// Fills `cos` and `sin`, each `[positions, head_dim / 2]`, for positions from 0 on.
///
/// # Panics
/// When head_dim is odd or zero, or a table is not whole rows, or the two differ in length.
pub fn table(pool: &Pool, params: &RopeParams, head_dim: usize, cos: &mut [f32], sin: &mut [f32]) {
    // A frequency is worth about as much as a position, and is computed once per chunk.
    const POSITIONS_PER_CHUNK: usize = 256;
    assert!(
        head_dim > 0 && head_dim.is_multiple_of(2),
        "head_dim {head_dim} has no halves"
    );
    let half = head_dim / 2;
    assert!(
        cos.len().is_multiple_of(half) && cos.len() == sin.len(),
        "tables of {half} columns"
    );
    for (table, of) in [(cos, f64::cos as fn(f64) -> f64), (sin, f64::sin)] {
        pool.run_rows(table, half, POSITIONS_PER_CHUNK, |first, rows| {
            fill(params, head_dim, first, rows, of);
        });
    }
}

/// Fills the rows of positions from `first` on.
#[expect(
    clippy::cast_possible_truncation,
    reason = "rounding to f32 is the point"
)]
#[expect(clippy::cast_precision_loss, reason = "positions are far below 2^24")]
fn fill(params: &RopeParams, head_dim: usize, first: usize, rows: &mut [f32], of: fn(f64) -> f64) {
    let half = head_dim / 2;
    let factor = params.scaling.attention_factor() as f32;
    for i in 0..half {
        let frequency = frequency(params, i, head_dim);
        for (position, row) in (first..).zip(rows.chunks_exact_mut(half)) {
            let angle = f64::from(position as f32 * frequency);
            row[i] = of(angle) as f32 * factor;
        }
    }
}

/// The angle of one position step of pair `i`, in radians.
#[expect(
    clippy::cast_possible_truncation,
    reason = "rounding to f32 is the point"
)]
#[expect(clippy::cast_precision_loss, reason = "head sizes are small")]
pub fn frequency(params: &RopeParams, i: usize, head_dim: usize) -> f32 {
    let exponent = f64::from((2 * i) as f32 / head_dim as f32);
    let plain = 1.0 / params.theta.powf(exponent) as f32;
    match params.scaling {
        RopeScaling::Default => plain,
        RopeScaling::Linear { factor } => plain / factor as f32,
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_context,
        } => {
            let context = f64::from(original_context);
            let wavelength = 2.0 * PI / f64::from(plain);
            if wavelength < context / high_freq_factor {
                plain
            } else if wavelength > context / low_freq_factor {
                plain / factor as f32
            } else {
                let kept =
                    (context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                let plain = f64::from(plain);
                ((1.0 - kept) * plain / factor + kept * plain) as f32
            }
        }
        RopeScaling::Yarn {
            factor,
            original_context,
            beta_fast,
            beta_slow,
            truncate,
            ..
        } => {
            // The pair that turns this often over the original context.
            let pair = |turns: f64| {
                let context = f64::from(original_context);
                head_dim as f64 * (context / (turns * 2.0 * PI)).ln() / (2.0 * params.theta.ln())
            };
            let (low, high) = match truncate {
                true => (pair(beta_fast).floor(), pair(beta_slow).ceil()),
                false => (pair(beta_fast), pair(beta_slow)),
            };
            let (low, high) = (low.max(0.0), high.min(head_dim as f64 - 1.0));
            let width = if low == high { 0.001 } else { high - low };
            let divided = ((i as f32 - low as f32) / width as f32).clamp(0.0, 1.0);
            let kept = 1.0 - divided;
            plain / factor as f32 * (1.0 - kept) + plain * kept
        }
    }
}
