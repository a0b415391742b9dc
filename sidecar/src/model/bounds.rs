//! The numbers of a config before they are believed, and the checks that make them a shape.

use plimsoll_planner::{Architecture, ModelShape};

use crate::model_error::ModelError;

/// A config's numbers under the names its file has for them.
#[derive(Clone, Debug)]
pub(crate) struct Numbers {
    pub(crate) architecture: Architecture,
    pub(crate) layers: Named,
    pub(crate) hidden: Named,
    pub(crate) query_heads: Named,
    pub(crate) kv_heads: Named,
    /// None: hidden / query_heads.
    pub(crate) head_dim: Option<Named>,
    pub(crate) ffn: Named,
    pub(crate) vocab: Named,
    pub(crate) context: Named,
    pub(crate) tied: bool,
    pub(crate) qkv_bias: bool,
    pub(crate) output_bias: bool,
    pub(crate) mlp_bias: bool,
    pub(crate) qk_norm: bool,
}

/// A number with the field it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) field: String,
    pub(crate) number: u64,
}

const LAYERS_MAX: u64 = 1024;
const HIDDEN_MAX: u64 = 1 << 17;
const HEADS_MAX: u64 = 1024;
const HEAD_DIM_MAX: u64 = 1024;
const FFN_MAX: u64 = 1 << 20;
const VOCAB_MAX: u64 = 1 << 22;
const CONTEXT_MAX: u64 = 1 << 26;

impl Numbers {
    /// # Errors
    /// [`ModelError::InvalidConfig`], naming the field and the numbers.
    pub(crate) fn shape(self, file: &str) -> Result<ModelShape, ModelError> {
        let layers = within(file, &self.layers, LAYERS_MAX)?;
        let hidden = within(file, &self.hidden, HIDDEN_MAX)?;
        let query_heads = within(file, &self.query_heads, HEADS_MAX)?;
        let kv_heads = within(file, &self.kv_heads, HEADS_MAX)?;
        if query_heads % kv_heads != 0 {
            let message = format!(
                "{} is {query_heads} and {} is {kv_heads}; the second must divide the first",
                self.query_heads.field, self.kv_heads.field
            );
            return Err(ModelError::config(file, message));
        }
        let head_dim = match &self.head_dim {
            Some(named) => within(file, named, HEAD_DIM_MAX)?,
            None if hidden % query_heads != 0 => {
                let message = format!(
                    "{} is {hidden} and {} is {query_heads}; without a head_dim the second must \
                     divide the first",
                    self.hidden.field, self.query_heads.field
                );
                return Err(ModelError::config(file, message));
            }
            None => hidden / query_heads,
        };
        if head_dim % 2 != 0 || u64::from(head_dim) > HEAD_DIM_MAX {
            let message = format!(
                "head_dim is {head_dim}; expected an even number up to {HEAD_DIM_MAX}, rotary \
                 embedding turns pairs"
            );
            return Err(ModelError::config(file, message));
        }
        Ok(ModelShape {
            architecture: self.architecture,
            layers,
            hidden,
            query_heads,
            kv_heads,
            head_dim,
            ffn: within(file, &self.ffn, FFN_MAX)?,
            vocab: within(file, &self.vocab, VOCAB_MAX)?,
            tied: self.tied,
            qkv_bias: self.qkv_bias,
            output_bias: self.output_bias,
            mlp_bias: self.mlp_bias,
            qk_norm: self.qk_norm,
            context: within(file, &self.context, CONTEXT_MAX)?,
        })
    }
}

fn within(file: &str, named: &Named, max: u64) -> Result<u32, ModelError> {
    match u32::try_from(named.number) {
        Ok(number) if number > 0 && named.number <= max => Ok(number),
        _ => {
            let message = format!("{} is {}, expected 1 to {max}", named.field, named.number);
            Err(ModelError::config(file, message))
        }
    }
}

/// A float that must be finite and inside of `range`.
pub(crate) fn float_within(
    file: &str,
    field: &str,
    value: f64,
    range: std::ops::RangeInclusive<f64>,
) -> Result<f64, ModelError> {
    if range.contains(&value) {
        return Ok(value);
    }
    let message = format!(
        "{field} is {value}, expected {:e} to {:e}",
        range.start(),
        range.end()
    );
    Err(ModelError::config(file, message))
}

/// Rotary bases seen in the wild reach from 1e4 to 1e9.
pub(crate) const ROPE_THETA: std::ops::RangeInclusive<f64> = 1.0..=1e12;
/// RMS norms use 1e-5 or 1e-6.
pub(crate) const RMS_EPS: std::ops::RangeInclusive<f64> = 1e-12..=0.1;
pub(crate) const ROPE_FACTOR: std::ops::RangeInclusive<f64> = 1e-3..=1e6;
