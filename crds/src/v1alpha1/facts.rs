//! What is known about a model without running it: read from its headers by `inspect`, kept in
//! `status.model`. Flat, and small enough for a termination message.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Decoder architectures the engine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Architecture {
    /// Llama 2 and 3.x.
    Llama,
    /// Mistral.
    Mistral,
    /// Qwen 2 and 2.5.
    Qwen2,
    /// Qwen 3.
    Qwen3,
}

/// How the model is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ModelFormat {
    /// A folder with `config.json` and safetensors.
    HuggingFace,
    /// One GGUF file.
    #[serde(rename = "GGUF")]
    Gguf,
}

/// How a number is stored in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Dtype {
    /// 32 bits.
    Float32,
    /// 16 bits with the exponent of Float32.
    BFloat16,
    /// IEEE half precision.
    Float16,
}

/// A block of 32, 128 or 256 numbers of a row with scales of its own, named as in GGUF; those that begin
/// with a Z hold what GPTQ, AWQ and compressed-tensors pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BlockFormat {
    /// 4 bits and a scale.
    #[serde(rename = "Q4_0")]
    Q4_0,
    /// 4 bits, a scale and a minimum.
    #[serde(rename = "Q4_1")]
    Q4_1,
    /// 5 bits and a scale.
    #[serde(rename = "Q5_0")]
    Q5_0,
    /// 5 bits, a scale and a minimum.
    #[serde(rename = "Q5_1")]
    Q5_1,
    /// 8 bits and a scale.
    #[serde(rename = "Q8_0")]
    Q8_0,
    /// 4 bits that number unequal steps, and a scale.
    #[serde(rename = "IQ4_NL")]
    Iq4Nl,
    /// 2 bits; of 256 numbers, each 16 have a scale and a minimum.
    #[serde(rename = "Q2_K")]
    Q2K,
    /// 3 bits; of 256 numbers, each 16 have a scale.
    #[serde(rename = "Q3_K")]
    Q3K,
    /// 4 bits; of 256 numbers, each 32 have a scale and a minimum.
    #[serde(rename = "Q4_K")]
    Q4K,
    /// 5 bits; of 256 numbers, each 32 have a scale and a minimum.
    #[serde(rename = "Q5_K")]
    Q5K,
    /// 6 bits; of 256 numbers, each 16 have a scale.
    #[serde(rename = "Q6_K")]
    Q6K,
    /// 4 bits that number unequal steps; of 256 numbers, each 32 have a scale.
    #[serde(rename = "IQ4_XS")]
    Iq4Xs,
    /// 4 bits; 32 numbers have a scale and a zero point.
    #[serde(rename = "Z4_32")]
    Z4By32,
    /// 4 bits; 128 numbers have a scale and a zero point.
    #[serde(rename = "Z4_128")]
    Z4By128,
    /// 8 bits; 32 numbers have a scale and a zero point.
    #[serde(rename = "Z8_32")]
    Z8By32,
}

/// The matrices that a file has in blocks, and that stay so in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoredBlocks {
    /// The embedding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<BlockFormat>,
    /// The output head of a model that does not tie it to the embedding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<BlockFormat>,
    /// All layers, those that are alike in one row; empty where no layer has any. Rows are in the
    /// order of the layers, unless `order` has another.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub layers: Vec<StoredLayers>,
    /// Of which row each layer is, where alike ones do not follow one another: a letter for every layer,
    /// A for the first row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
}

/// Layers whose matrices are stored alike; what is absent is of a float type, or is expanded to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoredLayers {
    /// How many layers.
    pub count: u32,
    /// The q, k and v projections, where all three are in the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qkv: Option<BlockFormat>,
    /// The q projection, where the three differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<BlockFormat>,
    /// The k projection, where the three differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<BlockFormat>,
    /// The v projection, where the three differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<BlockFormat>,
    /// The output projection of attention.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<BlockFormat>,
    /// The gate and up projections of the MLP, where both are in the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate_up: Option<BlockFormat>,
    /// The gate projection, where the two differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<BlockFormat>,
    /// The up projection, where the two differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<BlockFormat>,
    /// The down projection of the MLP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down: Option<BlockFormat>,
    /// Which of these have groups of columns that are apart in the file (act order), by their names here:
    /// they lie group by group, with a list of their inputs. `output` and `down` are expanded where
    /// several ranks share them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub listed: Vec<Matrix>,
}

/// A matrix, or several that lie as one, of a row of alike layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Matrix {
    /// q, k and v, with one list.
    Qkv,
    /// q.
    Query,
    /// k.
    Key,
    /// v.
    Value,
    /// The output projection of attention.
    Output,
    /// Gate and up, with one list.
    GateUp,
    /// Gate.
    Gate,
    /// Up.
    Up,
    /// Down.
    Down,
}

/// Facts of a model: its shape, how it is stored, and the digest that identifies it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelFacts {
    /// Decoder architecture: Llama, Mistral, Qwen2 or Qwen3.
    pub architecture: Architecture,
    /// How the model is stored: HuggingFace (a folder) or GGUF (one file).
    pub format: ModelFormat,
    /// Decoder layers.
    pub layers: u32,
    /// Width of the residual stream.
    pub hidden_size: u32,
    /// Query heads of one layer.
    pub query_heads: u32,
    /// KV heads of one layer: what tensor parallelism divides.
    pub kv_heads: u32,
    /// Numbers in one head.
    pub head_dim: u32,
    /// Width of the MLP.
    pub intermediate_size: u32,
    /// Rows of the embedding.
    pub vocabulary_size: u32,
    /// The output head is the input embedding.
    pub tied: bool,
    /// The q, k and v projections carry a bias.
    pub qkv_bias: bool,
    /// The output projection of attention carries a bias.
    pub output_bias: bool,
    /// The projections of the MLP carry a bias.
    pub mlp_bias: bool,
    /// Each head of q and k is normalised (Qwen3).
    pub qk_norm: bool,
    /// The model's own context, in tokens.
    pub context_length: u32,
    /// Type of most weights in the file: F32, BF16, Q4_1 and so on.
    pub file_dtype: String,
    /// What `spec.model.dtype: Auto` means for this model.
    pub default_dtype: Dtype,
    /// How the file is quantised, absent if it is not. What `blocks` does not name is expanded at load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<String>,
    /// Which matrices stay in the blocks that the file has, unless `spec.model.quantization.mode` is
    /// None.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<StoredBlocks>,
    /// Bytes of the weights in the file.
    pub weight_file_bytes: u64,
    /// Number of parameters.
    pub parameters: u64,
    /// `sha256:` over config and tensor headers, and all of its adapters. The engine refuses a model with another digest.
    pub digest: String,
    /// Where the model's files contradict each other, and which one counts; what they ask for and
    /// the engine does not do. At most 8 sentences of 200 characters; the engine's log has all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub notes: Vec<String>,
    /// Adapters that are merged into the weights, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub adapters: Vec<AdapterFacts>,
}

/// An adapter that was read and fits its model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AdapterFacts {
    /// As in `spec.adapters`.
    pub name: String,
    /// `sha256:` over its config and all of its numbers.
    pub digest: String,
    /// Tensors of the model that it changes.
    pub tensors: u32,
}

/// Why a model was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InspectError {
    /// One of the `ModelResolved` reasons, in CamelCase.
    pub reason: String,
    /// What is wrong and the way out, for the user.
    pub message: String,
}

/// The answer of `plimsoll-sidecar inspect` in its termination message: facts or an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InspectResult {
    /// What the model is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<ModelFacts>,
    /// Why it was not accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<InspectError>,
}
