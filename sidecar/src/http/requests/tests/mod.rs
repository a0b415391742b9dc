//! The rule of the body, walked: every level of every endpoint, every field of its tables, any value.
//!
//! What no table knows is refused by its full name. A neutral value changes nothing of what is read,
//! a label neither. Any other value of a field changes what is read or is refused with the field's
//! name in front; the few that say what silence says ([`SILENT`]) are listed.

mod told;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use super::samples::{SAMPLES, SILENT};
use super::*;
use crate::http::decisions::*;
use crate::http::fields::Decision::{self, Harmless, Honoured, Only};
use crate::http::fields::Table;

/// Values for each field, beside those that are tried always.
const CASES: u32 = 60;
/// Tried for each field: the plainest wrong and right ones.
const PLAIN: [&str; 6] = ["true", "false", "1", "-1", r#""x""#, "{}"];

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

const BOUNDS: Bounds = Bounds {
    max_model_len: 128,
    max_num_seqs: 8,
    vocabulary: 256,
};

/// What was read, or the field that is refused.
fn read(endpoint: Endpoint, body: &Value) -> Result<String, String> {
    let fields = Fields::parse(body.to_string().as_bytes()).unwrap();
    let bounds = BOUNDS;
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

/// Where values are drawn from.
fn runner() -> TestRunner {
    TestRunner::deterministic()
}

impl Level {
    /// Whether what became of `value` in `field` obeys the field's decision.
    fn obeys(&self, field: &str, decision: Decision, value: &Value, base: &str) -> bool {
        let got = self.with(field, value.clone());
        let same = got.as_deref() == Ok(base);
        let refused = got
            .as_ref()
            .is_err_and(|param| names(param, self.path, field));
        match decision {
            Harmless => same,
            Only(neutral) if is_neutral(value, neutral) => same,
            Only(_) => refused,
            Honoured if same => is_silent(field, value) || self.has(field, value),
            Honoured => got.is_ok() || refused || elsewhere(field, &got),
        }
    }

    /// What of the rule a field breaks.
    fn broken(&self, field: &'static str, decision: Decision, base: &str) -> Vec<String> {
        let mut broken = Vec::new();
        let mut check = |value: &Value| {
            let fine = self.obeys(field, decision, value, base);
            if !fine {
                let got = self.with(field, value.clone());
                let same = got.as_deref() == Ok(base);
                let got = if same {
                    Ok("the same")
                } else {
                    got.as_ref().map(|_| "another")
                };
                broken.push(format!("{}: {field}: {value} gives {got:?}", self.name));
            }
        };
        let own = self.body.pointer(&format!("{}/{field}", self.pointer));
        if own.is_none() && self.with(field, Value::Null).as_deref() != Ok(base) {
            check(&Value::Null);
        }
        let samples = SAMPLES.iter().filter(|(name, _)| *name == field);
        let mut tried: Vec<&str> = samples.map(|(_, text)| *text).chain(PLAIN).collect();
        if let Only(neutral) = decision {
            tried.extend(neutral);
        }
        let tried: Vec<Value> = tried
            .iter()
            .map(|text| serde_json::from_str(text).unwrap())
            .collect();
        tried.iter().for_each(&mut check);
        let mut runner = runner();
        for _ in 0..CASES {
            check(&any_value().new_tree(&mut runner).unwrap().current());
        }
        // A role's own is the one that its level has.
        let taken = |value: &Value| self.with(field, value.clone()).is_ok();
        if decision == Honoured && own.is_none() && !tried.iter().any(taken) {
            broken.push(format!(
                "{}: {field} is refused whatever it says",
                self.name
            ));
        }
        broken
    }
}

#[test]
fn whatever_a_body_says_is_honoured_or_refused_at_every_level() {
    let (mut walked, mut broken) = (0, Vec::new());
    for level in levels() {
        let base = read(level.endpoint, &level.body).unwrap();
        let fields = level.fields();
        for (field, decision) in &fields {
            walked += 1;
            broken.extend(level.broken(field, *decision, &base));
        }
        let mut runner = runner();
        for _ in 0..4 * CASES {
            let field = "[a-z_]{1,12}".new_tree(&mut runner).unwrap().current();
            let value = any_value().new_tree(&mut runner).unwrap().current();
            // A body with messages is another request.
            let known = fields.iter().any(|(name, _)| **name == field) || field == "messages";
            let expected = Err(format!("{}{field}", level.path));
            if !known && level.with(&field, value) != expected {
                broken.push(format!("{}: {field} is not refused by name", level.name));
            }
        }
    }
    assert!(
        broken.is_empty(),
        "{} cases:\n{}",
        broken.len(),
        broken.join("\n")
    );
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
