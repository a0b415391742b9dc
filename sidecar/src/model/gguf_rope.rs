//! The scaling of rotary embedding in a GGUF file, under its new and old keys, as llama.cpp reads it:
//! a factor without a type is linear, and `rope.scale_linear` is the factor's old name.

use plimsoll_kernels::rope::RopeScaling;
use plimsoll_planner::ModelShape;

use super::bounds::{CONTEXT_MAX, ROPE_FACTOR, float_within};
use super::gguf_keys::Keys;
use crate::model_error::{ModelError, shorten};
use crate::weights::TensorSource;
use crate::weights::gguf::GgufTensors;

/// One divisor per rotary frequency: how Llama 3.x files carry their scaling.
const ROPE_FACTORS: &str = "rope_freqs.weight";
const FACTOR: &str = "rope.scaling.factor";
const FACTOR_OLD: &str = "rope.scale_linear";

/// The scaling, and the context that it reaches: linear and YaRN stretch it, as they do for a
/// `config.json`.
pub(super) fn scaling(
    keys: &Keys<'_>,
    shape: &ModelShape,
    theta: f64,
    tensors: &GgufTensors,
) -> Result<(RopeScaling, u32), ModelError> {
    let file = keys.metadata.file.as_str();
    let kind = keys.metadata.string(&keys.key("rope.scaling.type"))?;
    // 0 says nothing, as a factor of 1 does.
    let factor = factor(keys)?.filter(|(_, factor)| *factor != 0.0 && *factor != 1.0);
    let scaled = kind.unwrap_or("linear") != "none" && factor.is_some();
    if let Some(info) = tensors.info(ROPE_FACTORS) {
        if scaled {
            let message = format!(
                "has divisors of its frequencies (`{ROPE_FACTORS}`) and a rope scaling; supported \
                 is one of them"
            );
            return Err(ModelError::architecture(file, message));
        }
        let pairs = shape.head_dim as usize / 2;
        if info.shape != [pairs] {
            let message = format!(
                "tensor `{ROPE_FACTORS}` has the shape {:?}, expected [{pairs}]",
                info.shape
            );
            return Err(ModelError::weights(file, message));
        }
        let mut factors = vec![0.0; pairs];
        tensors.read_rows(ROPE_FACTORS, 0..pairs, &mut factors)?;
        return Ok((llama3_scaling(file, shape, theta, &factors)?, shape.context));
    }
    let needed = || {
        let (key, factor) = factor
            .clone()
            .ok_or_else(|| keys.metadata.missing(&keys.key(FACTOR)))?;
        float_within(file, &key, factor, ROPE_FACTOR)
    };
    match kind {
        Some("none") => Ok((RopeScaling::Default, shape.context)),
        None if !scaled => Ok((RopeScaling::Default, shape.context)),
        None | Some("linear") => {
            let factor = needed()?;
            let reach = reach(file, f64::from(shape.context) * factor)?;
            Ok((RopeScaling::Linear { factor }, reach))
        }
        Some("yarn") => yarn(keys, shape, theta, needed()?),
        Some(other) => {
            let message = format!(
                "rope scaling `{}` is not supported; supported: none, linear, yarn, llama3",
                shorten(other)
            );
            Err(ModelError::architecture(file, message))
        }
    }
}

/// The factor and the key it stands under.
fn factor(keys: &Keys<'_>) -> Result<Option<(String, f64)>, ModelError> {
    let read = |name: &str| -> Result<Option<(String, f64)>, ModelError> {
        Ok(keys.float(name)?.map(|factor| (keys.key(name), factor)))
    };
    let (new, old) = (read(FACTOR)?, read(FACTOR_OLD)?);
    if let (Some((new, a)), Some((old, b))) = (&new, &old)
        && a != b
    {
        let message = format!("metadata `{new}` is {a} and `{old}` is {b}; they mean the same");
        return Err(ModelError::config(&keys.metadata.file, message));
    }
    Ok(new.or(old))
}

