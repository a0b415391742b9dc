//! SGLang's routes.

use serde_json::json;

use super::*;

#[tokio::test]
async fn sglangs_routes_have_its_bodies_and_codes() {
    let (app, engine) = app(Script::Say("x"));
    let none = Value::Null;
    let ok = |message: &str| json!({"message": message, "status": "ok"});
    let (paused, goes) = (
        ok("Generation paused successfully."),
        ok("Generation continued successfully."),
    );
    let cases: &[Case<'_>] = &[
        (
            "POST",
            "/release_memory_occupation",
            "{}",
            200,
            none.clone(),
            &["sleep 2 keep"],
        ),
        (
            "POST",
            "/resume_memory_occupation",
            r#"{"tags": ["weights"]}"#,
            200,
            none.clone(),
            &["wake true false"],
        ),
        (
            "POST",
            "/resume_memory_occupation",
            r#"{"tags": null}"#,
            200,
            none.clone(),
            &["wake true true"],
        ),
        (
            "POST",
            "/release_memory_occupation",
            r#"{"tags": ["kv_cache", "cuda_graph"]}"#,
            200,
            none.clone(),
            &["sleep 1 keep"],
        ),
        (
            "POST",
            "/release_memory_occupation",
            r#"{"tags": ["cuda_graph"]}"#,
            200,
            none.clone(),
            &[],
        ),
        (
            "POST",
            "/release_memory_occupation",
            r#"{"tags": ["all"]}"#,
            400,
            json!("tags"),
            &[],
        ),
        (
            "POST",
            "/pause_generation",
            "",
            200,
            paused.clone(),
            &["pause abort false"],
        ),
        (
            "POST",
            "/pause_generation",
            r#"{"mode": "in_place"}"#,
            200,
            paused.clone(),
            &["pause keep false"],
        ),
        (
            "POST",
            "/pause_generation",
            r#"{"mode": "retract"}"#,
            200,
            paused,
            &["pause keep true"],
        ),
        (
            "POST",
            "/pause_generation",
            r#"{"mode": "keep"}"#,
            400,
            json!("mode"),
            &[],
        ),
        ("POST", "/continue_generation", "", 200, goes, &["resume"]),
        (
            "GET",
            "/flush_cache?timeout=3",
            "",
            200,
            none.clone(),
            &["reset false"],
        ),
        (
            "POST",
            "/abort_request",
            r#"{"abort_all": true}"#,
            200,
            none.clone(),
            &[],
        ),
        (
            "POST",
            "/abort_request",
            r#"{"rid": "nobody"}"#,
            200,
            none.clone(),
            &[],
        ),
        ("POST", "/abort_request", "{}", 400, json!("rid"), &[]),
        (
            "POST",
            "/weights_checker",
            r#"{"action": "snapshot"}"#,
            200,
            json!({"success": true, "message": "The load's checksums are the snapshot."}),
            &[],
        ),
        (
            "POST",
            "/weights_checker",
            r#"{"action": "x"}"#,
            400,
            json!("action"),
            &[],
        ),
        ("GET", "/health_generate", "", 200, none, &[]),
    ];
    check(&app, &engine, cases).await;
    let (_, told) = control(&app, "POST", "/weights_checker", r#"{"action": "compare"}"#).await;
    assert!(
        told.contains("\"success\":false") && told.contains("Head"),
        "{told}"
    );
}
