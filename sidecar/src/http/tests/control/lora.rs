//! Adapters by path: vLLM's bodies, words and codes, and which folders may be named; SGLang's names of
//! the same.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::*;
use crate::http::testing::Scripted;

const LOAD: &str = "/v1/load_lora_adapter";
const UNLOAD: &str = "/v1/unload_lora_adapter";

fn adapters() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/adapters")
}

fn app_under(roots: &[PathBuf]) -> (Arc<App>, Arc<Scripted>) {
    let (mut app, engine) = app(Script::Say("x"));
    Arc::get_mut(&mut app).unwrap().adapter_roots = roots.to_vec();
    (app, engine)
}

fn body(name: &str, folder: &Path) -> String {
    json!({"lora_name": name, "lora_path": folder}).to_string()
}

#[tokio::test]
async fn an_adapter_is_loaded_listed_asked_and_unloaded_in_vllms_words() {
    let (app, engine) = app_under(&[adapters()]);
    let load = body("sql", &adapters().join("plain"));
    let loaded = "Success: LoRA adapter 'sql' added successfully.";
    assert_eq!(
        control(&app, "POST", LOAD, &load).await,
        (200, loaded.to_owned())
    );
    assert_eq!(engine.obeyed(), ["load sql false"]);
    let (status, told) = control(&app, "POST", LOAD, &load).await;
    assert_eq!(status, 400);
    let says = "The lora adapter 'sql' has already been loaded. If you want to load the adapter in \
                place, set 'load_inplace' to True.";
    assert!(told.contains(says), "{told}");
    let mut again: Value = serde_json::from_str(&load).unwrap();
    again["load_inplace"] = true.into();
    assert_eq!(control(&app, "POST", LOAD, &again.to_string()).await.0, 200);
    assert_eq!(engine.obeyed(), ["load sql false", "load sql true"]);

    let models = json(get(&app, "/v1/models").await).await;
    let card = models["data"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(
        (&card["id"], &card["parent"]),
        (&"sql".into(), &"tiny".into())
    );
    assert!(card["root"].as_str().unwrap().ends_with("adapters/plain"));
    assert_eq!(json(get(&app, "/v1/models/sql").await).await, card);
    assert_eq!(models["data"][0]["parent"], Value::Null);

    for (model, adapter) in [("sql", Some("sql")), ("tiny", None), ("org/tiny", None)] {
        let ask = json!({"model": model, "prompt": "x", "max_tokens": 2}).to_string();
        let answer = post(&app, "/v1/completions", &ask).await;
        assert_eq!(json(answer).await["model"], model);
        assert_eq!(engine.take()[0].adapter.as_deref(), adapter, "{model}");
    }
    let unload = json!({"lora_name": "sql", "lora_int_id": 1}).to_string();
    let unloaded = "Success: LoRA adapter 'sql' removed successfully.";
    assert_eq!(
        control(&app, "POST", UNLOAD, &unload).await,
        (200, unloaded.to_owned())
    );
    let (status, told) = control(&app, "POST", UNLOAD, &unload).await;
    assert_eq!(status, 404);
    assert!(
        told.contains("The lora adapter 'sql' cannot be found."),
        "{told}"
    );
    let ask = json!({"model": "sql", "prompt": "x"}).to_string();
    let answer = post(&app, "/v1/completions", &ask).await;
    assert_eq!(answer.status(), 404);
    assert_eq!(json(answer).await["error"]["code"], "model_not_found");
}

#[tokio::test]
async fn what_is_missing_wrong_or_elsewhere_is_refused_and_the_engine_hears_nothing() {
    let (app, engine) = app_under(&[adapters()]);
    let plain = adapters().join("plain");
    let outside = adapters().parent().unwrap().join("models");
    let both = "Both 'lora_name' and 'lora_path' must be provided.";
    for (path, body, status, says) in [
        (LOAD, "{}".to_owned(), 400, both),
        (LOAD, body("", &plain), 400, both),
        (LOAD, body("a b", &plain), 400, "lora_name: a name has"),
        (
            LOAD,
            body("tiny", &plain),
            400,
            "the model itself is called so",
        ),
        (
            LOAD,
            body("x", &outside),
            403,
            "lies under no --adapter-root",
        ),
        (
            LOAD,
            body("x", &adapters().join("nowhere")),
            400,
            "No such file",
        ),
        (
            LOAD,
            body("x", Path::new("plain")),
            400,
            "must be an absolute path",
        ),
        (
            LOAD,
            body("x", &adapters().join("dora")),
            400,
            "nothing was changed: adapter `x`: ",
        ),
        (
            LOAD,
            r#"{"lora_name": "x", "lora_path": "/x", "rank": 3}"#.to_owned(),
            400,
            "rank",
        ),
        (
            UNLOAD,
            "{}".to_owned(),
            400,
            "'lora_name' needs to be provided to unload",
        ),
        (
            UNLOAD,
            r#"{"lora_name": 3}"#.to_owned(),
            400,
            "must be a string",
        ),
    ] {
        let (got, told) = control(&app, "POST", path, &body).await;
        assert_eq!(got, status, "{body}: {told}");
        assert!(told.contains(says), "no {says} in {told}");
    }
    assert!(engine.obeyed().is_empty());
    let (app, _) = app_under(&[]);
    let (status, told) = control(&app, "POST", LOAD, &body("x", &plain)).await;
    assert_eq!(status, 403);
    assert!(told.contains("start it with --adapter-root"), "{told}");
}

#[tokio::test]
async fn sglangs_names_load_and_unload_in_its_words() {
    let (app, engine) = app_under(&[adapters()]);
    let plain = adapters().join("plain");
    let with = |more: Value| {
        let mut fields = json!({"lora_name": "sql", "lora_path": plain});
        let more = more.as_object().unwrap().clone();
        fields.as_object_mut().unwrap().extend(more);
        fields.to_string()
    };
    let there = json!({"sql": plain.canonicalize().unwrap()});
    let [load, unload] = ["/load_lora_adapter", "/unload_lora_adapter"];
    for (path, body, status, says, left) in [
        (
            load,
            with(json!({"lora_id": "7"})),
            400,
            "lora_id",
            json!({}),
        ),
        (
            load,
            with(json!({"pinned": "yes"})),
            400,
            "pinned",
            json!({}),
        ),
        (
            load,
            with(json!({"lora_path": adapters().join("nowhere")})),
            400,
            "No such file",
            json!({}),
        ),
        (
            load,
            with(json!({"pinned": true, "lora_id": null})),
            200,
            "",
            there.clone(),
        ),
        (
            load,
            with(json!({})),
            400,
            "has already been loaded",
            there.clone(),
        ),
        (
            unload,
            json!({"lora_name": "other"}).to_string(),
            400,
            "cannot be found",
            there,
        ),
        (
            unload,
            json!({}).to_string(),
            400,
            "lora_name: is missing",
            json!({"sql": plain.canonicalize().unwrap()}),
        ),
        (
            unload,
            json!({"lora_name": "sql"}).to_string(),
            200,
            "",
            json!({}),
        ),
    ] {
        let (got, told) = control(&app, "POST", path, &body).await;
        let told: Value = serde_json::from_str(&told).unwrap();
        assert_eq!(got, status, "{body}: {told}");
        assert_eq!(told["success"], status == 200, "{body}: {told}");
        assert_eq!(told["loaded_adapters"], left, "{body}");
        match told["error_message"].as_str() {
            Some(why) => assert!(why.contains(says) && !says.is_empty(), "{body}: {why}"),
            None => assert_eq!(status, 200, "{body}"),
        }
    }
    let steps = [
        "load sql false",
        "load sql false",
        "unload other",
        "unload sql",
    ];
    assert_eq!(engine.obeyed(), steps);
}

/// It was there when the name was looked up, and not when the request was queued or had its turn.
#[tokio::test]
async fn who_comes_as_an_adapter_goes_is_told_that_the_model_is_not_there() {
    let (app, engine) = app_under(&[adapters()]);
    let load = body("sql", &adapters().join("plain"));
    assert_eq!(control(&app, "POST", LOAD, &load).await.0, 200);
    let refused = crate::engine::request::Refused::NoAdapter {
        name: "sql".to_owned(),
    };
    let ask = json!({"model": "sql", "prompt": "x"}).to_string();
    engine.follow_script(Script::Refuse(refused));
    assert_eq!(post(&app, "/v1/completions", &ask).await.status(), 404);
    engine.follow_script(Script::Hold);
    // Who was half answered hears that it went, and not that it was never there.
    for (tokens, status, code) in [(0, 404, "model_not_found"), (3, 503, "adapter_unloaded")] {
        let asked = {
            let (app, ask) = (Arc::clone(&app), ask.clone());
            tokio::spawn(async move { post(&app, "/v1/completions", &ask).await })
        };
        while engine.taken() == 0 {
            tokio::task::yield_now().await;
        }
        let ended = finished(FinishReason::NoAdapter, 1, tokens);
        engine.take()[0].events.try_send(ended).unwrap();
        let answer = asked.await.unwrap();
        assert_eq!(answer.status(), status);
        assert_eq!(json(answer).await["error"]["code"], code);
    }
}
