//! `spec.limits`: how much work an engine takes on at once, and for how many adapters it has room.

use plimsoll_planner::{AdapterSlots, Limits};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::rule;

/// Room for adapters of mode Dynamic where there are some, and nothing is written.
const MAX_ADAPTERS: u32 = 4;
const MAX_ADAPTER_RANK: u32 = 16;

/// How much work the engine takes on at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    rule("self.maxNumBatchedTokens >= self.maxNumSeqs").about(".maxNumBatchedTokens").says_computed(
        "'%d is less than spec.limits.maxNumSeqs %d; every running sequence needs one token of a \
             step, so raise it or lower maxNumSeqs'.format([self.maxNumBatchedTokens, \
             self.maxNumSeqs])",
    ),
]))]
pub struct LimitsSpec {
    /// Longest sequence in tokens, prompt and answer together. Absent means the model's own
    /// context, shrunk to what fits (`status.effective` shows it); written, it is refused when it
    /// cannot fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16_777_216))]
    pub max_model_len: Option<u32>,
    /// Sequences that run at once; more wait in a queue.
    #[schemars(range(min = 1, max = 4096))]
    pub max_num_seqs: u32,
    /// Tokens computed in one step. More makes long prompts faster and takes more memory.
    #[schemars(range(min = 1, max = 131_072))]
    pub max_num_batched_tokens: u32,
    /// Adapters of mode Dynamic that an engine has room for at once: account Adapters, which every rank's
    /// budget counts. Absent means 4, or as many as there are in spec.adapters if those are more, and none
    /// where there are none. A change restarts the engines.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 256))]
    pub max_adapters: Option<u32>,
    /// The largest rank (r) of those; one of a larger is not loaded. Absent means 16. A change restarts
    /// the engines.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub max_adapter_rank: Option<u32>,
}

impl Default for LimitsSpec {
    fn default() -> Self {
        LimitsSpec {
            max_adapters: None,
            max_adapter_rank: None,
            max_model_len: None,
            max_num_seqs: Limits::DEFAULT_MAX_NUM_SEQS,
            max_num_batched_tokens: Limits::DEFAULT_MAX_NUM_BATCHED_TOKENS,
        }
    }
}

impl LimitsSpec {
    /// Room for adapters that requests choose, of which the spec names so many.
    pub(super) fn adapter_slots(&self, named: u32) -> AdapterSlots {
        let slots = match (self.max_adapters, named) {
            (Some(most), _) => most,
            (None, 0) => 0,
            (None, named) => named.max(MAX_ADAPTERS),
        };
        match slots {
            0 => AdapterSlots::NONE,
            slots => AdapterSlots {
                slots,
                rank: self.max_adapter_rank.unwrap_or(MAX_ADAPTER_RANK),
            },
        }
    }
}
