//! Messages as they are read, and what is refused in them.

use serde_json::json;

use super::*;

fn read(messages: Value) -> Result<Messages, ApiError> {
    let body = json!({ "messages": messages }).to_string();
    take(&mut Fields::parse(body.as_bytes()).unwrap())
}

#[test]
fn messages_reach_the_template_as_transformers_would_hand_them_over() {
    let read = read(json!([
        {"role": "developer", "content": "be brief", "name": "ann", "id": "7"},
        {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"x": 1}}]},
        {"role": "assistant", "content": null, "refusal": null, "audio": null,
         "annotations": [], "function_call": null, "reasoning": "hm", "prefix": false,
         "tool_calls": [{"id": "c", "type": "function", "index": 0,
                         "function": {"name": "f", "arguments": "{\"z\": 1, \"a\": [2.0]}"}}]},
        {"role": "tool", "tool_call_id": "c", "content": "3"},
        {"role": "assistant", "content": "Sure", "prefix": true},
    ]))
    .unwrap();
    let written = serde_json::to_string(&read.list).unwrap();
    let expected = concat!(
        r#"[{"role":"system","content":"be brief","name":"ann"},"#,
        r#"{"role":"user","content":[{"type":"text","text":"a"}]},"#,
        r#"{"role":"assistant","content":"","reasoning_content":"hm","thinking":"hm","#,
        r#""tool_calls":[{"id":"c","type":"function","function":{"name":"f","#,
        r#""arguments":{"z":1,"a":[2.0]}}}]},"#,
        r#"{"role":"tool","content":"3","tool_call_id":"c"},"#,
        r#"{"role":"assistant","content":"Sure"}]"#
    );
    assert_eq!(written, expected);
    assert!(read.prefix);
    let wanted = [("messages[2].tool_calls".to_owned(), "tool_calls")];
    assert_eq!(read.wanted, wanted);
}

#[test]
fn what_is_not_honoured_is_refused_with_its_place() {
    let part = |part: Value| json!([{"role": "user", "content": [part]}]);
    let call = |call: Value| json!([{"role": "assistant", "content": "", "tool_calls": [call]}]);
    for (messages, param, said) in [
        (json!([]), "messages", "empty"),
        (
            json!("hi"),
            "messages",
            "a list of messages, not the string",
        ),
        (json!([1]), "messages[0]", "must be an object, not 1"),
        (json!([{"content": "a"}]), "messages[0].role", "not null"),
        (
            json!([{"role": "king", "content": "a"}]),
            "messages[0].role",
            "\"king\"",
        ),
        (json!([{"role": "user"}]), "messages[0].content", "not null"),
        (
            json!([{"role": "user", "content": 5}]),
            "messages[0].content",
            "not 5",
        ),
        (
            json!([{"role": "user", "content": "q", "frobnicate": 1}]),
            "messages[0].frobnicate",
            "no such",
        ),
        (
            json!([{"role": "user", "content": "q", "frobnicate": false}]),
            "messages[0].frobnicate",
            "no such",
        ),
        (
            json!([{"role": "user", "content": "q", "prefix": true}]),
            "messages[0].prefix",
            "only false",
        ),
        (
            json!([{"role": "assistant", "content": "q", "prefix": true}, {"role": "user", "content": "q"}]),
            "messages[0].prefix",
            "only the last",
        ),
        (
            json!([{"role": "assistant", "content": "q", "prefix": 1}]),
            "messages[0].prefix",
            "true or false",
        ),
        (
            json!([{"role": "assistant", "content": "q", "refusal": "no"}]),
            "messages[0].refusal",
            "only \"\"",
        ),
        (
            json!([{"role": "assistant", "content": "q", "audio": {"id": "x"}}]),
            "messages[0].audio",
            "not supported",
        ),
        (
            json!([{"role": "assistant", "content": "q", "function_call": {"name": "f"}}]),
            "messages[0].function_call",
            "not supported",
        ),
        (
            json!([{"role": "assistant", "content": "q", "reasoning": "a", "reasoning_content": "b"}]),
            "messages[0].reasoning",
            "another text",
        ),
        (
            json!([{"role": "user", "content": "q", "tool_calls": [1]}]),
            "messages[0].tool_calls",
            "only []",
        ),
        (
            part(json!({"type": "image_url"})),
            "messages[0].content[0].type",
            "\"image_url\" is not supported",
        ),
        (
            part(json!({"text": "a"})),
            "messages[0].content[0].type",
            "missing",
        ),
        (
            part(json!({"type": "text"})),
            "messages[0].content[0].text",
            "not null",
        ),
        (
            part(json!({"type": "text", "text": "a", "frobnicate": 1})),
            "messages[0].content[0].frobnicate",
            "no such",
        ),
        (
            call(json!({"id": "x"})),
            "messages[0].tool_calls[0].function",
            "must be an object",
        ),
        (
            call(json!({"function": {"name": "f", "arguments": "{"}})),
            "messages[0].tool_calls[0].function.arguments",
            "JSON object",
        ),
        (
            call(json!({"function": {"name": "f", "arguments": {"a": 1}}})),
            "messages[0].tool_calls[0].function.arguments",
            "a string",
        ),
        (
            call(
                json!({"function": {"name": "f", "arguments": "{\"a\": [18446744073709551616]}"}}),
            ),
            "messages[0].tool_calls[0].function.arguments",
            "beyond 64 bits",
        ),
        (
            call(json!({"function": {"name": "f"}, "frobnicate": 1})),
            "messages[0].tool_calls[0].frobnicate",
            "no such",
        ),
    ] {
        let error = read(messages.clone()).unwrap_err();
        assert_eq!(error.param.as_deref(), Some(param), "{messages}");
        assert!(
            error.message.contains(said),
            "{messages}: {}",
            error.message
        );
    }
}

#[test]
fn a_variable_is_exact_or_refused() {
    let read = |value: &str| {
        let body = format!(r#"{{"chat_template_kwargs": {{"n": {value}}}}}"#);
        variables(&mut Fields::parse(body.as_bytes()).unwrap())
    };
    for (value, expected) in [
        ("18446744073709551615", Ordered::Int(u64::MAX.into())),
        ("-9223372036854775808", Ordered::Int(i64::MIN.into())),
        ("1.5e3", Ordered::Float(1500.0)),
    ] {
        assert_eq!(
            read(value).unwrap(),
            [("n".to_owned(), expected)],
            "{value}"
        );
    }
    for value in ["18446744073709551616", "-99999999999999999999", "[[1e30]]"] {
        let error = read(value).unwrap_err();
        assert_eq!(
            error.param.as_deref(),
            Some("chat_template_kwargs.n"),
            "{value}"
        );
        assert!(error.message.contains("beyond 64 bits"), "{error:?}");
    }
}
