//! Weights pushed over HTTP: the phases, who may be at work, what is refused before a byte is written,
//! and what ends an update in the middle.

use std::future::pending;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use futures::StreamExt;
use serde_json::{Map, json};

use super::*;
use crate::engine::rest::PauseMode;
use crate::http::control::push;
use crate::http::testing::{app_with, fixture};
use crate::http::updates::How;
use crate::model::ModelFolder;

const NORM: &str = "model.norm.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

/// A file of these tensors, `numbers` long each and of zeros.
fn tensors(of: &[(&str, &str, &[usize])]) -> Vec<u8> {
    let (mut header, mut end) = (Map::new(), 0);
    for (name, dtype, shape) in of {
        let size = if *dtype == "BF16" { 2 } else { 4 };
        let bytes = shape.iter().product::<usize>() * size;
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [end, end + bytes]});
        header.insert((*name).to_owned(), entry);
        end += bytes;
    }
    let header = serde_json::to_vec(&header).unwrap();
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], &header, &vec![0; end]].concat()
}

/// The norm, then the embedding, of the fixture.
pub(super) fn two() -> Vec<u8> {
    tensors(&[(NORM, "F32", &[64]), (EMBEDDING, "BF16", &[515, 64])])
}

pub(super) async fn push_to(app: &Arc<App>, path: &str, body: Body) -> (u16, String) {
    use hyper::service::Service;
    let request = Request::builder().method("POST").uri(path);
    let request = request.header(CONTENT_TYPE, "application/octet-stream");
    let router = admin::router(Arc::clone(app), None);
    let service = hyper_util::service::TowerToHyperService::new(router);
    let response = service.call(request.body(body).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let closes = response.headers().get("connection").is_some();
    assert_eq!(
        closes,
        status != 200,
        "what is left of a body is no request"
    );
    (status, text(response).await)
}

pub(super) async fn pushed(app: &Arc<App>, bytes: &[u8]) -> (u16, String) {
    push_to(app, "/update_weights", Body::from(bytes.to_vec())).await
}

pub(super) async fn start(app: &Arc<App>, body: &str) {
    let (status, answer) = control(app, "POST", "/start_weight_update", body).await;
    assert_eq!(status, 200, "{answer}");
}

/// These bytes, and then nothing, for ever.
pub(super) fn stalling(bytes: Vec<u8>) -> Body {
    let first = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from(bytes))]);
    Body::from_stream(first.chain(futures::stream::once(pending())))
}

fn with_number(mut bytes: Vec<u8>, from_end: usize, number: u16) -> Vec<u8> {
    let at = bytes.len() - from_end;
    bytes[at..at + 2].copy_from_slice(&number.to_le_bytes());
    bytes
}

#[test]
fn the_fixture_has_these_tensors() {
    let model = ModelFolder::open(&fixture()).unwrap();
    let shape = |name: &str| model.tensors.info(name).unwrap().shape.clone();
    assert_eq!((shape(NORM), shape(EMBEDDING)), (vec![64], vec![515, 64]));
}

