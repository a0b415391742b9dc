//! Chats by what becomes of them: the prompt, or a refusal by name.

use serde_json::{Value, json};

use super::*;
use crate::http::testing::{Script, app};

/// The prompt of a chat, with more fields of its body; or param and message of the refusal.
async fn prompt(messages: Value, more: Value) -> Result<String, (String, String)> {
    let (app, _) = app(Script::Hold);
    let mut body = json!({"model": "tiny", "messages": messages});
    let fields = body.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    let answer = json(post(&app, "/tokenize", &body.to_string()).await).await;
    if let Some(error) = answer.get("error") {
        let part = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        return Err((part("param"), part("message")));
    }
    let body = json!({"tokens": answer["tokens"]}).to_string();
    let back = json(post(&app, "/detokenize", &body).await).await;
    Ok(back["prompt"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_prompt_ends_as_the_request_says() {
    let said =
        json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Sure, "}]);
    let turns = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nSure, ";
    let open = format!("{turns}<|im_end|>\n");
    let asked = format!("{open}<|im_start|>assistant\n");
    for (more, expected) in [
        (json!({}), asked.as_str()),
        (json!({"add_generation_prompt": true}), &asked),
        (json!({"add_generation_prompt": false}), &open),
        (json!({"continue_final_message": true}), turns),
        (
            json!({"continue_final_message": true, "add_generation_prompt": false}),
            turns,
        ),
        (json!({"continue_final_message": false}), &asked),
    ] {
        assert_eq!(
            prompt(said.clone(), more.clone()).await.unwrap(),
            expected,
            "{more}"
        );
    }
    let mut prefixed = said.clone();
    prefixed[1]["prefix"] = json!(true);
    assert_eq!(prompt(prefixed, json!({})).await.unwrap(), turns);
    let both = json!({"continue_final_message": true, "add_generation_prompt": true});
    let (param, message) = prompt(said, both).await.unwrap_err();
    assert_eq!(param, "continue_final_message");
    assert!(message.contains("add_generation_prompt"), "{message}");
}

#[tokio::test]
async fn parts_of_one_message_stand_on_lines_of_their_own() {
    let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
    let messages = json!([{"role": "user", "content": parts}]);
    let prompt = prompt(messages, json!({})).await.unwrap();
    assert!(
        prompt.starts_with("<|im_start|>user\na\nb<|im_end|>\n"),
        "{prompt}"
    );
}

#[tokio::test]
async fn what_the_template_does_not_read_is_refused_by_name() {
    let user = json!([{"role": "user", "content": "hi"}]);
    let kwargs = |kwargs: Value| json!({"chat_template_kwargs": kwargs});
    // The template never thinks: that is what this asks for.
    prompt(user.clone(), kwargs(json!({"enable_thinking": false})))
        .await
        .unwrap();
    let called = json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "",
        "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]}]);
    for (messages, more, param) in [
        (
            user.clone(),
            kwargs(json!({"enable_thinking": true})),
            "chat_template_kwargs.enable_thinking",
        ),
        (
            user.clone(),
            kwargs(json!({"messages": []})),
            "chat_template_kwargs.messages",
        ),
        (
            user.clone(),
            kwargs(json!({"x": {"b": 1, "a": 2}})),
            "chat_template_kwargs.x",
        ),
        (user, kwargs(json!([1])), "chat_template_kwargs"),
        (called, json!({}), "messages[1].tool_calls"),
    ] {
        let (refused, message) = prompt(messages, more).await.unwrap_err();
        assert_eq!(refused, param, "{message}");
    }
}

#[tokio::test]
async fn an_answer_carries_the_id_that_its_client_gave() {
    use hyper::service::Service;
    let (app, _) = app(Script::Say("ok"));
    let service =
        hyper_util::service::TowerToHyperService::new(crate::http::router(Arc::clone(&app), &[]));
    let id = async |path: &str, header: Option<&str>, body: Value| {
        let mut request = Request::post(path).header("content-type", "application/json");
        if let Some(header) = header {
            request = request.header("X-Request-Id", header);
        }
        let request = request.body(Body::from(body.to_string())).unwrap();
        let answer = json(service.call(request).await.unwrap()).await;
        match answer.get("error") {
            Some(error) => error["param"].as_str().unwrap().to_owned(),
            None => answer["id"].as_str().unwrap().to_owned(),
        }
    };
    let chat = json!({"messages": [{"role": "user", "content": "hi"}], "request_id": "b7"});
    let text = json!({"prompt": "hi", "request_id": "b7"});
    let (chats, texts) = ("/v1/chat/completions", "/v1/completions");
    assert_eq!(id(chats, None, chat.clone()).await, "chatcmpl-b7");
    assert_eq!(id(texts, None, text.clone()).await, "cmpl-b7");
    assert_eq!(id(chats, Some("h"), chat.clone()).await, "chatcmpl-h");
    assert_eq!(
        id(texts, Some("h"), json!({"prompt": "hi"})).await,
        "cmpl-h"
    );
    assert_eq!(id(texts, Some("h h"), text).await, "x-request-id");
}
