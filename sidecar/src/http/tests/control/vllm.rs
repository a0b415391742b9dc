//! vLLM's routes.

use serde_json::json;

use super::*;

#[tokio::test]
async fn vllms_routes_have_its_bodies_and_codes() {
    let (app, engine) = app(Script::Hold);
    let none = Value::Null;
    let slept = |level: u8| json!({"status": "sleeping", "level": level});
    let awake = json!({"status": "awake", "tags_woken": null});
    let cases: &[Case<'_>] = &[
        (
            "GET",
            "/is_sleeping",
            "",
            200,
            json!({"is_sleeping": false}),
            &[],
        ),
        ("POST", "/sleep", "", 200, slept(1), &["sleep 1 abort"]),
        (
            "POST",
            "/sleep?level=2&mode=keep",
            "",
            200,
            slept(2),
            &["sleep 2 keep"],
        ),
        (
            "POST",
            "/sleep?level=2&mode=keep",
            "",
            200,
            slept(2),
            &["sleep 2 keep"],
        ),
        (
            "GET",
            "/is_sleeping",
            "",
            200,
            json!({"is_sleeping": true}),
            &[],
        ),
        (
            "POST",
            "/wake_up?tags=weights",
            "",
            200,
            json!({"status": "sleeping", "tags_woken": ["weights"]}),
            &["wake true false"],
        ),
        (
            "POST",
            "/wake_up",
            "",
            200,
            awake.clone(),
            &["wake true true"],
        ),
        ("POST", "/wake_up", "", 200, awake, &["wake true true"]),
        (
            "POST",
            "/sleep?level=0&mode=wait",
            "",
            200,
            slept(0),
            &["sleep 0 wait"],
        ),
        (
            "POST",
            "/sleep?tags=kv_cache",
            "",
            200,
            slept(1),
            &["sleep 1 abort"],
        ),
        (
            "POST",
            "/sleep?tags=weights",
            "",
            200,
            slept(2),
            &["sleep 2 abort"],
        ),
        ("POST", "/sleep?level=3", "", 400, json!("query.level"), &[]),
        (
            "POST",
            "/sleep?mode=drop",
            "",
            400,
            json!("query.mode"),
            &[],
        ),
        ("POST", "/sleep?levle=2", "", 400, json!("query.levle"), &[]),
        (
            "POST",
            "/wake_up?tags=graphs",
            "",
            400,
            json!("query.tags"),
            &[],
        ),
        (
            "POST",
            "/pause?mode=keep",
            "",
            200,
            json!({"status": "paused"}),
            &["pause keep true"],
        ),
        (
            "POST",
            "/pause?mode=keep&clear_cache=false",
            "",
            200,
            json!({"status": "paused"}),
            &["pause keep false"],
        ),
        (
            "POST",
            "/pause",
            "",
            200,
            json!({"status": "paused"}),
            &["pause abort true"],
        ),
        (
            "POST",
            "/pause?wait_for_inflight_requests=true",
            "",
            200,
            json!({"status": "paused"}),
            &["pause wait true"],
        ),
        (
            "POST",
            "/pause?mode=sometimes",
            "",
            400,
            json!({"error": "query.mode: \"sometimes\" is none of abort, wait, keep"}),
            &[],
        ),
        (
            "GET",
            "/is_paused",
            "",
            200,
            json!({"is_paused": true}),
            &[],
        ),
        (
            "POST",
            "/release_kv_cache_memory",
            "",
            200,
            json!({"status": "kv_cache_released"}),
            &["release"],
        ),
        (
            "POST",
            "/resume",
            "",
            200,
            json!({"status": "resumed"}),
            &["resume"],
        ),
        (
            "POST",
            "/resume",
            "",
            200,
            json!({"status": "resumed"}),
            &["resume"],
        ),
        (
            "GET",
            "/is_paused",
            "",
            200,
            json!({"is_paused": false}),
            &[],
        ),
        (
            "POST",
            "/reset_prefix_cache",
            "",
            200,
            none.clone(),
            &["reset false"],
        ),
        (
            "POST",
            "/reset_prefix_cache?reset_running_requests=true",
            "",
            200,
            none.clone(),
            &["reset true"],
        ),
        ("POST", "/reset_mm_cache", "", 200, none.clone(), &[]),
        (
            "GET",
            "/get_world_size?include_dp=false",
            "",
            200,
            json!({"world_size": 1}),
            &[],
        ),
        (
            "GET",
            "/get_world_size?include_dp=2",
            "",
            400,
            json!("query.include_dp"),
            &[],
        ),
        (
            "POST",
            "/weight_checker",
            r#"{"action": "checksum"}"#,
            200,
            json!({"checksums": {
                "dp0:pp0:pcp0:tp0:Embedding": "00000000000000cd",
                "dp0:pp0:pcp0:tp0:Head": "00000000000000ab",
                "dp0:pp0:pcp0:tp1:Embedding": "00000000000000cd",
                "dp0:pp0:pcp0:tp1:Head": "00000000000000ab",
            }}),
            &[],
        ),
        (
            "POST",
            "/weight_checker",
            r#"{"action": "compare", "baseline": {
                "dp0:pp0:pcp0:tp0:Head": "00000000000000ab",
                "dp0:pp0:pcp0:tp0:Embedding": "00000000000000cd",
                "dp0:pp0:pcp0:tp1:Head": "00000000000000ac",
                "dp0:pp0:pcp0:tp2:Head": "00000000000000ab"}}"#,
            200,
            json!({"match": false, "mismatches": [
                "dp0:pp0:pcp0:tp1:Embedding", "dp0:pp0:pcp0:tp1:Head", "dp0:pp0:pcp0:tp2:Head",
            ]}),
            &[],
        ),
        (
            "POST",
            "/weight_checker",
            r#"{"action": "x"}"#,
            400,
            json!("action"),
            &[],
        ),
        (
            "POST",
            "/weight_checker",
            r#"{"acton": "x"}"#,
            400,
            json!("acton"),
            &[],
        ),
        (
            "POST",
            "/abort_requests",
            "{}",
            200,
            json!({"status": "aborted", "aborted": 0}),
            &[],
        ),
        (
            "POST",
            "/abort_requests",
            r#"{"request_ids": 3}"#,
            400,
            json!("request_ids"),
            &[],
        ),
        (
            "POST",
            "/collective_rpc",
            r#"{"args": []}"#,
            400,
            json!("method"),
            &[],
        ),
    ];
    check(&app, &engine, cases).await;
    // Not paused; not known; not possible.
    for (path, body, status, code) in [
        ("/release_kv_cache_memory", "", 409, "wrong_state"),
        ("/abort_requests", "[1", 400, ""),
        (
            "/collective_rpc",
            r#"{"method": "skyrl_sync"}"#,
            501,
            "not_implemented",
        ),
        (
            "/weight_checker",
            r#"{"action": "reset"}"#,
            501,
            "not_implemented",
        ),
        ("/update_weights", "{}", 501, "not_implemented"),
        ("/update_weights_from_tensor", "{}", 501, "not_implemented"),
    ] {
        let (got, answer) = control(&app, "POST", path, body).await;
        assert_eq!(got, status, "{path}: {answer}");
        assert!(answer.contains(code), "{path}: {answer}");
    }
    let (_, info) = control(&app, "GET", "/server_info?config_format=json", "").await;
    let info: Value = serde_json::from_str(&info).unwrap();
    assert_eq!(
        info["vllm_config"]["served_model_name"],
        json!(["tiny", "org/tiny"])
    );
    let (status, _) = control(&app, "GET", "/sleep", "").await;
    assert_eq!(status, 405, "only by POST");
}

/// vLLM passes over them, and sleeps at level 1 when level 2 was meant.
#[tokio::test]
async fn a_field_of_a_body_is_refused_where_parameters_are_in_the_address() {
    let (app, engine) = app(Script::Hold);
    for path in [
        "/sleep",
        "/wake_up",
        "/pause",
        "/resume",
        "/reset_prefix_cache",
        "/release_kv_cache_memory",
    ] {
        let (status, answer) = control(&app, "POST", path, r#"{"level": 2}"#).await;
        assert_eq!(status, 400, "{path}: {answer}");
        let said = r#""level\": this route takes its parameters in the address"#;
        assert!(answer.contains(said), "{path}: {answer}");
        assert!(engine.obeyed().is_empty(), "{path}");
        let (status, answer) = control(&app, "POST", path, "{}").await;
        assert_ne!(status, 400, "{path}: {answer}");
        assert!(!engine.obeyed().is_empty(), "{path}");
    }
}
