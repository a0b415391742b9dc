//! The rule of the body, walked: every level of every endpoint, every field of its tables, any value.
//!
//! What no table knows is refused by its full name. A neutral value changes nothing of what is read,
//! a label neither. Any other value of a field changes what is read or is refused with the field's
//! name in front; the few that say what silence says ([`SILENT`]) are listed.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use super::samples::{SAMPLES, SILENT};
use super::*;
use crate::http::decisions::*;
use crate::http::fields::Decision::{self, Harmless, Honoured, Only};
use crate::http::fields::Table;

/// One level: the table, a body, where in it (JSON pointer) and what errors call the place.
struct Level {
    name: &'static str,
    tables: &'static [Table],
    endpoint: Endpoint,
    body: Value,
    pointer: &'static str,
    path: &'static str,
}

#[derive(Clone, Copy, Debug)]
enum Endpoint {
    Chat,
    Completion,
    Tokenize,
    Detokenize,
}

/// What was read, or the field that is refused.
fn read(endpoint: Endpoint, body: &Value) -> Result<String, String> {
    let fields = Fields::parse(body.to_string().as_bytes()).unwrap();
    let bounds = Bounds {
        max_model_len: 128,
        max_num_seqs: 8,
        vocabulary: 256,
    };
    let defaults = SamplingDefaults::default();
    let served: Served<'_> = &|name| Ok(name.unwrap_or_default());
    let read = match endpoint {
        Endpoint::Chat => chat(fields, served, &bounds, &defaults).map(|read| format!("{read:?}")),
        Endpoint::Completion => {
            completion(fields, served, &bounds, &defaults).map(|read| format!("{read:?}"))
        }
        Endpoint::Tokenize => tokenize(fields, served).map(|read| format!("{read:?}")),
        Endpoint::Detokenize => detokenize(fields, served, &bounds).map(|read| format!("{read:?}")),
    };
    read.map_err(|error| error.param.unwrap_or_default())
}

fn levels() -> Vec<Level> {
    let chat = json!({"seed": 1, "stream": true, "stream_options": {}, "response_format": {},
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "u"}]},
        {"role": "tool", "content": "t"},
        {"role": "assistant", "content": "a", "tool_calls": [{"function": {"name": "f"}}]},
    ]});
    let level = |name, tables, pointer, path| Level {
        name,
        tables,
        endpoint: Endpoint::Chat,
        body: chat.clone(),
        pointer,
        path,
    };
    let other = |name, tables, endpoint, body| Level {
        name,
        tables,
        endpoint,
        body,
        pointer: "",
        path: "",
    };
    let part = "messages[1].content[0].";
    let call = "messages[3].tool_calls[0].";
    let function = "messages[3].tool_calls[0].function.";
    let text = json!({"seed": 1, "stream": true, "prompt": "p"});
    vec![
        level("chat", CHAT, "", ""),
        level(
            "stream_options",
            STREAM_OPTIONS,
            "/stream_options",
            "stream_options.",
        ),
        level(
            "response_format",
            RESPONSE_FORMAT,
            "/response_format",
            "response_format.",
        ),
        level("system", SAID, "/messages/0", "messages[0]."),
        level("user", SAID, "/messages/1", "messages[1]."),
        level("tool", TOOL, "/messages/2", "messages[2]."),
        level("assistant", ASSISTANT, "/messages/3", "messages[3]."),
        level("part", PART, "/messages/1/content/0", part),
        level("call", CALL, "/messages/3/tool_calls/0", call),
        level(
            "function",
            FUNCTION,
            "/messages/3/tool_calls/0/function",
            function,
        ),
        other("completion", COMPLETION, Endpoint::Completion, text),
        other(
            "tokenize",
            TOKENIZE_PROMPT,
            Endpoint::Tokenize,
            json!({"prompt": "p"}),
        ),
        other(
            "tokenize messages",
            TOKENIZE_MESSAGES,
            Endpoint::Tokenize,
            json!({"messages": [{"role": "user", "content": "u"}]}),
        ),
        other(
            "detokenize",
            DETOKENIZE,
            Endpoint::Detokenize,
            json!({"tokens": []}),
        ),
    ]
}