fn yarn(
    keys: &Keys<'_>,
    shape: &ModelShape,
    theta: f64,
    factor: f64,
) -> Result<(RopeScaling, u32), ModelError> {
    let file = keys.metadata.file.as_str();
    if theta <= 1.0 {
        let message = format!(
            "{} is {theta}, expected more than 1",
            keys.key("rope.freq_base")
        );
        return Err(ModelError::config(file, message));
    }
    for name in ["attn_factor", "yarn_attn_factor", "yarn_ext_factor"] {
        let name = format!("rope.scaling.{name}");
        if let Some(value) = keys.float(&name)?
            && value != 1.0
        {
            let message = format!("metadata `{}` is {value}; supported: 1", keys.key(&name));
            return Err(ModelError::architecture(file, message));
        }
    }
    let original_context = match keys.number("rope.scaling.original_context_length")? {
        None => shape.context,
        Some(named) => u32::try_from(named.number)
            .ok()
            .filter(|n| (1..=CONTEXT_MAX).contains(&u64::from(*n)))
            .ok_or_else(|| {
                let message = format!(
                    "metadata `{}` is {}, expected 1 to {CONTEXT_MAX}",
                    named.field, named.number
                );
                ModelError::config(file, message)
            })?,
    };
    let turns = |name: &str, default: f64| -> Result<f64, ModelError> {
        let turns = keys.float(name)?.unwrap_or(default);
        float_within(file, &keys.key(name), turns, 1e-3..=1e6)
    };
    let scaling = RopeScaling::Yarn {
        factor,
        original_context,
        beta_fast: turns("rope.scaling.yarn_beta_fast", 32.0)?,
        beta_slow: turns("rope.scaling.yarn_beta_slow", 1.0)?,
        attention_factor: 0.1 * factor.max(1.0).ln() + 1.0,
        truncate: true,
    };
    let reach = reach(file, f64::from(original_context) * factor)?;
    Ok((scaling, reach))
}

fn reach(file: &str, tokens: f64) -> Result<u32, ModelError> {
    let tokens = float_within(
        file,
        "the context its scaling reaches",
        tokens,
        1.0..=CONTEXT,
    )?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "within CONTEXT"
    )]
    Ok(tokens as u32)
}

#[expect(clippy::cast_precision_loss, reason = "2^26")]
const CONTEXT: f64 = CONTEXT_MAX as f64;

/// Llama 3.1 and later: all of them use these numbers, only the factor differs.
const LLAMA3_LOW_FREQ_FACTOR: f64 = 1.0;
const LLAMA3_HIGH_FREQ_FACTOR: f64 = 4.0;
const LLAMA3_ORIGINAL_CONTEXT: u32 = 8192;

/// The scaling whose divisors a file carries: computed again and compared, so that a file with
/// other divisors is refused instead of misread.
fn llama3_scaling(
    file: &str,
    shape: &ModelShape,
    theta: f64,
    divisors: &[f32],
) -> Result<RopeScaling, ModelError> {
    let factor = divisors.iter().copied().fold(1.0f32, f32::max);
    let factor = float_within(file, ROPE_FACTORS, f64::from(factor), ROPE_FACTOR)?;
    let context = f64::from(LLAMA3_ORIGINAL_CONTEXT);
    let equal = (0u32..).zip(divisors).all(|(i, divisor)| {
        let frequency = theta.powf(-2.0 * f64::from(i) / f64::from(shape.head_dim));
        // Turns that this pair makes over the original context.
        let turns = context * frequency / std::f64::consts::TAU;
        let kept =
            (turns - LLAMA3_LOW_FREQ_FACTOR) / (LLAMA3_HIGH_FREQ_FACTOR - LLAMA3_LOW_FREQ_FACTOR);
        let kept = kept.clamp(0.0, 1.0);
        let expected = 1.0 / ((1.0 - kept) / factor + kept);
        (f64::from(*divisor) - expected).abs() <= 1e-3 * expected
    });
    if !equal {
        let message = format!(
            "tensor `{ROPE_FACTORS}` holds divisors that are not those of llama3 scaling with \
             factor {factor}; such a rope type is not supported"
        );
        return Err(ModelError::architecture(file, message));
    }
    Ok(RopeScaling::Llama3 {
        factor,
        low_freq_factor: LLAMA3_LOW_FREQ_FACTOR,
        high_freq_factor: LLAMA3_HIGH_FREQ_FACTOR,
        original_context: LLAMA3_ORIGINAL_CONTEXT,
    })
}
