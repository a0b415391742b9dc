//! `/target` of the admin port.

use std::time::Duration;

use plimsoll_crds::v1alpha1::Target;
use plimsoll_crds::v1alpha1::adapters::AdapterScale;
use plimsoll_crds::v1alpha1::boot::BootAdapter;
use plimsoll_crds::v1alpha1::report::DynamicAdapterState;

use super::idle::until;
use super::*;
use crate::engine::handle::EngineState;
use crate::engine::rest::RestView;
use crate::http::adapters::follow_adapters;
use crate::http::admin;
use crate::http::app::HttpLimits;
use crate::http::generator::Generator;
use crate::http::testing::empty_app;
use crate::http::testing::{Script, app};
use crate::target::Held;
use crate::target::tests::{asleep, idle, target};

async fn ask(app: &Arc<App>, method: &str, body: Body) -> (u16, Value) {
    ask_at("/target", app, method, body).await
}

async fn ask_at(path: &str, app: &Arc<App>, method: &str, body: Body) -> (u16, Value) {
    use hyper::service::Service;
    let service =
        hyper_util::service::TowerToHyperService::new(admin::router(Arc::clone(app), None));
    let request = Request::builder().method(method).uri(path).body(body);
    let response = service.call(request.unwrap()).await.unwrap();
    (response.status().as_u16(), json(response).await)
}

async fn put(app: &Arc<App>, target: &impl serde::Serialize) -> (u16, Value) {
    let body = serde_json::to_string(target).unwrap();
    ask(app, "PUT", Body::from(body)).await
}

async fn put_sleep(app: &Arc<App>, order: &impl serde::Serialize) -> (u16, Value) {
    let body = serde_json::to_string(order).unwrap();
    ask_at("/target/sleep", app, "PUT", Body::from(body)).await
}

fn told_app() -> Arc<App> {
    let app = empty_app(HttpLimits {
        body_timeout: Duration::from_millis(50),
        ..HttpLimits::default()
    });
    app.identity.target.set(Held::new(target(3, 1000))).unwrap();
    app
}

#[tokio::test]
async fn a_target_is_answered_with_what_became_of_it_and_reports_repeat_that() {
    let app = told_app();
    let (status, answer) = put(&app, &target(4, 1000)).await;
    assert_eq!((status, &answer["outcome"]), (200, &"Applied".into()));
    assert_eq!(answer["generation"], 4);
    assert_eq!(answer["overageBytes"], 0);
    let (status, answer) = put(&app, &target(5, 2000)).await;
    assert_eq!((status, &answer["outcome"]), (200, &"Refused".into()));
    let words = answer["message"].as_str().unwrap();
    assert!(words.contains("needs a restart"), "{words}");
    assert_eq!(ask(&app, "GET", Body::empty()).await, (200, answer.clone()));
    let report = serde_json::to_value(app.report()).unwrap();
    assert_eq!(report["target"], answer);
    let (status, error) = put(&app, &target(4, 1000)).await;
    assert_eq!(
        (status, &error["error"]["code"]),
        (409, &"older_target".into())
    );
    assert_eq!(ask(&app, "GET", Body::empty()).await, (200, answer));
}

#[tokio::test]
async fn what_is_no_target_changes_nothing() {
    let app = told_app();
    let mut newer = serde_json::to_value(target(4, 1000)).unwrap();
    newer["nap"] = 1.into();
    for (body, part) in [
        (Body::empty(), "no target: EOF"),
        (Body::from("{"), "no target: EOF"),
        (Body::from("[]"), "no target"),
        (Body::from(newer.to_string()), "unknown field `nap`"),
    ] {
        let (status, error) = ask(&app, "PUT", body).await;
        let message = error["error"]["message"].as_str().unwrap();
        assert_eq!(status, 400, "{part}");
        assert!(message.contains(part), "{part}: {message}");
    }
    let large = " ".repeat(65 * 1024);
    assert_eq!(ask(&app, "PUT", Body::from(large)).await.0, 413);
    let never = futures::stream::pending::<Result<Vec<u8>, std::io::Error>>();
    assert_eq!(ask(&app, "PUT", Body::from_stream(never)).await.0, 408);
    assert_eq!(ask(&app, "POST", Body::empty()).await.0, 405);
    assert_eq!(ask(&app, "GET", Body::empty()).await.1["generation"], 3);
}

