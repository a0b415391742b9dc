//! The parameters that completions and chat share, checked once. Which fields there are at all, and
//! which of them are refused, is told by `decisions`.
//!
//! Ranges are OpenAI's where OpenAI has the parameter, vLLM's elsewhere. What a request leaves out is
//! the model's own default where it has one, else OpenAI's.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde_json::Value;

use crate::digits;
use crate::engine::request::SamplingParams;
use crate::http::bounds::Bounds;
use crate::http::choice::Ending;
use crate::http::decisions::{RESPONSE_FORMAT, STREAM_OPTIONS};
use crate::http::error::{ApiError, shown};
use crate::http::fields::{Fields, wrong};
use crate::http::prompt;
use crate::model::sampling::{
    MIN_P, REPETITION_PENALTY_MAX, SamplingDefaults, TEMPERATURE, TOP_P_MAX,
};
use plimsoll_kernels::sampling::MAX_LOGPROBS;
use plimsoll_planner::limits;

/// Checked parameters of one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// Choices per prompt.
    pub n: u32,
    /// `stream` and `logprobs` are still to be set per choice and endpoint.
    pub sampling: SamplingParams,
    /// None: the endpoint's default. What the context does not leave is cut off, as vLLM does; -1
    /// asks for all that it leaves ([`MAX_TOKENS_ALL`]).
    pub max_tokens: Option<u32>,
    /// `ids` are the request's own; the model's are added where they count.
    pub ending: Ending,
    /// Added to logits: ids ascend.
    pub bias: Vec<(u32, f32)>,
    /// The answer begins with the prompt.
    pub echo: bool,
    pub ignore_eos: bool,
    pub stream: bool,
    pub include_usage: bool,
    /// Every chunk tells the usage so far.
    pub continuous_usage: bool,
    /// Log-probabilities name tokens `token_id:7`.
    pub tokens_as_ids: bool,
    /// Requests share cached prefixes only with an equal salt.
    pub cache_salt: Option<String>,
}

/// `max_tokens: -1`.
pub const MAX_TOKENS_ALL: u32 = u32::MAX;

/// Each is looked for in every piece of text. (OpenAI takes four, vLLM any number.)
const MOST_STOPS: usize = 128;
/// A stop string longer than this is a mistake; text is held back up to its length.
const LONGEST_STOP_BYTES: usize = 1024;
const MOST_STOP_IDS: usize = limits::STOP_IDS;
const MOST_BIASES: usize = limits::LOGIT_BIASES;
/// OpenAI's range: at its ends a token is certain or never drawn.
const BIAS: RangeInclusive<f64> = -100.0..=100.0;
const LONGEST_SALT_BYTES: usize = 256;

