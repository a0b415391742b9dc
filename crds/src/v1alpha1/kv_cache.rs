//! The cache of keys and values: what is asked of it, and how its numbers are stored.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::byte_rules;

/// The cache of keys and values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct KvCacheSpec {
    /// Type of the cached keys and values: Float32, BFloat16, Float16, Int8, or Auto for the type of
    /// the weights in memory. Int8 holds nearly twice the tokens of 16 bits: a head of a token is
    /// integers of 8 bits and a scale of 32, its largest number / 127. Answers may turn where two
    /// tokens are close. A change restarts the engines.
    pub dtype: KvDtypeChoice,
    /// Tokens of one block: 8, 16, 32 or 64.
    #[schemars(extend("enum" = [8, 16, 32, 64]))]
    pub block_size: u32,
    /// Upper bound on each rank. A quantity such as 200Mi, at least 1Mi; absent means all that
    /// the budgets leave.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "maxLength" = 32,
        "x-kubernetes-validations" = byte_rules(),
    ))]
    pub size: Option<Quantity>,
}

impl Default for KvCacheSpec {
    fn default() -> Self {
        KvCacheSpec {
            dtype: KvDtypeChoice::Auto,
            block_size: 16,
            size: None,
        }
    }
}

/// Type of cached keys and values, or Auto.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum KvDtypeChoice {
    #[default]
    Auto,
    Float32,
    BFloat16,
    Float16,
    Int8,
}

/// How cached keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum KvDtype {
    /// 32 bits.
    Float32,
    /// 16 bits with the exponent of Float32.
    BFloat16,
    /// IEEE half precision.
    Float16,
    /// 8 bits, and one Float32 for each head of each token that they are multiples of.
    Int8,
}