#[tokio::test]
async fn an_update_has_three_phases_and_any_number_of_bodies() {
    let (app, engine) = app(Script::Hold);
    let how = r#"{"weight_version": "7", "mode": "wait", "is_checkpoint_format": true}"#;
    let cases: &[Case<'_>] = &[
        (
            "POST",
            "/start_weight_update",
            how,
            200,
            json!({"message": "Weight update started", "update_id": "1"}),
            &[],
        ),
        ("POST", "/start_weight_update", "", 409, json!(null), &[]),
    ];
    for (method, path, body, status, expected, commands) in cases {
        let (got, answer) = control(&app, method, path, body).await;
        assert_eq!(got, *status, "{answer}");
        assert_eq!(engine.obeyed(), *commands);
        if *status == 200 {
            assert_eq!(serde_json::from_str::<Value>(&answer).unwrap(), *expected);
        } else {
            assert!(
                answer.contains("wrong_state") && answer.contains("120 s"),
                "{answer}"
            );
        }
    }
    let (status, answer) = pushed(&app, &two()).await;
    assert_eq!(status, 200, "{answer}");
    let counted = json!({"message": "Weights updated", "tensors": 2, "bytes": 256 + 65920});
    assert_eq!(serde_json::from_str::<Value>(&answer).unwrap(), counted);
    let heard = [
        "open true wait".to_owned(),
        format!("write {NORM} 0..64"),
        format!("write {EMBEDDING} 0..515"),
    ];
    assert_eq!(engine.obeyed(), heard);
    let one = tensors(&[(NORM, "F32", &[64])]);
    let (status, _) = push_to(&app, "/update_weights?update_id=1", Body::from(one)).await;
    assert_eq!(status, 200);
    assert_eq!(engine.obeyed(), [&*heard[1]]);
    let finish = "/finish_weight_update?update_id=1";
    let (status, answer) = control(&app, "POST", finish, "").await;
    let finished = json!({"message": "Weight update finished", "weight_version": "7"});
    assert_eq!(
        (status, serde_json::from_str(&answer).unwrap()),
        (200, finished)
    );
    assert_eq!(engine.obeyed(), ["close 7"]);
    // A partial one, whose name the last call gives.
    start(&app, r#"{"partial": true}"#).await;
    assert_eq!(pushed(&app, &two()).await.0, 200);
    let finish = control(
        &app,
        "POST",
        "/finish_weight_update",
        r#"{"weight_version": "8"}"#,
    );
    assert_eq!(finish.await.0, 200);
    let obeyed = engine.obeyed();
    assert_eq!((&*obeyed[0], &*obeyed[3]), ("open false keep", "close 8"));
    let metrics = app.scrape();
    let labels = r#"engine="0",model_name="tiny",operation="#;
    for (operation, count) in [("start", 3), ("update", 3), ("finish", 2)] {
        let name = "vllm:rl_weight_update_operation_duration_seconds_count";
        let line = format!("{name}{{{labels}\"{operation}\"}} {count}");
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn what_does_not_fit_is_refused_before_the_engine_hears_of_it_and_can_be_sent_again() {
    let (app, engine) = app(Script::Hold);
    let (status, answer) = pushed(&app, &two()).await;
    assert!(
        status == 409 && answer.contains("/start_weight_update"),
        "{answer}"
    );
    for (body, field) in [
        (r#"{"mode": "later"}"#, "mode"),
        (r#"{"partial": "yes"}"#, "partial"),
        (r#"{"idle_timeout_seconds": 0}"#, "idle_timeout_seconds"),
        (r#"{"idle_timeout_seconds": 1e9}"#, "idle_timeout_seconds"),
        (r#"{"weight_version": ""}"#, "weight_version"),
        (r#"{"names": ["a"]}"#, "names"),
    ] {
        let (status, answer) = control(&app, "POST", "/start_weight_update", body).await;
        assert!(status == 400 && answer.contains(field), "{body}: {answer}");
    }
    start(&app, "").await;
    let nan = with_number(tensors(&[(EMBEDDING, "BF16", &[515, 64])]), 2, 0x7fc0);
    let infinite = with_number(tensors(&[(EMBEDDING, "BF16", &[515, 64])]), 2, 0xff80);
    for (bytes, named) in [
        (
            tensors(&[(NORM, "F32", &[64]), ("model.nerm.weight", "F32", &[64])]),
            "model.nerm.weight",
        ),
        (
            tensors(&[("lm_head.bias", "F32", &[515])]),
            "none of that name",
        ),
        (
            tensors(&[(EMBEDDING, "F32", &[64, 515])]),
            "[64, 515], the loaded model's is [515, 64]",
        ),
        (
            tensors(&[(NORM, "I32", &[64])]),
            "is I32; taken are F32, F16, BF16",
        ),
        (tensors(&[(NORM, "F32", &[0])]), "[0]"),
        (
            b"PK\x03\x04 a torch pickle, zipped".to_vec(),
            "it is not safetensors",
        ),
        (two()[..100].to_vec(), "of its header"),
        (two()[..300].to_vec(), NORM),
        (vec![], "0 of 8 bytes"),
        (nan, "row 514 has NaN, which is no float32"),
        (infinite, "row 514 has -inf"),
    ] {
        let (status, answer) = pushed(&app, &bytes).await;
        assert_eq!(status, 400, "{named}: {answer}");
        let answer = answer.replace("Float32", "float32");
        assert!(answer.contains(named), "{named}: {answer}");
        assert!(
            answer.contains("weights_refused") && answer.contains("open still"),
            "{answer}"
        );
    }
    for path in ["/update_weights?update_id=7", "/update_weights?update=1"] {
        let (status, answer) = push_to(&app, path, Body::from(two())).await;
        assert!([409, 400].contains(&status), "{answer}");
    }
    let (status, answer) = control(&app, "POST", "/finish_weight_update", "").await;
    assert!(
        status == 409 && answer.contains("no tensor has come"),
        "{answer}"
    );
    assert_eq!(engine.obeyed(), [""; 0]);
    assert_eq!(pushed(&app, &two()).await.0, 200);
    // Nothing of a second body, after one that was written.
    let (status, answer) = pushed(&app, b"no").await;
    assert_eq!(status, 400);
    assert!(
        answer.contains("nothing of this body was written"),
        "{answer}"
    );
    let (status, answer) = control(&app, "POST", "/abort_weight_update", "").await;
    assert!(
        status == 200 && answer.contains("out of service"),
        "{answer}"
    );
    assert_eq!(
        engine.obeyed().last().unwrap(),
        "abandon: it was aborted by hand"
    );
    assert_eq!(
        control(&app, "POST", "/abort_weight_update", "").await.0,
        409
    );
}

/// After its first tensor is written, whatever ends a body ends the update, with the tensor's name.
#[tokio::test]
async fn a_body_that_fails_in_the_middle_ends_the_update() {
    let limits = HttpLimits {
        push_timeout: Duration::from_millis(30),
        ..HttpLimits::default()
    };
    let (app, engine) = app_with(Script::Hold, limits);
    let cut = two()[..two().len() - 500].to_vec();
    let broken = {
        let first = Ok(Bytes::from(cut.clone()));
        let lost = Err(std::io::Error::other("connection reset"));
        Body::from_stream(futures::stream::iter([first, lost]))
    };
    for (body, status, said) in [
        (
            Body::from(with_number(two(), 2, 0x7f80)),
            400,
            "row 514 has inf",
        ),
        (
            Body::from(cut.clone()),
            400,
            "65420 of 65920 bytes of the tensor",
        ),
        (
            Body::from([two(), vec![0]].concat()),
            400,
            "goes on for 1 bytes",
        ),
        (broken, 400, "connection reset"),
        (stalling(cut.clone()), 408, "came within 0 s, at tensor"),
    ] {
        start(&app, "").await;
        let (got, answer) = push_to(&app, "/update_weights", body).await;
        assert_eq!(got, status, "{answer}");
        assert!(answer.contains(said), "{said}: {answer}");
        assert!(
            answer.contains("update has ended") && answer.contains("reload_weights"),
            "{answer}"
        );
        let obeyed = engine.obeyed();
        assert_eq!(
            obeyed[..2],
            ["open true keep".to_owned(), format!("write {NORM} 0..64")]
        );
        let abandoned = obeyed.last().unwrap();
        assert!(
            abandoned.starts_with("abandon: ") && abandoned.contains(said),
            "{abandoned}"
        );
        assert_eq!(
            control(&app, "POST", "/finish_weight_update", "").await.0,
            409
        );
    }
}

/// A client that leaves is told nothing, and the engine is.
#[tokio::test]
async fn a_client_that_leaves_in_the_middle_ends_the_update() {
    let (app, engine) = app(Script::Hold);
    start(&app, "").await;
    let leaving = {
        let (app, cut) = (Arc::clone(&app), two()[..two().len() - 500].to_vec());
        tokio::spawn(async move { push_to(&app, "/update_weights", stalling(cut)).await })
    };
    while engine.told() < 2 {
        tokio::task::yield_now().await;
    }
    leaving.abort();
    assert!(leaving.await.is_err());
    assert_eq!(engine.obeyed().last().unwrap(), "abandon: the client left");
    start(&app, "").await;
}

#[tokio::test]
async fn one_client_is_at_work_and_an_update_that_nobody_works_on_is_ended() {
    let (app, engine) = app(Script::Hold);
    start(&app, "").await;
    let at_work = {
        let app = Arc::clone(&app);
        tokio::spawn(async move {
            push_to(
                &app,
                "/update_weights",
                stalling(two()[..two().len() - 500].to_vec()),
            )
            .await
        })
    };
    while engine.told() == 0 {
        tokio::task::yield_now().await;
    }
    let (status, answer) = pushed(&app, &two()).await;
    assert!(status == 409 && answer.contains("at work"), "{answer}");
    for path in ["/finish_weight_update", "/start_weight_update"] {
        let (status, answer) = control(&app, "POST", path, "").await;
        assert_eq!(status, 409, "{path}: {answer}");
    }
    assert_eq!(
        control(&app, "POST", "/abort_weight_update", "").await.0,
        200
    );
    at_work.abort();
    assert!(at_work.await.is_err());
    engine.obeyed();

    let how = How {
        version: None,
        mode: PauseMode::Keep,
        whole: true,
        patience: Duration::from_millis(20),
    };
    for sends in [false, true] {
        let id = app.updates.begin(how.clone(), false).unwrap();
        if sends {
            assert_eq!(pushed(&app, &two()).await.0, 200);
        }
        push::watch(Arc::downgrade(&app), id).await;
        let abandons = engine
            .obeyed()
            .iter()
            .any(|said| said.starts_with("abandon: nobody sent"));
        assert_eq!(abandons, sends);
        start(&app, "").await;
        assert_eq!(
            control(&app, "POST", "/abort_weight_update", "").await.0,
            200
        );
    }
    // One that the engine has ended, as a deep sleep does, is in nobody's way.
    start(&app, "").await;
    assert_eq!(pushed(&app, &two()).await.0, 200);
    assert_eq!(
        control(&app, "POST", "/start_weight_update", "").await.0,
        409
    );
    engine.end_update();
    start(&app, "").await;
}
