//! Requests for adapters that the target lists and that are not loaded yet.

use std::time::Duration;

use plimsoll_crds::v1alpha1::adapters::AdapterScale;
use plimsoll_crds::v1alpha1::boot::BootAdapter;
use serde_json::json as object;

use super::idle::{falls_asleep, until};
use super::*;
use crate::engine::handle::EngineState;
use crate::engine::rest::RestView;
use crate::http::adapters::follow_adapters;
use crate::http::app::{HttpLimits, WAITING_MOST};
use crate::http::testing::{Script, Scripted, app_with};
use crate::target::Held;
use crate::target::tests::target;

/// An engine that dozes, told of these adapters.
fn dozing(adapters: &[(&str, &str)], patience: Duration) -> (Arc<App>, Arc<Scripted>) {
    let limits = HttpLimits {
        wake_timeout: patience,
        ..HttpLimits::default()
    };
    let (app, engine) = app_with(Script::Say("x"), limits);
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/adapters");
    let row = |(name, of): &(&str, &str)| BootAdapter {
        name: (*name).to_owned(),
        path: fixtures.join(of).display().to_string(),
        scale: AdapterScale::ONE,
    };
    let mut told = target(3, 1000);
    told.adapters = adapters.iter().map(row).collect();
    app.identity.target.set(Held::new(told)).unwrap();
    falls_asleep(&engine, true);
    follow_adapters(&app);
    (app, engine)
}

const LONG: Duration = Duration::from_secs(60);

fn body(model: &str) -> String {
    object!({"model": model, "prompt": "x", "max_tokens": 2}).to_string()
}

fn ask(app: &Arc<App>, model: &str) -> tokio::task::JoinHandle<Response> {
    let (app, body) = (Arc::clone(app), body(model));
    tokio::spawn(async move { post(&app, "/v1/completions", &body).await })
}

async fn refused(answer: Response, status: u16, code: &str) -> String {
    assert_eq!(answer.status(), status);
    let error = json(answer).await;
    assert_eq!(error["error"]["code"], code, "{error}");
    error["error"]["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_request_for_one_wakes_the_engine_waits_for_the_load_and_is_answered_with_it() {
    let (app, engine) = dozing(&[("sql", "plain")], LONG);
    // Who only looks wakes nobody, and sees what there is.
    assert_eq!(post(&app, "/tokenize", &body("sql")).await.status(), 400);
    let tokens = object!({"model": "sql", "prompt": "x"}).to_string();
    assert_eq!(post(&app, "/tokenize", &tokens).await.status(), 200);
    assert_eq!(get(&app, "/v1/models/sql").await.status(), 404);
    assert_eq!(engine.rouses(), 0);

    let chat =
        object!({"model": "sql", "messages": [{"role": "user", "content": "hi"}]}).to_string();
    let of_chat = {
        let app = Arc::clone(&app);
        tokio::spawn(async move { post(&app, "/v1/chat/completions", &chat).await })
    };
    let all = [ask(&app, "sql"), of_chat];
    until(|| engine.rouses() >= 2).await;
    assert_eq!((engine.taken(), engine.obeyed().len()), (0, 0));
    assert!(all.iter().all(|one| !one.is_finished()));
    engine.set_rest(RestView::default());
    engine.state.send_replace(EngineState::Serving);
    for one in all {
        assert_eq!(json(one.await.unwrap()).await["model"], "sql");
    }
    assert_eq!(engine.obeyed(), ["load sql true"]);
    let taken = engine.take();
    assert!(taken.iter().all(|of| of.adapter.as_deref() == Some("sql")));
    assert_eq!(taken.len(), 2);
}

#[tokio::test]
async fn a_sleep_that_no_request_ends_refuses_it_and_so_does_one_that_begins_meanwhile() {
    let (app, engine) = dozing(&[("sql", "plain")], LONG);
    falls_asleep(&engine, false);
    refused(
        post(&app, "/v1/completions", &body("sql")).await,
        503,
        "engine_asleep",
    )
    .await;
    assert_eq!(engine.rouses(), 0);
    falls_asleep(&engine, true);
    let waits = ask(&app, "sql");
    until(|| engine.rouses() > 0).await;
    engine.set_rest(RestView {
        again_after: Some(Duration::from_secs(16)),
        trouble: "the memory is taken".to_owned(),
        ..RestView::default()
    });
    let answer = waits.await.unwrap();
    assert_eq!(answer.headers()["retry-after"], "16");
    let told = refused(answer, 503, "engine_asleep").await;
    assert!(told.contains("the memory is taken"), "{told}");
    assert_eq!(engine.taken(), 0);
}

#[tokio::test]
async fn one_that_cannot_be_loaded_is_a_404_that_says_why_and_wakes_nobody_again() {
    let (app, engine) = dozing(&[("broken", "brain-that-is-gone")], LONG);
    let waits = ask(&app, "broken");
    until(|| engine.rouses() > 0).await;
    engine.set_rest(RestView::default());
    engine.state.send_replace(EngineState::Serving);
    let told = refused(waits.await.unwrap(), 404, "model_not_found").await;
    assert!(
        told.contains("could not be loaded") && told.contains("brain-that-is-gone"),
        "{told}"
    );
    falls_asleep(&engine, true);
    let rouses = engine.rouses();
    let answer = post(&app, "/v1/completions", &body("broken")).await;
    assert_eq!(refused(answer, 404, "model_not_found").await, told);
    // Nobody lists it.
    let answer = post(&app, "/v1/completions", &body("other")).await;
    let told = refused(answer, 404, "model_not_found").await;
    assert!(told.contains("served: tiny, org/tiny"), "{told}");
    assert_eq!(engine.rouses(), rouses);
}

#[tokio::test]
async fn so_many_wait_at_once_each_for_so_long_and_who_leaves_makes_room() {
    let (app, engine) = dozing(&[("sql", "plain")], LONG);
    let mut all: Vec<_> = (0..WAITING_MOST).map(|_| ask(&app, "sql")).collect();
    until(|| app.awaiting.available_permits() == 0).await;
    refused(
        post(&app, "/v1/completions", &body("sql")).await,
        429,
        "queue_full",
    )
    .await;
    let left = all.pop().unwrap();
    left.abort();
    assert!(left.await.unwrap_err().is_cancelled());
    assert_eq!(app.awaiting.available_permits(), 1);
    engine.set_rest(RestView::default());
    engine.state.send_replace(EngineState::Serving);
    for one in all {
        assert_eq!(one.await.unwrap().status(), 200);
    }
    assert_eq!(app.awaiting.available_permits(), WAITING_MOST);

    let (app, engine) = dozing(&[("sql", "plain")], Duration::from_millis(30));
    let answer = post(&app, "/v1/completions", &body("sql")).await;
    assert!(answer.headers().contains_key("retry-after"));
    let told = refused(answer, 503, "adapters_loading").await;
    assert!(
        told.contains("adapter \"sql\"") || told.contains("adapter `sql`"),
        "{told}"
    );
    assert_eq!(
        (engine.taken(), app.awaiting.available_permits()),
        (0, WAITING_MOST)
    );
}