impl Level {
    fn with(&self, field: &str, value: Value) -> Result<String, String> {
        let mut body = self.body.clone();
        let object = body
            .pointer_mut(self.pointer)
            .unwrap()
            .as_object_mut()
            .unwrap();
        object.insert(field.to_owned(), value);
        read(self.endpoint, &body)
    }

    fn fields(&self) -> Vec<(&'static str, Decision)> {
        self.tables.concat()
    }

    /// Whether the base body says this already.
    fn has(&self, field: &str, value: &Value) -> bool {
        self.body.pointer(self.pointer).and_then(|at| at.get(field)) == Some(value)
    }
}

fn is_silent(field: &str, value: &Value) -> bool {
    let mut silent = SILENT.iter().filter(|(name, _)| *name == field);
    silent.any(|(_, texts)| {
        texts.iter().any(|text| {
            let neutral: Value = serde_json::from_str(text).unwrap();
            neutral == *value || neutral.is_number() && neutral.as_f64() == value.as_f64()
        })
    })
}

fn is_neutral(value: &Value, neutral: &[&str]) -> bool {
    neutral.iter().any(|text| {
        let neutral: Value = serde_json::from_str(text).unwrap();
        neutral == *value || neutral.is_number() && neutral.as_f64() == value.as_f64()
    })
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        (-3i64..20).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-3.0..3.0f64).prop_map(Value::from),
        Just(json!("")),
        "[a-z{}\"]{1,6}".prop_map(Value::from),
        Just(json!({"type": "text", "text": "x"})),
        Just(json!({"type": "function", "function": {"name": "g", "arguments": "{\"a\":1}"}})),
        Just(json!({"role": "user", "content": "x"})),
    ];
    leaf.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,4}|[0-9]{1,3}", inner, 0..3)
                .prop_map(|fields| fields.into_iter().collect::<Value>()),
        ]
    })
}

/// Whether the refused `param` is the field at `path`, or something inside of it.
fn names(param: &str, path: &str, field: &str) -> bool {
    let full = format!("{path}{field}");
    param == full
        || param
            .strip_prefix(&full)
            .is_some_and(|rest| rest.starts_with(['.', '[']))
}

