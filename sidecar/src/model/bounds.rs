//! The numbers of a config before they are believed, and the checks that make them a shape.

use plimsoll_planner::ModelBlocks;
use plimsoll_planner::limits::{self, Limit};
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

/// Tokens of any context.
pub(crate) const CONTEXT_MAX: u64 = limits::CONTEXT.most as u64;

impl Numbers {
    /// # Errors
    /// [`ModelError::InvalidConfig`], naming the field and the numbers.
    pub(crate) fn shape(self, file: &str) -> Result<ModelShape, ModelError> {
        let layers = within(file, &self.layers, limits::LAYERS)?;
        let hidden = within(file, &self.hidden, limits::HIDDEN)?;
        let query_heads = within(file, &self.query_heads, limits::QUERY_HEADS)?;
        let kv_heads = within(file, &self.kv_heads, limits::KV_HEADS)?;
        if query_heads % kv_heads != 0 {
            let message = format!(
                "{} is {query_heads} and {} is {kv_heads}; the second must divide the first",
                self.query_heads.field, self.kv_heads.field
            );
            return Err(ModelError::config(file, message));
        }
        let head_dim = match &self.head_dim {
            Some(named) => within(file, named, limits::HEAD_DIM)?,
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
        let most = limits::HEAD_DIM.most;
        if head_dim % 2 != 0 || head_dim > most {
            let message = format!(
                "head_dim is {head_dim}; expected an even number up to {most}: rotary embedding \
                 turns pairs, and {}",
                limits::HEAD_DIM.why
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
            ffn: within(file, &self.ffn, limits::FFN)?,
            vocab: within(file, &self.vocab, limits::VOCABULARY)?,
            tied: self.tied,
            qkv_bias: self.qkv_bias,
            output_bias: self.output_bias,
            mlp_bias: self.mlp_bias,
            qk_norm: self.qk_norm,
            context: within(file, &self.context, limits::CONTEXT)?,
            blocks: ModelBlocks::default(),
        })
    }
}

fn within(file: &str, named: &Named, limit: Limit) -> Result<u32, ModelError> {
    match u32::try_from(named.number) {
        Ok(number) if number > 0 && number <= limit.most => Ok(number),
        _ => {
            let Limit { most, why, .. } = limit;
            let message = format!(
                "{} is {}, expected 1 to {most}: {why}",
                named.field, named.number
            );
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