#[tokio::test]
async fn an_engine_without_a_target_says_why() {
    let opening = empty_app(HttpLimits::default());
    let (status, error) = put(&opening, &target(1, 1000)).await;
    assert_eq!(
        (status, &error["error"]["code"]),
        (503, &"model_loading".into())
    );
    assert_eq!(opening.report().target, None);
    let mut by_flags = empty_app(HttpLimits::default());
    Arc::get_mut(&mut by_flags)
        .unwrap()
        .identity
        .revision
        .clear();
    let (status, error) = put(&by_flags, &target(1, 1000)).await;
    assert_eq!(
        (status, &error["error"]["code"]),
        (404, &"no_target".into())
    );
}

/// Waits until the target's outcome is as named.
async fn comes_to(app: &Arc<App>, outcome: &str) -> Value {
    let come = async {
        loop {
            let (_, answer) = ask(app, "GET", Body::empty()).await;
            if answer["outcome"] == outcome {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), come)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_target_that_sleeps_puts_the_engine_to_sleep_and_the_next_wakes_it() {
    let (app, engine) = app(Script::Say("yes"));
    app.identity.target.set(Held::new(target(3, 1000))).unwrap();
    for (told, obeyed) in [
        (asleep(4, 1), "sleep 1 keep"),
        (asleep(5, 2), "sleep 2 keep"),
        (target(6, 1000), "wake true true"),
    ] {
        let (status, answer) = put(&app, &told).await;
        // Whoever tells is not kept waiting.
        assert_eq!((status, &answer["outcome"]), (200, &"Deferred".into()));
        let applied = comes_to(&app, "Applied").await;
        assert_eq!(applied["generation"], told.generation);
        assert_eq!(engine.obeyed(), [obeyed]);
        // The same again is no command.
        let (_, answer) = put(&app, &told).await;
        assert_eq!(answer["outcome"], "Applied");
        assert!(engine.obeyed().is_empty());
    }
}

/// Waking is wanted for as long as the target says so.
#[tokio::test]
async fn a_wake_that_failed_is_tried_again_until_it_is_done_or_no_longer_wanted() {
    let (app, engine) = app(Script::Say("yes"));
    app.identity.target.set(Held::new(target(3, 1000))).unwrap();
    put(&app, &asleep(4, 1)).await;
    comes_to(&app, "Applied").await;
    engine.fail_wakes(1);
    put(&app, &target(5, 1000)).await;
    let refused = comes_to(&app, "Refused").await;
    let words = refused["message"].as_str().unwrap();
    assert!(words.starts_with("did not wake: "), "{words}");
    assert!(words.ends_with("it is tried again"), "{words}");
    assert_eq!(comes_to(&app, "Applied").await["generation"], 5);
    engine.obeyed();
    put(&app, &asleep(6, 1)).await;
    comes_to(&app, "Applied").await;
    engine.fail_wakes(u32::MAX);
    put(&app, &target(7, 1000)).await;
    comes_to(&app, "Refused").await;
    put(&app, &asleep(8, 1)).await;
    comes_to(&app, "Applied").await;
    let obeyed = engine.obeyed();
    assert_eq!(
        obeyed.last().map(String::as_str),
        Some("sleep 1 keep"),
        "{obeyed:?}"
    );
}

#[tokio::test]
async fn who_is_about_to_sleep_is_not_ready_and_a_sleep_that_fails_says_why() {
    let (app, engine) = app(Script::Say("yes"));
    app.identity.target.set(Held::new(target(3, 1000))).unwrap();
    assert!(app.serving().is_ok());
    // Commands wait in this state until they are taken.
    engine.state.send_replace(EngineState::Draining);
    put(&app, &asleep(4, 1)).await;
    while engine.commands() == 0 {
        tokio::task::yield_now().await;
    }
    engine.state.send_replace(EngineState::Serving);
    let why = app.serving().unwrap_err().message;
    assert!(why.contains("about to sleep"), "{why}");
    drop(engine.take_commands());
    let refused = comes_to(&app, "Refused").await;
    let words = refused["message"].as_str().unwrap();
    assert!(
        words.starts_with("did not go to sleep: the engine ended"),
        "{words}"
    );
    assert!(app.serving().is_ok());
    put(&app, &asleep(4, 1)).await;
    comes_to(&app, "Applied").await;
}

#[tokio::test]
async fn a_wake_that_meets_an_open_update_is_repeated_until_that_is_over() {
    let (app, engine) = app(Script::Say("yes"));
    app.identity.target.set(Held::new(target(3, 1000))).unwrap();
    put(&app, &asleep(4, 1)).await;
    comes_to(&app, "Applied").await;
    engine.set_rest(RestView {
        updating: true,
        ..engine.rest()
    });
    put(&app, &target(5, 1000)).await;
    let refused = comes_to(&app, "Refused").await;
    let words = refused["message"].as_str().unwrap();
    assert_eq!(words, "did not wake: an update is open; it is tried again");
    engine.end_update();
    assert_eq!(comes_to(&app, "Applied").await["generation"], 5);
}

#[tokio::test]
async fn a_sleep_told_alone_is_carried_out_and_the_target_stays_of_its_generation() {
    let (app, engine) = app(Script::Say("yes"));
    app.identity.target.set(Held::new(target(3, 1000))).unwrap();
    for (told, obeyed) in [
        (asleep(5, 1), "sleep 1 keep"),
        (asleep(6, 2), "sleep 2 keep"),
        (target(7, 1000), "wake true true"),
    ] {
        let (status, answer) = put_sleep(&app, &told.sleep_order()).await;
        assert_eq!((status, &answer["outcome"]), (200, &"Deferred".into()));
        assert_eq!(answer["generation"], told.generation);
        // Both are the same change.
        assert_eq!(comes_to(&app, "Applied").await["generation"], 3);
        let (status, sleep) = ask_at("/target/sleep", &app, "GET", Body::empty()).await;
        assert_eq!((status, &sleep["outcome"]), (200, &"Applied".into()));
        assert_eq!(sleep["generation"], told.generation);
        assert_eq!(engine.obeyed(), [obeyed]);
        let report = serde_json::to_value(app.report()).unwrap();
        assert_eq!(report["sleep"], sleep);
        assert_eq!(report["target"]["generation"], 3);
    }
    let (status, error) = put_sleep(&app, &asleep(6, 1).sleep_order()).await;
    assert_eq!(
        (status, &error["error"]["code"]),
        (409, &"older_target".into())
    );
    for body in [
        "{",
        "[]",
        r#"{"generation": 8, "nap": 1}"#,
        r#"{"sleep": {"level": 1}}"#,
    ] {
        let (status, error) = ask_at("/target/sleep", &app, "PUT", Body::from(body)).await;
        let message = error["error"]["message"].as_str().unwrap();
        assert_eq!(status, 400, "{body}");
        assert!(message.starts_with("the body is no sleep"), "{message}");
    }
    // A whole target is no sleep.
    assert_eq!(put_sleep(&app, &target(8, 1000)).await.0, 400);
    assert!(engine.obeyed().is_empty());
    let never = futures::stream::pending::<Result<Vec<u8>, std::io::Error>>();
    let large = " ".repeat(65 * 1024);
    let app = told_app();
    for (body, status) in [(Body::from(large), 413), (Body::from_stream(never), 408)] {
        assert_eq!(ask_at("/target/sleep", &app, "PUT", body).await.0, status);
    }
}

/// Its clock and what wakes it are the engine's own matter, and are handed on at once.
#[tokio::test]
async fn a_clock_told_alone_is_followed() {
    let (app, engine) = app(Script::Say("yes"));
    app.identity.target.set(Held::new(target(3, 1000))).unwrap();
    let (status, answer) = put_sleep(&app, &idle(4, 90, true).sleep_order()).await;
    assert_eq!((status, &answer["outcome"]), (200, &"Applied".into()));
    let policy = engine.policy().unwrap();
    assert_eq!(policy.after.map(|(after, _)| after.as_secs()), Some(90));
    assert!(policy.wake_on_request);
}

fn adapter(name: &str, of: &str, scale: f64) -> BootAdapter {
    BootAdapter {
        name: name.to_owned(),
        path: folder(of),
        scale: AdapterScale(scale),
    }
}

fn folder(name: &str) -> String {
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    fixtures.join("adapters").join(name).display().to_string()
}

#[tokio::test]
async fn an_adapter_whose_read_hangs_keeps_no_other_and_is_loaded_when_it_ends() {
    let (app, engine) = app(Script::Say("x"));
    let mut first = target(3, 1000);
    first.adapters = vec![adapter("hangs", "plain", 1.0), adapter("sql", "plain", 1.0)];
    app.identity.target.set(Held::new(first)).unwrap();
    follow_adapters(&app);
    until(|| app.dynamic().serves("sql")).await;
    let rows = app.report().dynamic_adapters;
    let hangs = rows.iter().find(|row| row.name == "hangs").unwrap();
    assert_eq!(hangs.state, DynamicAdapterState::Loading);
    engine.let_go();
    until(|| app.dynamic().serves("hangs")).await;
    assert!(app.serving().is_ok());
    assert_eq!(engine.obeyed(), ["load sql true", "load hangs true"]);
}

/// Adapters of targets: the pod is ready once all that it began with were tried, a broken one keeps no
/// other from being loaded, and a later target loads and unloads beside what is answered.
#[tokio::test]
async fn a_target_has_its_adapters_loaded_and_unloaded_and_tells_which_are_broken() {
    let (app, engine) = app(Script::Say("x"));
    let mut first = target(3, 1000);
    first.adapters = vec![
        adapter("broken", "brain-that-is-gone", 1.0),
        adapter("sql", "plain", 1.0),
    ];
    app.identity.target.set(Held::new(first.clone())).unwrap();
    let waits = app.serving().unwrap_err();
    assert_eq!(waits.code, Some("adapters_loading"));
    let rows = |app: &App| -> Vec<(String, DynamicAdapterState)> {
        let rows = app.report().dynamic_adapters.into_iter();
        rows.map(|row| (row.name, row.state)).collect()
    };
    let loading = DynamicAdapterState::Loading;
    let both = ["broken", "sql"].map(|name| (name.to_owned(), loading));
    assert_eq!(rows(&app), both);
    follow_adapters(&app);
    until(|| app.serving().is_ok()).await;
    let (loaded, refused) = (DynamicAdapterState::Serving, DynamicAdapterState::Refused);
    let expected = [("sql".to_owned(), loaded), ("broken".to_owned(), refused)];
    assert_eq!(rows(&app), expected);
    let told = &app.report().dynamic_adapters[1].message;
    assert!(told.contains("adapter `broken`"), "{told}");
    assert_eq!(engine.obeyed(), ["load sql true"]);

    // The model itself is called so: it goes on to be the model.
    let second = Target {
        generation: 4,
        adapters: vec![
            adapter("other", "plain", 0.5),
            adapter("tiny", "plain", 1.0),
        ],
        ..first
    };
    assert_eq!(put(&app, &second).await.0, 200);
    until(|| rows(&app).len() == 2 && rows(&app)[1].1 == refused).await;
    let expected = [("other".to_owned(), loaded), ("tiny".to_owned(), refused)];
    assert_eq!(rows(&app), expected);
    assert!(app.serving().is_ok(), "what comes later takes nothing away");
    let row = &app.report().dynamic_adapters[0];
    assert!(row.scale == AdapterScale(0.5) && row.path == folder("plain") && row.rank == 2);
    let told = &app.report().dynamic_adapters[1].message;
    assert!(told.contains("the model itself is called so"), "{told}");
    let steps = ["unload broken", "unload sql", "load other true"];
    assert_eq!(engine.obeyed(), steps);
}