#[test]
fn whatever_a_body_says_is_honoured_or_refused_at_every_level() {
    let mut runner = TestRunner::new(Config {
        failure_persistence: None,
        ..Config::with_cases(40)
    });
    let mut walked = 0;
    for level in levels() {
        let base = read(level.endpoint, &level.body).unwrap();
        let ignored = |field: &str| format!("{}: {field}", level.name);
        for (field, decision) in level.fields() {
            walked += 1;
            let at = ignored(field);
            // Null is absence, whatever the decision.
            if !level
                .body
                .pointer(level.pointer)
                .unwrap()
                .as_object()
                .unwrap()
                .contains_key(field)
            {
                assert_eq!(
                    level.with(field, Value::Null),
                    Ok(base.clone()),
                    "{at}: null"
                );
            }
            if let Only(neutral) = decision {
                for text in neutral {
                    let value = serde_json::from_str(text).unwrap();
                    assert_eq!(level.with(field, value), Ok(base.clone()), "{at}: {text}");
                }
            }
            let mut taken = false;
            let samples = SAMPLES.iter().filter(|(name, _)| *name == field);
            for value in samples.map(|(_, text)| *text).chain(["true", "false", "1"]) {
                taken |= level
                    .with(field, serde_json::from_str(value).unwrap())
                    .is_ok();
            }
            // A role's own is the one that its level has.
            let given = level.body.pointer(&format!("{}/{field}", level.pointer));
            assert!(
                taken || given.is_some() || matches!(decision, Only(_)),
                "{at}: honoured, and refused whatever it says"
            );
            let checked = runner.run(&any_value(), |value| {
                let got = level.with(field, value.clone());
                let refused = got
                    .as_ref()
                    .is_err_and(|param| names(param, level.path, field));
                let fine = match decision {
                    Harmless => got.as_ref() == Ok(&base),
                    Only(neutral) if is_neutral(&value, neutral) => got.as_ref() == Ok(&base),
                    Only(_) => refused,
                    Honoured if got.as_ref() == Ok(&base) => {
                        is_silent(field, &value) || level.has(field, &value)
                    }
                    Honoured => got.is_ok() || refused || elsewhere(field, &got),
                };
                prop_assert!(fine, "{value} gives {got:?}");
                Ok(())
            });
            checked.unwrap_or_else(|error| panic!("{at}: {error}"));
        }
        let known: Vec<&str> = level.fields().iter().map(|(name, _)| *name).collect();
        let unknown = ("[a-z_]{1,12}", any_value());
        let checked = runner.run(&unknown, |(field, value)| {
            prop_assume!(!known.contains(&field.as_str()));
            prop_assume!(level.path.is_empty() || field != "messages");
            // A body with messages is another request.
            let expected = format!("{}{field}", level.path);
            prop_assert_eq!(level.with(&field, value), Err(expected));
            Ok(())
        });
        checked.unwrap_or_else(|error| panic!("{}: {error}", level.name));
    }
    assert!(walked > 240, "{walked} fields");
}

/// Values that are refused with the name of another field, which they do not go together with.
fn elsewhere(field: &str, got: &Result<String, String>) -> bool {
    let with = match field {
        // Its type decides what else there is.
        "type" => &["text", "type"][..],
        "role" => &["content", "tool_calls", "role"],
        "stream" => &["stream_options"],
        "min_tokens" | "max_tokens" | "max_completion_tokens" => &["min_tokens", "max_tokens"],
        "logprobs" | "top_logprobs" => &["logprobs", "top_logprobs"],
        "add_generation_prompt" | "prefix" | "continue_final_message" => {
            &["continue_final_message", "prefix"]
        }
        "n" | "best_of" => &["n", "best_of"],
        "echo" => &["max_tokens"],
        "messages" => &["messages"],
        _ => &[],
    };
    got.as_ref()
        .is_err_and(|param| with.iter().any(|name| param.ends_with(name)))
}

#[test]
fn nothing_the_rule_lists_is_stale() {
    let known: Vec<&str> = levels()
        .iter()
        .flat_map(|level| level.fields())
        .filter(|(_, decision)| *decision == Honoured)
        .map(|(name, _)| name)
        .collect();
    for (name, _) in SILENT {
        assert!(known.contains(name), "{name}");
    }
}

#[test]
fn an_answers_id_is_the_headers_or_the_bodys() {
    let of = |header: Option<&[u8]>, body: Option<&str>| {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(REQUEST_ID_HEADER, header.try_into().unwrap());
        }
        answer_id(&headers, body.map(str::to_owned)).map_err(|error| error.param.unwrap())
    };
    assert_eq!(of(None, None), Ok(None));
    assert_eq!(of(None, Some("b")), Ok(Some("b".to_owned())));
    assert_eq!(of(Some(b"h-1"), Some("b")), Ok(Some("h-1".to_owned())));
    let long = "x".repeat(129);
    for header in [&b""[..], b"a b", b"\xff", long.as_bytes()] {
        assert_eq!(of(Some(header), None), Err("x-request-id".to_owned()));
    }
    let body = |id: &str| {
        let body = json!({"prompt": "p", "request_id": id});
        read(Endpoint::Completion, &body)
    };
    assert!(body("abc-1").unwrap().contains("id: Some(\"abc-1\")"));
    for id in ["", "a b", "a\n", &long] {
        assert_eq!(body(id), Err("request_id".to_owned()));
    }
}
