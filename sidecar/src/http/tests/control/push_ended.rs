//! Updates that end beside whoever pushes: the engine is left with none that nobody has, and nobody's
//! body writes into, or ends, an update of somebody else.

use std::time::Duration;

use axum::body::Bytes;
use futures::channel::mpsc::unbounded;

use super::push::{push_to, pushed, stalling, start, two};
use super::*;
use crate::engine::control::Command;
use crate::engine::handle::EngineState;
use crate::http::generator::Generator;

/// All but its last bytes: the norm is written, and the embedding is not.
fn cut() -> Vec<u8> {
    two()[..two().len() - 500].to_vec()
}

#[tokio::test]
async fn a_client_that_leaves_before_the_engine_opened_its_update_ends_it_behind_that() {
    let (app, engine) = app(Script::Hold);
    start(&app, "").await;
    // Commands wait in this state until they are taken.
    engine.state.send_replace(EngineState::Draining);
    let leaving = {
        let app = Arc::clone(&app);
        tokio::spawn(async move { push_to(&app, "/update_weights", Body::from(two())).await })
    };
    while engine.commands() == 0 {
        tokio::task::yield_now().await;
    }
    leaving.abort();
    assert!(leaving.await.is_err());
    let commands = engine.take_commands();
    let [Command::OpenPush { .. }, Command::AbandonPush { why, .. }] = &*commands else {
        panic!("{commands:?}");
    };
    assert_eq!(why, "the client left");
    engine.state.send_replace(EngineState::Serving);
    start(&app, "").await;
}

#[tokio::test]
async fn a_body_whose_update_was_aborted_leaves_the_next_one_alone() {
    for (rest, said) in [
        (Some(Ok(two()[two().len() - 500..].to_vec())), "this update"),
        (
            Some(Err(std::io::Error::other("reset"))),
            "reset; this update",
        ),
        (None, ""),
    ] {
        let (app, engine) = app(Script::Hold);
        start(&app, "").await;
        let (sends, body) = unbounded();
        sends.unbounded_send(Ok(Bytes::from(cut()))).unwrap();
        let first = {
            let (app, body) = (Arc::clone(&app), Body::from_stream(body));
            tokio::spawn(async move { push_to(&app, "/update_weights", body).await })
        };
        while engine.told() < 2 {
            tokio::task::yield_now().await;
        }
        let (status, _) = control(&app, "POST", "/abort_weight_update", "").await;
        assert_eq!(status, 200);
        start(&app, "").await;
        assert_eq!(pushed(&app, &two()).await.0, 200);
        engine.obeyed();
        if let Some(rest) = rest {
            sends.unbounded_send(rest.map(Bytes::from)).unwrap();
            drop(sends);
            let (status, answer) = first.await.unwrap();
            assert!([400, 409].contains(&status), "{answer}");
            let words = format!("{said} was ended by somebody else");
            assert!(answer.contains(&words), "{answer}");
        } else {
            first.abort();
            assert!(first.await.is_err());
        }
        assert_eq!(engine.obeyed(), [""; 0]);
        let (status, answer) = control(&app, "POST", "/finish_weight_update", "").await;
        assert_eq!(status, 200, "{answer}");
    }
}

#[tokio::test]
async fn an_engine_whose_queue_is_full_is_told_again_that_an_update_is_over() {
    let (app, engine) = app(Script::Hold);
    start(&app, "").await;
    assert_eq!(pushed(&app, &two()).await.0, 200);
    engine.obeyed();
    engine.fill(2);
    let (status, answer) = control(&app, "POST", "/abort_weight_update", "").await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(engine.obeyed(), ["abandon: it was aborted by hand"; 3]);
    start(&app, "").await;
    let leaving = {
        let app = Arc::clone(&app);
        tokio::spawn(async move { push_to(&app, "/update_weights", stalling(cut())).await })
    };
    while engine.told() < 2 {
        tokio::task::yield_now().await;
    }
    engine.fill(2);
    leaving.abort();
    assert!(leaving.await.is_err());
    let ended = async {
        while engine.rest().updating {
            tokio::task::yield_now().await;
        }
    };
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, ended).await.unwrap();
}

/// As after a minute of full queues: whoever comes next cannot open one, and can end it.
#[tokio::test]
async fn an_update_that_only_the_engine_has_is_ended_by_hand_whoever_began_another() {
    let (app, engine) = app(Script::Hold);
    start(&app, "").await;
    assert_eq!(pushed(&app, &two()).await.0, 200);
    app.updates.end(None).unwrap();
    start(&app, "").await;
    engine.obeyed();
    let (status, _) = control(&app, "POST", "/abort_weight_update", "").await;
    assert_eq!(status, 200);
    assert_eq!(engine.obeyed(), ["abandon: it was aborted by hand"]);
}
