//! The parameters that completions and chat share, checked once; and the ones that are refused.
//!
//! Ranges are OpenAI's where OpenAI has the parameter, vLLM's elsewhere. What a request leaves out is
//! the model's own default where it has one, else OpenAI's.

use serde_json::{Value, json};

use crate::engine::request::SamplingParams;
use crate::http::error::ApiError;
use crate::http::fields::{Fields, wrong};
use crate::model::sampling::{
    MIN_P, REPETITION_PENALTY_MAX, SamplingDefaults, TEMPERATURE, TOP_P_MAX,
};
use plimsoll_kernels::sampling::MAX_LOGPROBS;

/// Bounds that depend on the engine.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub max_model_len: u32,
    pub max_num_seqs: u32,
    pub vocabulary: u32,
}

/// Checked parameters of one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// Choices per prompt.
    pub n: u32,
    /// `stream` and `logprobs` are still to be set per choice and endpoint.
    pub sampling: SamplingParams,
    /// None: the endpoint's default.
    pub max_tokens: Option<u32>,
    pub stop: Vec<String>,
    pub ignore_eos: bool,
    pub stream: bool,
    pub include_usage: bool,
    /// Requests share cached prefixes only with an equal salt.
    pub cache_salt: Option<String>,
}

/// OpenAI's bound on stop strings.
const MOST_STOPS: usize = 4;
/// A stop string longer than this is a mistake; text is held back up to its length.
const LONGEST_STOP_BYTES: usize = 1024;
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
        top_p: positive(fields, "top_p", TOP_P_MAX)?
            .or(top_p)
            .unwrap_or(1.0),
        min_p: fields.number("min_p", MIN_P)?.or(min_p).unwrap_or(0.0),
        repetition_penalty: positive(fields, "repetition_penalty", REPETITION_PENALTY_MAX)?
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
    let mut max_tokens = None;
    for name in max_tokens_names {
        let value = fields.count(name, 1..=bounds.max_model_len)?;
        max_tokens = max_tokens.or(value);
    }
    let stream = fields.boolean("stream")?.unwrap_or(false);
    let params = Params {
        n: fields
            .count("n", 1..=bounds.max_num_seqs.min(128))?
            .unwrap_or(1),
        sampling,
        max_tokens,
        stop: stop(fields)?,
        ignore_eos: fields.boolean("ignore_eos")?.unwrap_or(false),
        stream,
        include_usage: include_usage(fields, stream)?,
        cache_salt: cache_salt(fields)?,
    };
    refuse_what_is_not_there(fields, params.n)?;
    Ok(params)
}

/// `logprobs` and `top_logprobs` of one endpoint, as a count.
pub fn logprob_count(fields: &mut Fields, name: &str) -> Result<Option<u8>, ApiError> {
    let count = fields.count(name, 0..=u32::from(MAX_LOGPROBS))?;
    Ok(count.and_then(|count| u8::try_from(count).ok()))
}

/// A number greater than 0, up to `most`.
fn positive(fields: &mut Fields, name: &str, most: f64) -> Result<Option<f32>, ApiError> {
    match fields.number(name, 0.0..=most)? {
        Some(number) if number <= 0.0 => {
            let message = format!("{name}: 0 is not a number above 0, up to {most}");
            Err(ApiError::invalid(Some(name), message))
        }
        number => Ok(number),
    }
}

fn stop(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
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

fn include_usage(fields: &mut Fields, stream: bool) -> Result<bool, ApiError> {
    let Some(value) = fields.take("stream_options") else {
        return Ok(false);
    };
    if !stream {
        let message = "stream_options: only allowed with stream=true";
        return Err(ApiError::invalid(Some("stream_options"), message));
    }
    let Value::Object(options) = &value else {
        return Err(wrong("stream_options", &value, "an object"));
    };
    let mut wanted = false;
    for (name, value) in options {
        match (name.as_str(), value) {
            ("include_usage", Value::Bool(flag)) => wanted = *flag,
            ("include_usage", Value::Null) => {}
            ("include_usage", other) => {
                return Err(wrong(
                    "stream_options.include_usage",
                    other,
                    "true or false",
                ));
            }
            // Padding against side channels changes no text.
            ("include_obfuscation", _) => {}
            _ => {
                let name = format!(
                    "stream_options.{}",
                    name.chars().take(64).collect::<String>()
                );
                return Err(ApiError::unsupported(&name, "no such option"));
            }
        }
    }
    Ok(wanted)
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

/// Parameters of OpenAI and vLLM that would change the answer and are not implemented.
fn refuse_what_is_not_there(fields: &mut Fields, n: u32) -> Result<(), ApiError> {
    if let Some(best_of) = fields.count("best_of", 1..=u32::MAX)?
        && best_of != n
    {
        let why = format!("{best_of} is not supported, only n ({n})");
        return Err(ApiError::unsupported("best_of", &why));
    }
    fields.refuse(
        &["tool_choice", "function_call"],
        &[json!("none"), json!("auto")],
    )?;
    fields.refuse(&["response_format"], &[json!({"type": "text"})])?;
    fields.refuse(&["modalities"], &[json!(["text"])])?;
    fields.refuse(&["service_tier"], &[json!("auto"), json!("default")])?;
    fields.refuse(&["suffix"], &[json!("")])?;
    fields.refuse(
        &["min_tokens", "truncate_prompt_tokens", "prompt_logprobs"],
        &[json!(0)],
    )?;
    fields.refuse(
        &["skip_special_tokens", "add_generation_prompt"],
        &[json!(true)],
    )?;
    fields.refuse(
        &[
            "tools",
            "functions",
            "logit_bias",
            "audio",
            "prediction",
            "reasoning_effort",
            "verbosity",
            "web_search_options",
            "store",
            "use_beam_search",
            "length_penalty",
            "stop_token_ids",
            "bad_words",
            "allowed_token_ids",
            "include_stop_str_in_output",
            "return_token_ids",
            "structured_outputs",
            "guided_json",
            "guided_regex",
            "guided_choice",
            "guided_grammar",
            "chat_template",
            "chat_template_kwargs",
            "documents",
            "continue_final_message",
            "lora_request",
        ],
        &[],
    )?;
    // Labels and hints: they change nothing in the answer.
    fields.ignore(&[
        "user",
        "metadata",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "parallel_tool_calls",
        "request_id",
        "priority",
    ]);
    Ok(())
}

/// A seed for requests that name none. Need not be secret, must differ between requests.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::time::Instant::now())
}

#[cfg(test)]
mod tests;