/// Takes the shared parameters out of `fields`. `max_tokens` is read under every name of
/// `max_tokens_names`; the first one present wins, and both must be valid.
pub fn take(
    fields: &mut Fields,
    bounds: &Bounds,
    defaults: &SamplingDefaults,
    max_tokens_names: &[&str],
) -> Result<Params, ApiError> {
    let SamplingDefaults {
        temperature,
        top_k: default_top_k,
        top_p,
        min_p,
        repetition_penalty,
        // Which answers have a default length is their routes' to say.
        max_new_tokens: _,
    } = *defaults;
    let vocabulary = i64::from(bounds.vocabulary);
    let seed = fields.integer("seed", i64::MIN..=i64::MAX)?;
    // vLLM's clients write "all tokens" as -1, others as 0.
    let top_k = fields
        .integer("top_k", -1..=vocabulary)?
        .map(|k| u32::try_from(k).unwrap_or(0));
    let sampling = SamplingParams {
        temperature: fields
            .number("temperature", TEMPERATURE)?
            .or(temperature)
            .unwrap_or(1.0),
        top_k: top_k.or(default_top_k).unwrap_or(0),
        top_p: fields
            .positive("top_p", TOP_P_MAX)?
            .or(top_p)
            .unwrap_or(1.0),
        min_p: fields.number("min_p", MIN_P)?.or(min_p).unwrap_or(0.0),
        repetition_penalty: fields
            .positive("repetition_penalty", REPETITION_PENALTY_MAX)?
            .or(repetition_penalty)
            .unwrap_or(1.0),
        presence_penalty: fields
            .number("presence_penalty", -2.0..=2.0)?
            .unwrap_or(0.0),
        frequency_penalty: fields
            .number("frequency_penalty", -2.0..=2.0)?
            .unwrap_or(0.0),
        seed: seed.map_or_else(random_seed, i64::cast_unsigned),
        stream: 0,
        logprobs: None,
    };
    let echo = fields.boolean("echo")?.unwrap_or(false);
    let mut max_tokens = None;
    for name in max_tokens_names {
        let value = fields.integer(name, -1..=i64::MAX)?;
        if value == Some(0) && !echo {
            let message = format!(
                "{name}: 0 is not a whole number from 1 on, or -1 for all (0 needs echo=true)"
            );
            return Err(ApiError::invalid(Some(name), message));
        }
        let value = value.map(|count| u32::try_from(count).unwrap_or(MAX_TOKENS_ALL));
        max_tokens = max_tokens.or(value);
    }
    if let Some(mut format) = fields.object("response_format")? {
        format.settle(RESPONSE_FORMAT)?;
        format.finish()?;
    }
    let stream = fields.boolean("stream")?.unwrap_or(false);
    let [include_usage, continuous_usage] = stream_options(fields, stream)?;
    let n = fields
        .count("n", 1..=bounds.max_num_seqs.min(128))?
        .unwrap_or(1);
    if let Some(best_of) = fields.take("best_of")
        && best_of.as_f64() != Some(f64::from(n))
    {
        let why = format!("only as many as n ({n}) are supported");
        return Err(ApiError::unsupported("best_of", &why));
    }
    let ending = ending(fields, bounds)?;
    if let Some(most) = max_tokens.filter(|most| *most < ending.min_tokens) {
        let least = ending.min_tokens;
        let message = format!("min_tokens: {least} is more than max_tokens, {most}");
        return Err(ApiError::invalid(Some("min_tokens"), message));
    }
    Ok(Params {
        n,
        sampling,
        max_tokens,
        ending,
        bias: bias(fields, bounds)?,
        echo,
        ignore_eos: fields.boolean("ignore_eos")?.unwrap_or(false),
        stream,
        include_usage,
        continuous_usage,
        tokens_as_ids: fields
            .boolean("return_tokens_as_token_ids")?
            .unwrap_or(false),
        cache_salt: cache_salt(fields)?,
    })
}

/// `logprobs` and `top_logprobs` of one endpoint, as a count.
pub fn logprob_count(fields: &mut Fields, name: &str) -> Result<Option<u8>, ApiError> {
    let count = fields.count(name, 0..=u32::from(MAX_LOGPROBS))?;
    Ok(count.and_then(|count| u8::try_from(count).ok()))
}

fn ending(fields: &mut Fields, bounds: &Bounds) -> Result<Ending, ApiError> {
    let ids = match fields.take("stop_token_ids") {
        None => Vec::new(),
        Some(Value::Array(items)) if items.len() > MOST_STOP_IDS => {
            let message = format!(
                "stop_token_ids: {} ids, at most {MOST_STOP_IDS} are allowed",
                items.len()
            );
            return Err(ApiError::invalid(Some("stop_token_ids"), message));
        }
        Some(Value::Array(items)) => prompt::ids("stop_token_ids", &items, bounds.vocabulary)?,
        Some(other) => return Err(wrong("stop_token_ids", &other, "a list of token ids")),
    };
    Ok(Ending {
        stops: stops(fields)?,
        ids,
        include_stop: fields
            .boolean("include_stop_str_in_output")?
            .unwrap_or(false),
        skip_special: fields.boolean("skip_special_tokens")?.unwrap_or(true),
        min_tokens: fields
            .count("min_tokens", 0..=bounds.max_model_len)?
            .unwrap_or(0),
    })
}

