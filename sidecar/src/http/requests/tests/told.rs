//! What refusals say: bounds that hold, and the fault that it is.

use super::*;

/// Why a body is refused.
fn refusal(endpoint: Endpoint, body: &Value) -> ApiError {
    let fields = Fields::parse(body.to_string().as_bytes()).unwrap();
    let served: Served<'_> = &|name| Ok(name.unwrap_or_default());
    let defaults = SamplingDefaults::default();
    match endpoint {
        Endpoint::Chat => chat(fields, served, &BOUNDS, &defaults).unwrap_err(),
        Endpoint::Completion => completion(fields, served, &BOUNDS, &defaults).unwrap_err(),
        Endpoint::Tokenize => tokenize(fields, served).unwrap_err(),
        Endpoint::Detokenize => detokenize(fields, served, &BOUNDS).unwrap_err(),
    }
}

/// The bounds that an error names, and whether the lower one is excluded.
fn named_bounds(message: &str) -> Option<(String, String, bool)> {
    let words = |text: &str| text.split([',', ' ']).next().map(str::to_owned);
    if let Some((_, rest)) = message.split_once(" above ") {
        let (_, most) = rest.split_once(" at most ")?;
        return Some((words(rest)?, words(most)?, true));
    }
    let (_, rest) = message.split_once(" from ")?;
    let (_, most) = rest.split_once(" to ")?;
    Some((words(rest)?, words(most)?, false))
}

#[test]
fn bounds_that_an_error_names_are_accepted_or_said_to_be_excluded() {
    let mut walked = Vec::new();
    for level in levels() {
        for (field, decision) in level.fields() {
            if decision != Honoured {
                continue;
            }
            let mut body = level.body.clone();
            let object = body.pointer_mut(level.pointer).unwrap();
            object[field] = json!(-1e300);
            if field == "top_logprobs" {
                object["logprobs"] = json!(true);
            }
            if read(level.endpoint, &body).is_ok() {
                continue;
            }
            let error = refusal(level.endpoint, &body);
            let Some((least, most, excluded)) = named_bounds(&error.message) else {
                continue;
            };
            walked.push(format!("{}.{field}", level.name));
            for (bound, refused) in [(&least, excluded), (&most, false)] {
                let number: Value = serde_json::from_str(bound).unwrap();
                body.pointer_mut(level.pointer).unwrap()[field] = number;
                let read = read(level.endpoint, &body);
                assert_eq!(
                    read.is_err(),
                    refused,
                    "{field}: {bound}: {}",
                    error.message
                );
            }
        }
    }
    for field in [
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "seed",
        "n",
        "max_tokens",
        "min_tokens",
    ] {
        for name in ["chat", "completion"] {
            assert!(walked.contains(&format!("{name}.{field}")), "{walked:?}");
        }
    }
    assert!(walked.contains(&"chat.top_logprobs".to_owned()));
    assert!(walked.contains(&"completion.logprobs".to_owned()));
}

#[test]
fn a_prompt_and_messages_are_refused_for_being_both() {
    for (body, param, part) in [
        (
            json!({"prompt": "Hi", "messages": 1}),
            "messages",
            "not together with prompt",
        ),
        (json!({"messages": 1}), "messages", "must be a list"),
        (
            json!({"prompt": "Hi", "add_generation_prompt": true}),
            "add_generation_prompt",
            "only allowed with messages",
        ),
        (
            json!({"prompt": "Hi", "frobnicate": 1}),
            "frobnicate",
            "no such",
        ),
    ] {
        let error = refusal(Endpoint::Tokenize, &body);
        assert_eq!(error.param.as_deref(), Some(param), "{body}");
        assert!(error.message.contains(part), "{body}: {}", error.message);
    }
}

#[test]
fn an_id_in_text_is_digits_alone() {
    for key in ["+5", " 5", "5.0", "-0", ""] {
        let body = json!({"prompt": "p", "logit_bias": {key: 1}});
        let error = refusal(Endpoint::Completion, &body);
        let expected = format!("logit_bias: {key:?} is not a token id from 0 to 255");
        assert_eq!(error.message, expected);
    }
    read(
        Endpoint::Completion,
        &json!({"prompt": "p", "logit_bias": {"5": 1}}),
    )
    .unwrap();
}
