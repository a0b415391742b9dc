//! Every shared parameter: its default, its range, its refusal.

use super::*;
use crate::http::decisions::CHAT;

fn bounds() -> Bounds {
    Bounds {
        max_model_len: 128,
        max_num_seqs: 8,
        vocabulary: 256,
    }
}

fn check(body: &str) -> Result<Params, ApiError> {
    check_with(&SamplingDefaults::default(), body)
}

fn check_with(defaults: &SamplingDefaults, body: &str) -> Result<Params, ApiError> {
    let mut fields = Fields::parse(body.as_bytes()).unwrap();
    fields.settle(CHAT)?;
    let params = take(
        &mut fields,
        &bounds(),
        defaults,
        &["max_completion_tokens", "max_tokens"],
    )?;
    fields.finish()?;
    Ok(params)
}

#[test]
fn defaults_are_openais() {
    let params = check(r#"{"seed": 7}"#).unwrap();
    assert_eq!(params.n, 1);
    assert_eq!(params.max_tokens, None);
    assert_eq!(
        params.sampling,
        SamplingParams {
            temperature: 1.0,
            seed: 7,
            ..SamplingParams::default()
        }
    );
    assert!(!params.stream && !params.ignore_eos && !params.include_usage);
}

#[test]
fn a_models_defaults_count_where_the_request_is_silent_and_only_there() {
    let defaults = SamplingDefaults {
        temperature: Some(0.6),
        top_k: Some(20),
        top_p: Some(0.95),
        min_p: Some(0.02),
        repetition_penalty: Some(1.05),
        max_new_tokens: None,
    };
    let silent = check_with(&defaults, r#"{"seed": 7, "top_k": null}"#).unwrap();
    let expected = SamplingParams {
        temperature: 0.6,
        top_k: 20,
        top_p: 0.95,
        min_p: 0.02,
        repetition_penalty: 1.05,
        seed: 7,
        ..SamplingParams::default()
    };
    assert_eq!(silent.sampling, expected);
    let openais = r#"{"seed": 7, "temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0,
        "repetition_penalty": 1}"#;
    let all = check_with(&defaults, openais).unwrap();
    assert_eq!(all.sampling, check(r#"{"seed": 7}"#).unwrap().sampling);
    let some = check_with(&defaults, r#"{"seed": 7, "temperature": 0}"#).unwrap();
    let greedy = SamplingParams {
        temperature: 0.0,
        ..expected
    };
    assert_eq!(some.sampling, greedy);
}

#[test]
fn every_parameter_arrives() {
    let params = check(
        r#"{"temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "seed": -1,
            "repetition_penalty": 1.1, "presence_penalty": -0.5, "frequency_penalty": 2,
            "n": 3, "stop": ["a", "b"], "ignore_eos": true, "stream": true, "user": "u",
            "stream_options": {"include_usage": true, "continuous_usage_stats": true},
            "max_completion_tokens": 9, "max_tokens": 10, "cache_salt": "s",
            "stop_token_ids": [7, 9], "include_stop_str_in_output": true,
            "skip_special_tokens": false, "return_tokens_as_token_ids": true,
            "min_tokens": 4, "logit_bias": {"10": -100, "9": 1.5}}"#,
    )
    .unwrap();
    let sampling = SamplingParams {
        temperature: 0.5,
        top_p: 0.9,
        top_k: 40,
        min_p: 0.1,
        seed: u64::MAX,
        repetition_penalty: 1.1,
        presence_penalty: -0.5,
        frequency_penalty: 2.0,
        ..SamplingParams::default()
    };
    assert_eq!(params.sampling, sampling);
    assert_eq!((params.n, params.max_tokens), (3, Some(9)));
    assert_eq!(params.ending.stops, ["a", "b"]);
    assert_eq!(params.ending.ids, [7, 9]);
    assert_eq!(params.ending.min_tokens, 4);
    assert_eq!(params.bias, [(9, 1.5), (10, -100.0)]);
    assert!(params.ending.include_stop && !params.ending.skip_special);
    assert!(params.ignore_eos && params.stream && params.include_usage);
    assert!(params.continuous_usage && params.tokens_as_ids);
    assert_eq!(params.cache_salt.as_deref(), Some("s"));
}

#[test]
fn absurd_values_are_refused_with_field_value_and_range() {
    for (body, param, part) in [
        (
            r#"{"temperature": -1}"#,
            "temperature",
            "-1 is not a number from 0 to 2",
        ),
        (
            r#"{"temperature": 2.5}"#,
            "temperature",
            "2.5 is not a number from 0 to 2",
        ),
        (
            r#"{"temperature": "hot"}"#,
            "temperature",
            "not the string \"hot\"",
        ),
        (r#"{"top_p": 0}"#, "top_p", "above 0"),
        (
            r#"{"top_p": 1.01}"#,
            "top_p",
            "1.01 is not a number above 0, at most 1",
        ),
        (
            r#"{"top_k": -2}"#,
            "top_k",
            "-2 is not a whole number from -1 to 256",
        ),
        (r#"{"top_k": 1000}"#, "top_k", "1000 is not"),
        (r#"{"top_p": 1e-60}"#, "top_p", "1e-60 is rounded to 0"),
        (r#"{"min_p": -0.1}"#, "min_p", "-0.1 is not"),
        (
            r#"{"repetition_penalty": 100}"#,
            "repetition_penalty",
            "100 is not a number above 0, at most 10",
        ),
        (
            r#"{"repetition_penalty": 0}"#,
            "repetition_penalty",
            "above 0",
        ),
        (r#"{"presence_penalty": 3}"#, "presence_penalty", "3 is not"),
        (r#"{"n": 0}"#, "n", "0 is not a whole number from 1 to 8"),
        (r#"{"n": 9}"#, "n", "9 is not"),
        (
            r#"{"max_tokens": -5}"#,
            "max_tokens",
            "-5 is not a whole number from -1",
        ),
        (r#"{"max_tokens": 0}"#, "max_tokens", "or -1 for all"),
        (r#"{"min_tokens": 129}"#, "min_tokens", "129 is not"),
        (
            r#"{"max_tokens": 3, "min_tokens": 4}"#,
            "min_tokens",
            "4 is more than max_tokens, 3",
        ),
        (r#"{"logit_bias": [1]}"#, "logit_bias", "not a list"),
        (r#"{"logit_bias": {"256": 1}}"#, "logit_bias", "0 to 255"),
        (
            r#"{"logit_bias": {"a": 1}}"#,
            "logit_bias",
            "\"a\" is not a token id",
        ),
        (r#"{"logit_bias": {"5": 101}}"#, "logit_bias", "-100 to 100"),
        (r#"{"logit_bias": {"5": "1"}}"#, "logit_bias", "-100 to 100"),
        (
            r#"{"logit_bias": {"5": 1, "05": 2}}"#,
            "logit_bias",
            "5 is there twice",
        ),
        (r#"{"max_tokens": 1.5}"#, "max_tokens", "not 1.5"),
        (
            r#"{"max_completion_tokens": 0}"#,
            "max_completion_tokens",
            "0 is not",
        ),
        (r#"{"seed": 1.5}"#, "seed", "must be a whole number"),
        (r#"{"temperature": "0.5"}"#, "temperature", "\"0.5\""),
        (
            r#"{"stop_token_ids": [256]}"#,
            "stop_token_ids",
            "from 0 to 255",
        ),
        (
            r#"{"stop_token_ids": 5}"#,
            "stop_token_ids",
            "a list of token ids",
        ),
        (
            r#"{"stream": true, "stream_options": {"include_usage": 1}}"#,
            "stream_options.include_usage",
            "true or false",
        ),
        (r#"{"stop": [""]}"#, "stop", "0 bytes"),
        (
            r#"{"stop": [1]}"#,
            "stop",
            "must be a string or a list of strings",
        ),
        (r#"{"stream": "yes"}"#, "stream", "must be true or false"),
        (
            r#"{"stream_options": {"include_usage": true}}"#,
            "stream_options",
            "stream=true",
        ),
        (
            r#"{"stream": true, "stream_options": []}"#,
            "stream_options",
            "an object",
        ),
        (r#"{"cache_salt": ""}"#, "cache_salt", "0 bytes"),
    ] {
        let error = check(body).unwrap_err();
        assert_eq!(error.status.as_u16(), 400, "{body}");
        assert_eq!(error.param.as_deref(), Some(param), "{body}");
        assert!(error.message.contains(part), "{body}: {}", error.message);
    }
}

#[test]
fn unsupported_parameters_are_refused_by_name_unless_they_say_nothing() {
    for (body, param) in [
        (r#"{"tools": [{"type": "function"}]}"#, "tools"),
        (r#"{"tool_choice": "required"}"#, "tool_choice"),
        (
            r#"{"response_format": {"type": "json_object"}}"#,
            "response_format.type",
        ),
        (r#"{"best_of": 4}"#, "best_of"),
        (r#"{"suffix": "x"}"#, "suffix"),
        (r#"{"audio": {"voice": "x"}}"#, "audio"),
        (r#"{"modalities": ["audio"]}"#, "modalities"),
        (r#"{"frobnicate": 1}"#, "frobnicate"),
        (r#"{"frobnicate": false}"#, "frobnicate"),
        (r#"{"include_reasoning": false}"#, "include_reasoning"),
        (r#"{"length_penalty": 0.8}"#, "length_penalty"),
        (r#"{"priority": 3}"#, "priority"),
        (r#"{"prompt_logprobs": 0}"#, "prompt_logprobs"),
        (r#"{"guided_choice": []}"#, "guided_choice"),
        (r#"{"store": true}"#, "store"),
        (
            r#"{"stream": true, "stream_options": {"x": 1}}"#,
            "stream_options.x",
        ),
    ] {
        let error = check(body).unwrap_err();
        assert_eq!(error.code, Some("unsupported_parameter"), "{body}");
        assert_eq!(error.param.as_deref(), Some(param), "{body}");
        assert!(error.message.contains(param), "{body}: {}", error.message);
    }
    check(
        r#"{"tool_choice": "none", "response_format": {"type": "text"},
            "logit_bias": {}, "n": 2, "best_of": 2, "suffix": null, "audio": null,
            "modalities": ["text"], "store": false, "metadata": {"a": "b"}, "tools": []}"#,
    )
    .unwrap();
}

#[test]
fn what_clients_send_every_day_is_taken() {
    for more in [
        r#""include_reasoning": true"#,
        r#""return_tokens_as_token_ids": false"#,
        r#""spaces_between_special_tokens": true"#,
        r#""vllm_xargs": {}"#,
        r#""length_penalty": 1.0"#,
        r#""stream": true, "stream_options": {"continuous_usage_stats": false}"#,
        r#""cache_prompt": true"#,
        r#""keep_alive": "5m""#,
        r#""skip_special_tokens": true"#,
        r#""parallel_tool_calls": false"#,
    ] {
        check(&format!("{{{more}}}")).unwrap_or_else(|error| panic!("{more}: {error}"));
    }
    assert_eq!(check(r#"{"max_tokens": 2.0}"#).unwrap().max_tokens, Some(2));
}

#[test]
fn max_tokens_may_ask_for_more_than_there_is() {
    for (asked, read) in [
        ("1", 1),
        ("129", 129),
        ("99999999999", MAX_TOKENS_ALL),
        ("-1", MAX_TOKENS_ALL),
    ] {
        for name in ["max_tokens", "max_completion_tokens"] {
            let params = check(&format!(r#"{{"{name}": {asked}}}"#)).unwrap();
            assert_eq!(params.max_tokens, Some(read), "{name}: {asked}");
        }
    }
}

#[test]
fn stops_are_many_but_not_any_number() {
    let many = |name: &str, count: usize, item: &str| {
        let items = vec![item; count].join(", ");
        check(&format!(r#"{{"{name}": [{items}]}}"#))
    };
    assert_eq!(many("stop", 5, "\"a\"").unwrap().ending.stops.len(), 5);
    for (name, most, item) in [
        ("stop", MOST_STOPS, "\"a\""),
        ("stop_token_ids", MOST_STOP_IDS, "7"),
    ] {
        many(name, most, item).unwrap();
        let error = many(name, most + 1, item).unwrap_err();
        assert!(
            error.message.contains(&format!("at most {most}")),
            "{error:?}"
        );
    }
}