/// `{"50256": -100}`: what is added to which token's logit.
fn bias(fields: &mut Fields, bounds: &Bounds) -> Result<Vec<(u32, f32)>, ApiError> {
    const NAME: &str = "logit_bias";
    let refuse = |why: String| Err(ApiError::invalid(Some(NAME), format!("{NAME}: {why}")));
    let biases = match fields.take(NAME) {
        None => return Ok(Vec::new()),
        Some(Value::Object(biases)) => biases,
        Some(other) => return Err(wrong(NAME, &other, "an object of token ids and biases")),
    };
    if biases.len() > MOST_BIASES {
        let count = biases.len();
        return refuse(format!("{count} tokens, at most {MOST_BIASES} are allowed"));
    }
    let mut sorted = BTreeMap::new();
    for (key, bias) in &biases {
        let id = digits::number(key).filter(|id| *id < bounds.vocabulary);
        let Some(id) = id else {
            let last = bounds.vocabulary - 1;
            return refuse(format!("{} is not a token id from 0 to {last}", shown(key)));
        };
        let (least, most) = (BIAS.start(), BIAS.end());
        let Some(bias) = bias.as_f64().filter(|bias| BIAS.contains(bias)) else {
            return refuse(format!(
                "the bias of {id} must be a number from {least} to {most}"
            ));
        };
        #[expect(clippy::cast_possible_truncation, reason = "sampling computes in f32")]
        if sorted.insert(id, bias as f32).is_some() {
            return refuse(format!("token {id} is there twice"));
        }
    }
    Ok(sorted.into_iter().collect())
}

fn stops(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let stops = match fields.take("stop") {
        None => Vec::new(),
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(items)) => items
            .into_iter()
            .map(|item| match item {
                Value::String(one) => Ok(one),
                other => Err(wrong("stop", &other, "a string or a list of strings")),
            })
            .collect::<Result<_, _>>()?,
        Some(other) => return Err(wrong("stop", &other, "a string or a list of strings")),
    };
    if stops.len() > MOST_STOPS {
        let message = format!(
            "stop: {} strings, at most {MOST_STOPS} are allowed",
            stops.len()
        );
        return Err(ApiError::invalid(Some("stop"), message));
    }
    for stop in &stops {
        if stop.is_empty() || stop.len() > LONGEST_STOP_BYTES {
            let message = format!(
                "stop: a stop string of {} bytes, 1 to {LONGEST_STOP_BYTES} are allowed",
                stop.len()
            );
            return Err(ApiError::invalid(Some("stop"), message));
        }
    }
    Ok(stops)
}

/// Whether the stream ends with its usage, and whether every chunk tells it.
fn stream_options(fields: &mut Fields, stream: bool) -> Result<[bool; 2], ApiError> {
    let Some(mut options) = fields.object("stream_options")? else {
        return Ok([false; 2]);
    };
    if !stream {
        let message = "stream_options: only allowed with stream=true";
        return Err(ApiError::invalid(Some("stream_options"), message));
    }
    options.settle(STREAM_OPTIONS)?;
    let usage = options.boolean("include_usage")?.unwrap_or(false);
    let continuous = options.boolean("continuous_usage_stats")?.unwrap_or(false);
    options.finish()?;
    // As vLLM: the second says when, the first whether.
    Ok([usage, usage && continuous])
}

fn cache_salt(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    let salt = fields.string("cache_salt")?;
    match &salt {
        Some(salt) if salt.is_empty() || salt.len() > LONGEST_SALT_BYTES => {
            let message = format!(
                "cache_salt: {} bytes, 1 to {LONGEST_SALT_BYTES} are allowed",
                salt.len()
            );
            Err(ApiError::invalid(Some("cache_salt"), message))
        }
        _ => Ok(salt),
    }
}

/// A seed for requests that name none. Need not be secret, must differ between requests.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::time::Instant::now())
}

#[cfg(test)]
mod tests;
