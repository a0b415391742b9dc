//! Other weights by path: the three forms of the call, what a version is, and which folders may be named.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::*;
use crate::http::generator::Generator;
use crate::http::testing::fixture;

/// Folders that go with the test: `in`, the root, and `out`, each with a copy of the model.
struct Folders(PathBuf);

impl Drop for Folders {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Folders {
    fn new(name: &str) -> Folders {
        let base = std::env::temp_dir().join(format!("plimsoll-{name}-{}", std::process::id()));
        for part in ["in/step", "out/step"] {
            fs::create_dir_all(base.join(part)).unwrap();
            for file in ["config.json", "model.safetensors"] {
                fs::copy(fixture().join(file), base.join(part).join(file)).unwrap();
            }
        }
        Folders(base)
    }

    fn of(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }
}

fn app_under(roots: &[PathBuf]) -> (Arc<App>, Arc<crate::http::testing::Scripted>) {
    let (mut app, engine) = app(Script::Hold);
    Arc::get_mut(&mut app).unwrap().weights_roots = roots.to_vec();
    (app, engine)
}

fn disk(path: &Path) -> String {
    json!({"model_path": path}).to_string()
}

/// Files may have changed since: a name that nobody gave is the one of what is read.
#[tokio::test]
async fn a_reload_under_a_name_that_nobody_gave_is_named_anew() {
    let (app, engine) = app(Script::Hold);
    assert_eq!(engine.weights().source_version, engine.weights().unnamed);
    let reload = r#"{"method": "reload_weights"}"#;
    let (status, answer) = control(&app, "POST", "/collective_rpc", reload).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(engine.obeyed(), ["update default keep"]);
}

#[tokio::test]
async fn weights_are_updated_from_a_folder_in_three_forms() {
    let folders = Folders::new("forms");
    let (app, engine) = app_under(&[folders.of("in")]);
    let step = folders.of("in/step");
    let vllm = json!({"update_info": {"path": step}}).to_string();
    let prime = json!({"weight_dir": step}).to_string();
    let sglang = json!({
        "model_path": step, "load_format": "auto", "weight_version": "7", "is_async": false,
        "flush_cache": true, "keep_pause": false, "token_step": 0, "torch_empty_cache": false,
        "recapture_cuda_graph": false, "abort_all_requests": true,
    });
    let sglang = sglang.to_string();
    let done = json!({
        "success": true, "message": "Succeeded to update model weights.", "num_paused_requests": 3,
    });
    let cases: &[Case<'_>] = &[
        (
            "GET",
            "/weight_info",
            "",
            200,
            json!({"weight_version": ""}),
            &[],
        ),
        (
            "POST",
            "/update_weights",
            &vllm,
            200,
            json!({"message": "Weights updated"}),
            &["update - keep"],
        ),
        (
            "POST",
            "/update_weights",
            &prime,
            200,
            json!({"status": "ok"}),
            &["update - keep"],
        ),
        (
            "POST",
            "/update_weights_from_disk",
            &sglang,
            200,
            done,
            &["update 7 abort"],
        ),
        (
            "GET",
            "/weight_info",
            "",
            200,
            json!({"weight_version": "7"}),
            &[],
        ),
        (
            "POST",
            "/update_weight_version",
            r#"{"new_version": "8"}"#,
            200,
            json!({"success": true, "new_version": "8"}),
            &["name 8"],
        ),
        (
            "GET",
            "/weight_info",
            "",
            200,
            json!({"weight_version": "8"}),
            &[],
        ),
        (
            "POST",
            "/update_weight_version",
            "{}",
            400,
            json!("new_version"),
            &[],
        ),
        (
            "POST",
            "/update_weight_version",
            r#"{"new_version": ""}"#,
            400,
            json!("new_version"),
            &[],
        ),
        (
            "POST",
            "/update_weight_version",
            r#"{"new_version": 8}"#,
            400,
            json!("new_version"),
            &[],
        ),
        (
            "POST",
            "/update_weights",
            r#"{"weight_dir": 8}"#,
            400,
            json!("weight_dir"),
            &[],
        ),
        (
            "POST",
            "/collective_rpc",
            r#"{"method": "reload_weights"}"#,
            200,
            json!({"results": [null]}),
            &["update 8 keep"],
        ),
    ];
    check(&app, &engine, cases).await;
    for body in [
        r#"{"update_info": {"names": ["a"]}}"#,
        r#"{"weight_dir": null}"#,
        "{}",
    ] {
        let (status, answer) = control(&app, "POST", "/update_weights", body).await;
        assert_eq!(status, 501, "{body}: {answer}");
        assert!(answer.contains("--weights-root"), "{answer}");
    }
    for (field, value) in [
        ("is_async", json!(true)),
        ("flush_cache", json!(false)),
        ("load_format", json!("dummy")),
        ("manifest", json!({})),
        ("abort_all_requests", json!("yes")),
        ("weight_version", json!("x".repeat(300))),
    ] {
        let mut body = json!({"model_path": step});
        body[field] = value;
        let (status, answer) =
            control(&app, "POST", "/update_weights_from_disk", &body.to_string()).await;
        assert_eq!(status, 400, "{field}: {answer}");
        assert!(
            answer.contains(field) && answer.contains(r#""success":false"#),
            "{answer}"
        );
    }
    assert_eq!(engine.obeyed(), [""; 0]);
}

#[tokio::test]
async fn a_folder_must_lie_under_a_root_with_its_files_and_links_resolved() {
    let folders = Folders::new("roots");
    let (app, engine) = app_under(&[folders.of("in")]);
    symlink(folders.of("out/step"), folders.of("in/link")).unwrap();
    fs::create_dir(folders.of("in/files")).unwrap();
    let own = folders.of("in/files/config.json");
    fs::copy(folders.of("in/step/config.json"), own).unwrap();
    let linked = folders.of("in/files/model.safetensors");
    symlink(folders.of("out/step/model.safetensors"), &linked).unwrap();
    fs::create_dir(folders.of("inner")).unwrap();
    let refused = [
        folders.of("out/step"),
        folders.of("in/link"),
        folders.of("in/files"),
        folders.of("in/../out/step"),
        folders.of("inner"),
        folders.of("out/nowhere"),
    ];
    let malformed = [folders.of("in/nowhere"), PathBuf::from("in/step")];
    let refused = refused.map(|path| (path, 403));
    for (path, expected) in refused.into_iter().chain(malformed.map(|path| (path, 400))) {
        let (status, answer) =
            control(&app, "POST", "/update_weights_from_disk", &disk(&path)).await;
        assert_eq!(status, expected, "{}: {answer}", path.display());
        assert!(answer.contains("model_path"), "{answer}");
    }
    // A link that stays inside leads somewhere, and so does the root itself where it is one.
    fs::remove_file(&linked).unwrap();
    symlink(folders.of("in/step/model.safetensors"), &linked).unwrap();
    symlink(folders.of("in"), folders.of("root")).unwrap();
    let (app, _) = app_under(&[folders.of("gone"), folders.of("root")]);
    for path in ["in/files", "root/step"] {
        let body = disk(&folders.of(path));
        let (status, answer) = control(&app, "POST", "/update_weights_from_disk", &body).await;
        assert_eq!(status, 200, "{path}: {answer}");
    }
    let (bare, bare_engine) = app_under(&[]);
    let body = disk(&folders.of("in/step"));
    let (status, answer) = control(&bare, "POST", "/update_weights_from_disk", &body).await;
    assert_eq!(status, 403, "{answer}");
    assert!(answer.contains("--weights-root"), "{answer}");
    assert_eq!((engine.obeyed(), bare_engine.obeyed()), (vec![], vec![]));
}

/// The name of one part says where the others are.
#[tokio::test]
async fn every_part_of_a_split_file_must_lie_under_a_root() {
    let folders = Folders::new("parts");
    let (app, engine) = app_under(&[folders.of("in")]);
    let part = |number: u32| folders.of(&format!("in/m-{number:05}-of-00002.gguf"));
    for (stored, number) in [("in/blob", 1), ("out/blob", 2)] {
        fs::write(folders.of(stored), "no GGUF").unwrap();
        symlink(folders.of(stored), part(number)).unwrap();
    }
    let asked = disk(&part(1));
    let ask = || control(&app, "POST", "/update_weights_from_disk", &asked);
    let (status, answer) = ask().await;
    assert!(
        status == 403 && answer.contains("m-00002-of-00002.gguf"),
        "{answer}"
    );
    fs::remove_file(part(2)).unwrap();
    symlink(folders.of("in/blob"), part(2)).unwrap();
    // It is opened under the name that was asked for, not under that of the link's end.
    let (status, answer) = ask().await;
    assert!(
        status == 400 && answer.contains("m-00001-of-00002.gguf"),
        "{answer}"
    );
    assert_eq!(engine.obeyed(), [""; 0]);
}

#[tokio::test]
async fn a_folder_that_does_not_fit_is_refused_and_nothing_is_asked_of_the_engine() {
    let folders = Folders::new("fits");
    let (app, engine) = app_under(&[folders.of("in")]);
    fs::write(folders.of("in/step/model.safetensors"), "no weights").unwrap();
    let body = json!({"weight_dir": folders.of("in/step")}).to_string();
    let (status, answer) = control(&app, "POST", "/update_weights", &body).await;
    assert_eq!(status, 400, "{answer}");
    assert!(
        answer.contains("weights_refused") && answer.contains("weight_dir"),
        "{answer}"
    );
    assert!(answer.contains("model.safetensors"), "{answer}");
    assert_eq!(engine.obeyed(), [""; 0]);
}

#[tokio::test]
async fn answers_say_which_weights_they_are_of() {
    let (app, _) = app(Script::Say("x"));
    let named = |version: &str| format!(r#"{{"new_version": "{version}"}}"#);
    let body = r#"{"model": "tiny", "prompt": "x", "stream": true}"#;
    for version in ["7", "step 8: größer"] {
        control(&app, "POST", "/update_weight_version", &named(version)).await;
        for (path, body) in [("/v1/completions", body), ("/v1/models", "")] {
            let method = if body.is_empty() { "GET" } else { "POST" };
            let answer = send(&app, method, path, body).await;
            let header = answer.headers()["x-plimsoll-weight-version"].as_bytes();
            assert_eq!(header, version.as_bytes(), "{path}");
        }
        let refused = post(&app, "/v1/completions", "{").await;
        assert!(!refused.headers().contains_key("x-plimsoll-weight-version"));
    }
}
