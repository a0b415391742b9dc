//! `/quota` of the admin port, and the memory of targets.

use super::*;
use crate::engine::handle::EngineState;
use crate::http::admin;
use crate::http::app::HttpLimits;
use crate::http::testing::{Script, Scripted, app, empty_app};
use crate::resizes::tests::{resizes, target};
use crate::target::Held;

async fn ask(app: &Arc<App>, method: &str, path: &str, body: &Value) -> (u16, Value) {
    use hyper::service::Service;
    let service =
        hyper_util::service::TowerToHyperService::new(admin::router(Arc::clone(app), None));
    let request = Request::builder().method(method).uri(path);
    let request = request.body(Body::from(body.to_string()));
    let response = service.call(request.unwrap()).await.unwrap();
    (response.status().as_u16(), json(response).await)
}

pub(super) fn told_app() -> (Arc<App>, Arc<Scripted>) {
    let (app, engine) = app(Script::Say("yes"));
    let limit = || Some(plimsoll_planner::Bytes::measured(1 << 30));
    let resizes = Arc::new(resizes(limit));
    let held = Held::new(target(3, [8, 9])).with(Arc::clone(&resizes));
    app.resizes.set(resizes).unwrap();
    app.identity.target.set(held).unwrap();
    (app, engine)
}

fn both(first: &str, second: &str) -> Value {
    serde_json::json!({"ranks": [{"rank": 1, "limit": second}, {"rank": 0, "limit": first}]})
}

#[tokio::test]
async fn a_change_by_hand_is_answered_with_what_became_of_it() {
    let (app, engine) = told_app();
    let (status, first) = ask(&app, "GET", "/quota", &Value::Null).await;
    assert_eq!((status, &first["outcome"]), (200, &"Applied".into()));
    let mut asked = both("20Mi", "21Mi");
    asked["revision"] = 4.into();
    let (status, answer) = ask(&app, "POST", "/quota", &asked).await;
    assert_eq!(
        (status, &answer["outcome"]),
        (200, &"Applied".into()),
        "{answer}"
    );
    assert_eq!(answer["revision"], 4);
    assert_eq!(answer["ranks"][0]["quotaBytes"], 20 << 20);
    assert_eq!(answer["ranks"][1]["budgetBytes"], 21 << 20);
    let blocks = answer["kvCache"]["blocks"].as_u64().unwrap();
    assert!(blocks > first["kvCache"]["blocks"].as_u64().unwrap());
    assert_eq!(engine.obeyed(), [format!("resize {blocks}")]);
    // What is in force is no command.
    assert_eq!(ask(&app, "POST", "/quota", &asked).await, (200, answer));
    assert!(engine.obeyed().is_empty());
    asked["revision"] = 3.into();
    let (status, error) = ask(&app, "POST", "/quota", &asked).await;
    assert_eq!(
        (status, &error["error"]["code"]),
        (409, &"older_revision".into())
    );
    let size = serde_json::json!({"kvCache": {"size": 4 << 20}});
    let (status, answer) = ask(&app, "POST", "/quota", &size).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["kvCache"]["sizeBytes"], 4 << 20);
    assert_eq!(answer["ranks"][0]["quotaBytes"], 20 << 20, "as before");
}

