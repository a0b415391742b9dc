//! Every field that a request may have, and what becomes of it: the one list of them.
//!
//! What is not here is refused by name. `fields` says how the tables are applied; a test holds them
//! against the fields that the official client and vLLM know, and `requests` walks all of them.

use super::fields::Decision::{Harmless, Honoured, Only};
use super::fields::Table;

/// Of completions and chats.
const SHARED: Table = &[
    ("model", Honoured),
    ("n", Honoured),
    ("best_of", Honoured), // only as many as are returned
    ("stream", Honoured),
    ("stream_options", Honoured),
    ("max_tokens", Honoured),
    ("min_tokens", Honoured),
    ("stop", Honoured),
    ("stop_token_ids", Honoured),
    ("include_stop_str_in_output", Honoured),
    ("ignore_eos", Honoured),
    ("skip_special_tokens", Honoured),
    ("seed", Honoured),
    ("temperature", Honoured),
    ("top_p", Honoured),
    ("top_k", Honoured),
    ("min_p", Honoured),
    ("repetition_penalty", Honoured),
    ("presence_penalty", Honoured),
    ("frequency_penalty", Honoured),
    ("logit_bias", Honoured),
    ("logprobs", Honoured),
    ("return_tokens_as_token_ids", Honoured),
    ("add_special_tokens", Honoured),
    ("cache_salt", Honoured),
    // Nothing is put between special tokens either way.
    ("spaces_between_special_tokens", Only(&["true", "false"])),
    ("response_format", Honoured),
    ("structured_outputs", Only(&[])),
    ("guided_json", Only(&[])),
    ("guided_regex", Only(&[])),
    ("guided_choice", Only(&[])),
    ("guided_grammar", Only(&[])),
    ("guided_decoding_backend", Only(&[])),
    ("guided_whitespace_pattern", Only(&[])),
    ("use_beam_search", Only(&["false"])),
    ("early_stopping", Only(&["false"])),
    ("length_penalty", Only(&["1.0"])),
    ("truncate_prompt_tokens", Only(&[])),
    ("truncation_side", Only(&[r#""left""#, r#""right""#])), // nothing is truncated
    ("watermarking", Only(&["false"])),
    ("prompt_logprobs", Only(&[])),
    ("logprob_token_ids", Only(&["[]"])),
    ("allowed_token_ids", Only(&[])),
    ("bad_words", Only(&["[]"])),
    ("logits_processors", Only(&["[]"])),
    ("return_token_ids", Only(&["false"])),
    ("return_token_offsets", Only(&["false"])),
    ("return_mm_kwargs", Only(&["true", "false"])), // there are none
    ("routed_experts_prompt_start", Only(&["0"])),
    ("stream_interval", Only(&["1"])),
    ("kv_transfer_params", Only(&["{}"])),
    ("ec_transfer_params", Only(&["{}"])),
    ("vllm_xargs", Only(&["{}"])),
    ("max_repetition_pattern_size", Only(&["0"])),
    ("min_repetition_pattern_size", Only(&["0"])),
    ("repetition_min_count", Only(&["0"])),
    ("repetition_detection", Only(&[])),
    ("thinking_token_budget", Only(&[])),
    ("priority", Only(&["0"])),
    ("user", Harmless),
    ("request_id", Honoured),
    ("session_id", Harmless),
    // How long another server would keep the model, or whether it should remember the prompt: here
    // the model stays, and a remembered prefix changes the time of an answer alone.
    ("keep_alive", Harmless),
    ("cache_prompt", Harmless),
];

const CHAT_ONLY: Table = &[
    ("messages", Honoured),
    ("max_completion_tokens", Honoured),
    ("top_logprobs", Honoured),
    ("add_generation_prompt", Honoured),
    ("chat_template_kwargs", Honoured),
    ("chat_template", Only(&[])),
    ("continue_final_message", Honoured),
    ("documents", Only(&["[]"])),
    ("echo", Only(&["false"])),
    ("tools", Only(&["[]"])),
    ("tool_choice", Only(&[r#""none""#, r#""auto""#])),
    ("parallel_tool_calls", Only(&["true", "false"])), // there are no tools
    ("functions", Only(&["[]"])),
    ("function_call", Only(&[r#""none""#, r#""auto""#])),
    ("reasoning_effort", Honoured), // as far as the template has a switch for it
    // Reasoning stays in the content.
    ("include_reasoning", Only(&["true"])),
    ("verbosity", Only(&[r#""medium""#])),
    ("modalities", Only(&[r#"["text"]"#])),
    ("audio", Only(&[])),
    ("prediction", Only(&[])),
    ("moderation", Only(&[])),
    ("web_search_options", Only(&[])),
    ("store", Only(&["false"])),
    ("service_tier", Only(&[r#""auto""#, r#""default""#])),
    ("mm_processor_kwargs", Only(&["{}"])),
    ("media_io_kwargs", Only(&["{}"])),
    ("return_prompt_text", Only(&["false"])),
    ("metadata", Harmless),
    ("safety_identifier", Harmless),
    ("prompt_cache_key", Harmless),
    ("prompt_cache_options", Harmless),
    ("prompt_cache_retention", Harmless),
];

const COMPLETION_ONLY: Table = &[
    ("prompt", Honoured),
    ("echo", Honoured),
    ("suffix", Only(&[r#""""#])),
    ("prompt_embeds", Only(&["[]"])),
];

pub const CHAT: &[Table] = &[SHARED, CHAT_ONLY];
pub const COMPLETION: &[Table] = &[SHARED, COMPLETION_ONLY];

pub const STREAM_OPTIONS: &[Table] = &[&[
    ("include_usage", Honoured),
    ("continuous_usage_stats", Honoured),
    ("include_obfuscation", Harmless), // padding against side channels: no text
]];

/// Text is what there is.
pub const RESPONSE_FORMAT: &[Table] = &[&[
    ("type", Only(&[r#""text""#])),
    ("json_schema", Only(&[])),
    ("schema", Only(&[])),
    ("format", Only(&[])),
    ("structures", Only(&[])),
    ("triggers", Only(&[])),
]];

/// Of every message.
const MESSAGE: Table = &[
    ("role", Honoured),
    ("content", Honoured),
    ("name", Honoured),
    ("id", Harmless),
    ("cache_control", Harmless),
];
/// Fields that answers carry and clients send back, where they say nothing.
const NO_ANSWER: Table = &[
    ("refusal", Only(&[r#""""#])),
    ("annotations", Only(&["[]"])),
    ("audio", Only(&[])),
    ("function_call", Only(&[])),
];

pub const ASSISTANT: &[Table] = &[
    MESSAGE,
    NO_ANSWER,
    &[
        ("tool_calls", Honoured),
        ("prefix", Honoured),
        ("reasoning_content", Honoured),
        ("reasoning", Honoured),
    ],
];
/// What only an assistant's message has, in others.
const OTHERS: Table = &[
    ("tool_calls", Only(&["[]"])),
    ("prefix", Only(&["false"])),
    ("reasoning_content", Only(&[r#""""#])),
    ("reasoning", Only(&[r#""""#])),
];
pub const TOOL: &[Table] = &[MESSAGE, NO_ANSWER, OTHERS, &[("tool_call_id", Honoured)]];
/// Of users and of the system.
pub const SAID: &[Table] = &[MESSAGE, NO_ANSWER, OTHERS];

/// A part of a message's content; what else than text there is, is refused by its type.
pub const PART: &[Table] = &[&[
    ("type", Honoured),
    ("text", Honoured),
    ("id", Harmless),
    ("cache_control", Harmless),
    ("prompt_cache_breakpoint", Harmless),
]];
pub const CALL: &[Table] = &[&[
    ("id", Honoured),
    ("type", Only(&[r#""function""#])),
    ("function", Honoured),
    ("index", Harmless), // their order is the list's
    ("cache_control", Harmless),
]];
pub const FUNCTION: &[Table] = &[&[("name", Honoured), ("arguments", Honoured)]];

const TOKENIZE: Table = &[
    ("model", Honoured),
    ("add_special_tokens", Honoured),
    ("return_token_strs", Honoured),
];

pub const TOKENIZE_PROMPT: &[Table] = &[TOKENIZE, &[("prompt", Honoured)]];
pub const TOKENIZE_MESSAGES: &[Table] = &[
    TOKENIZE,
    &[
        ("messages", Honoured),
        ("add_generation_prompt", Honoured),
        ("chat_template_kwargs", Honoured),
        ("chat_template", Only(&[])),
        ("continue_final_message", Honoured),
        ("mm_processor_kwargs", Only(&["{}"])),
        ("media_io_kwargs", Only(&["{}"])),
        ("tools", Only(&["[]"])),
    ],
];
pub const DETOKENIZE: &[Table] = &[&[("model", Honoured), ("tokens", Honoured)]];

#[cfg(test)]
mod tests {
    use super::*;

    /// Fields by level, as `tests/fixtures/make_client_fields.py` and vLLM's sources name them.
    fn known(file: &str) -> serde_json::Map<String, serde_json::Value> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn every_field_that_clients_know_has_one_decision() {
        let levels: [(&str, &[Table]); 14] = [
            ("chat", CHAT),
            ("completion", COMPLETION),
            ("stream_options", STREAM_OPTIONS),
            ("tokenize_prompt", TOKENIZE_PROMPT),
            ("tokenize_messages", TOKENIZE_MESSAGES),
            ("detokenize", DETOKENIZE),
            ("response_format", RESPONSE_FORMAT),
            ("message_assistant", ASSISTANT),
            ("message_tool", TOOL),
            ("message_user", SAID),
            ("message_system", SAID),
            ("content_part_text", PART),
            ("tool_call", CALL),
            ("tool_call_function", FUNCTION),
        ];
        let (mut counted, mut undecided) = (0, Vec::new());
        for (level, tables) in levels {
            let decided: Vec<&str> = tables.concat().iter().map(|(name, _)| *name).collect();
            for file in ["openai_fields.json", "vllm_fields.json"] {
                let names = known(file).remove(level);
                let names = names.unwrap_or_default();
                for name in names.as_array().into_iter().flatten() {
                    let name = name.as_str().unwrap();
                    counted += 1;
                    if !decided.contains(&name) {
                        undecided.push(format!("{file}: {level}.{name}"));
                    }
                }
            }
            let mut once = decided.clone();
            once.sort_unstable();
            once.dedup();
            assert_eq!(
                once.len(),
                decided.len(),
                "{level}: a field is decided twice"
            );
        }
        assert!(undecided.is_empty(), "without a decision: {undecided:?}");
        assert!(counted > 150, "only {counted} fields were compared");
    }

    #[test]
    fn neutral_values_are_json() {
        for (name, decision) in [CHAT, COMPLETION, TOKENIZE_MESSAGES].concat().concat() {
            let Only(texts) = decision else { continue };
            for text in texts {
                let parsed: Result<serde_json::Value, _> = serde_json::from_str(text);
                assert!(parsed.is_ok_and(|value| !value.is_null()), "{name}: {text}");
            }
        }
    }
}
