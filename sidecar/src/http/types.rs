//! The JSON that leaves the API port: OpenAI's objects, and vLLM's for `/tokenize`.
//!
//! Only shapes. Field order is that of OpenAI's own answers.

use serde::{Serialize, Serializer};

/// `GET /v1/models`
#[derive(Clone, Debug, Serialize)]
pub struct ModelList {
    pub object: &'static str,
    pub data: Vec<ModelCard>,
}

/// `GET /v1/models/{id}`; `root` and `max_model_len` as vLLM adds them.
#[derive(Clone, Debug, Serialize)]
pub struct ModelCard {
    pub id: String,
    pub object: &'static str,
    pub created: u64,
    pub owned_by: &'static str,
    pub root: String,
    pub parent: Option<String>,
    /// Absent until the plan is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_model_len: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    pub prompt_tokens: u32,
    pub completion_tokens: u32,
    pub total_tokens: u32,
    pub prompt_tokens_details: PromptTokensDetails,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PromptTokensDetails {
    /// Prompt tokens whose KV blocks were there already.
    pub cached_tokens: u32,
}

/// Why a choice ended, as OpenAI spells it; `abort` is vLLM's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EndReason {
    Stop,
    Length,
    Abort,
}

/// One chunk of an answer; `C` is the kind of its choices. (`whole` writes the same of answers that
/// are not streamed.)
#[derive(Clone, Debug, Serialize)]
pub struct Envelope<C> {
    pub id: String,
    pub object: &'static str,
    pub created: u64,
    pub model: String,
    pub choices: Vec<C>,
    /// Outer None: the field is absent (chunks without `include_usage`); inner None: null.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
}

#[derive(Clone, Debug, Serialize)]
pub struct ChatChunkChoice {
    pub index: u32,
    pub delta: Delta,
    pub logprobs: Option<ChatLogprobs>,
    pub finish_reason: Option<EndReason>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ChatLogprobs {
    pub content: Vec<ChatLogprob>,
    pub refusal: Option<Vec<ChatLogprob>>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChatLogprob {
    #[serde(flatten)]
    pub token: TokenLogprob,
    pub top_logprobs: Vec<TokenLogprob>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenLogprob {
    pub token: String,
    pub logprob: f32,
    /// The token's bytes: a token may be a part of a character.
    pub bytes: Vec<u8>,
}

#[derive(Clone, Debug, Serialize)]
pub struct CompletionChoice {
    pub text: String,
    pub index: u32,
    pub logprobs: Option<CompletionLogprobs>,
    /// None only in chunks.
    pub finish_reason: Option<EndReason>,
}

/// Parallel lists, one entry per token.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CompletionLogprobs {
    pub tokens: Vec<String>,
    /// Null where nothing is known: of the first token of a prompt.
    pub token_logprobs: Vec<Option<f32>>,
    pub top_logprobs: Vec<Option<TopLogprobs>>,
    /// Characters (not bytes) before the token in the choice's text.
    pub text_offset: Vec<usize>,
}

/// Tokens and their log-probabilities, the likeliest first: an object. The numbers are `f32` to the
/// end, so that one of them has the same digits wherever it is told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopLogprobs(pub Vec<(String, f32)>);

impl Serialize for TopLogprobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(token, logprob)| (token, logprob)))
    }
}

/// `GET /weight_checker` of the admin port.
#[derive(Clone, Debug, Serialize)]
pub struct WeightChecks {
    /// Every tensor of every rank is what it was when its load ended.
    pub unchanged: bool,
    pub ranks: Vec<RankWeights>,
}

#[derive(Clone, Debug, Serialize)]
pub struct RankWeights {
    pub rank: u32,
    pub tensors: usize,
    pub bytes: u64,
    /// Of all its tensors together: 16 hexadecimal digits.
    pub checksum: String,
    pub unchanged: bool,
    /// The first tensors that are not what they were.
    pub changed: Vec<String>,
}

/// `POST /tokenize`
#[derive(Clone, Debug, Serialize)]
pub struct Tokenized {
    pub count: usize,
    pub max_model_len: u32,
    pub tokens: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_strs: Option<Vec<String>>,
}

/// `POST /detokenize`
#[derive(Clone, Debug, Serialize)]
pub struct Detokenized {
    pub prompt: String,
}