#[tokio::test]
async fn what_takes_longer_is_deferred_and_what_the_engine_refuses_is_refused() {
    let (app, engine) = told_app();
    // Commands wait in this state until they are taken.
    engine.state.send_replace(EngineState::Draining);
    let (status, answer) = ask(&app, "POST", "/quota", &both("6Mi", "7Mi")).await;
    assert_eq!((status, &answer["outcome"]), (202, &"Deferred".into()));
    assert!(answer["overageBytes"].as_u64().unwrap() > 0);
    assert!(answer["message"].as_str().unwrap().contains(" blocks"));
    engine.state.send_replace(EngineState::Serving);
    drop(engine.take_commands());
    let end = async {
        loop {
            let (_, answer) = ask(&app, "GET", "/quota", &Value::Null).await;
            if answer["outcome"] == "Refused" {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    };
    let limit = std::time::Duration::from_secs(10);
    let answer = tokio::time::timeout(limit, end).await.unwrap();
    let words = answer["message"].as_str().unwrap();
    assert!(
        words.contains("keeps its size: the engine ended"),
        "{words}"
    );
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_by_field_and_what_cannot_hold_with_the_numbers() {
    let (app, engine) = told_app();
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let row = |limit: &str| {
        json(&format!(
            r#"{{"ranks": [{{"rank": 0, "limit": {limit}}}]}}"#
        ))
    };
    for (body, status, part) in [
        (json("{}"), 400, "nothing is asked for"),
        (json("[]"), 400, "must be a JSON object"),
        (
            json(r#"{"quota": "1Gi"}"#),
            400,
            "quota: this route does not know it",
        ),
        (json(r#"{"ranks": {}}"#), 400, "ranks: must be a list"),
        (json(r#"{"ranks": [7]}"#), 400, "ranks: must be a list"),
        (
            json(r#"{"ranks": []}"#),
            400,
            "rank 0 is missing; give a limit for each of the 2",
        ),
        (row("\"9Mi\""), 400, "rank 1 is missing"),
        (
            json(r#"{"ranks": [{"rank": 2, "limit": "9Mi"}]}"#),
            400,
            "rank 2 does not exist",
        ),
        (
            json(r#"{"ranks": [{"rank": -1, "limit": "9Mi"}]}"#),
            400,
            "rank -1 does not exist",
        ),
        (
            json(r#"{"ranks": [{"limit": "9Mi"}]}"#),
            400,
            "rank null does not exist",
        ),
        (
            json(r#"{"ranks": [{"rank": 0, "limit": "9Mi"}, {"rank": 0, "limit": "9Mi"}]}"#),
            400,
            "rank 0 is there twice",
        ),
        (
            json(r#"{"ranks": [{"rank": 0, "limit": "9Mi", "burst": 1}]}"#),
            400,
            "burst: this route does not know it",
        ),
        (
            row("\"-9Mi\""),
            400,
            "ranks[rank=0].limit: -9Mi is not more than zero",
        ),
        (row("-9"), 400, "-9 is not more than zero"),
        (row("0"), 400, "0 is not more than zero"),
        (row("\"99999999Ei\""), 400, "more than 8Ei"),
        (row("\"much\""), 400, "is not a quantity"),
        (row("true"), 400, "must be a quantity"),
        (row("null"), 400, "is not a quantity"),
        (
            json(r#"{"kvCache": "1Gi"}"#),
            400,
            "kvCache: must be an object",
        ),
        (json(r#"{"kvCache": {}}"#), 400, "kvCache.size: "),
        (
            json(r#"{"kvCache": {"size": "1Gi", "blocks": 3}}"#),
            400,
            "blocks: ",
        ),
        (
            json(r#"{"revision": -1}"#),
            400,
            "revision: must be a whole number",
        ),
        (json(r#"{"kvCache": {"size": "4Ki"}}"#), 422, "kvCache.size"),
        (both("100Ki", "9Mi"), 422, "rank 0 needs"),
        (
            both("700Mi", "700Mi"),
            422,
            "the memory limit of this container or machine is 1.00 GiB",
        ),
    ] {
        let (found, error) = ask(&app, "POST", "/quota", &body).await;
        let message = error["error"]["message"].as_str().unwrap_or_default();
        assert_eq!(found, status, "{part}: {error}");
        assert!(message.contains(part), "{part}: {message}");
    }
    assert!(engine.obeyed().is_empty());
    let (_, now) = ask(&app, "GET", "/quota", &Value::Null).await;
    assert_eq!(now["ranks"][0]["quotaBytes"], 8 << 20);
    let opening = empty_app(HttpLimits::default());
    let (status, error) = ask(&opening, "POST", "/quota", &both("9Mi", "9Mi")).await;
    assert_eq!(
        (status, &error["error"]["code"]),
        (503, &"model_loading".into())
    );
}

#[tokio::test]
async fn a_target_with_other_memory_is_carried_out_and_outlived_by_a_change_by_hand() {
    let (app, engine) = told_app();
    let put = |target| serde_json::to_value(target).unwrap();
    let (status, answer) = ask(&app, "PUT", "/target", &put(target(4, [20, 21]))).await;
    assert_eq!(
        (status, &answer["outcome"]),
        (200, &"Applied".into()),
        "{answer}"
    );
    assert_eq!(engine.obeyed().len(), 1);
    let (_, now) = ask(&app, "GET", "/quota", &Value::Null).await;
    assert_eq!(now["ranks"][0]["quotaBytes"], 20 << 20);
    assert_eq!(
        ask(&app, "POST", "/quota", &both("8Mi", "8Mi")).await.0,
        200
    );
    assert_eq!(engine.obeyed().len(), 1);
    ask(&app, "PUT", "/target", &put(target(5, [20, 21]))).await;
    assert!(engine.obeyed().is_empty(), "the resource says nothing new");
    let (_, answer) = ask(&app, "PUT", "/target", &put(target(6, [9, 9]))).await;
    assert_eq!(
        (&answer["outcome"], &answer["generation"]),
        (&"Applied".into(), &6.into())
    );
    assert_eq!(engine.obeyed().len(), 1);
    let (status, answer) = ask(&app, "PUT", "/target", &put(target(7, [700, 700]))).await;
    assert_eq!((status, &answer["outcome"]), (200, &"Refused".into()));
    let words = answer["message"].as_str().unwrap();
    assert!(
        words.contains("is 1.00 GiB; this engine keeps to generation 6"),
        "{words}"
    );
}

/// The operator asks again only for what did not come about: it was told that this would.
#[tokio::test]
async fn a_target_is_followed_although_whoever_told_it_left_before_the_answer() {
    let (app, engine) = told_app();
    // Commands wait in this state until they are taken.
    engine.state.send_replace(EngineState::Draining);
    let mut told = serde_json::to_value(target(4, [6, 7])).unwrap();
    told["sleep"] = serde_json::json!({"level": 1});
    let leaving = {
        let app = Arc::clone(&app);
        tokio::spawn(async move { ask(&app, "PUT", "/target", &told).await })
    };
    while engine.commands() == 0 {
        tokio::task::yield_now().await;
    }
    leaving.abort();
    assert!(leaving.await.is_err());
    engine.state.send_replace(EngineState::Serving);
    drop(engine.take_commands());
    let limit = std::time::Duration::from_secs(10);
    let sleeps = async {
        while engine.told() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(limit, sleeps).await.unwrap();
    assert_eq!(engine.obeyed(), ["sleep 1 keep"]);
}

/// Both ask in the same moment: nothing keeps the first from holding it, and it is not told so.
#[tokio::test]
async fn who_is_overtaken_before_it_began_is_told_that_and_not_that_it_cannot_hold() {
    let (app, engine) = told_app();
    let told = serde_json::to_value(target(4, [6, 7])).unwrap();
    let asked = both("20Mi", "21Mi");
    let ((by_hand, error), (status, report)) = tokio::join!(
        ask(&app, "POST", "/quota", &asked),
        ask(&app, "PUT", "/target", &told),
    );
    let code = error["error"]["code"].as_str();
    assert_eq!((by_hand, code), (409, Some("overtaken")), "{error}");
    assert_eq!((status, &report["outcome"]), (200, &"Applied".into()));
    assert_eq!(engine.obeyed().len(), 1, "the first never began");
    let (_, now) = ask(&app, "GET", "/quota", &Value::Null).await;
    assert_eq!(now["ranks"][0]["quotaBytes"], 6 << 20);
}
