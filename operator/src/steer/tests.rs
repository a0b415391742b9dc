//! What status says of engines, and calls to an engine that answers over a real socket.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes as Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::put;
use kube::runtime::reflector::ObjectRef;
use plimsoll_crds::v1alpha1::InferenceDeployment;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};

use super::*;
use crate::mandate::Mandate;

pub(super) fn told(
    generation: i64,
    outcome: TargetOutcome,
    words: &str,
    overage: u64,
) -> TargetReport {
    TargetReport {
        generation,
        outcome,
        message: words.to_owned(),
        overage_bytes: overage,
    }
}

pub(super) fn one(name: &str, hears: Hears, reported: Option<TargetReport>) -> Engine {
    Engine {
        pod: name.to_owned(),
        uid: format!("uid-{name}"),
        hears,
        reported,
        confirmed: true,
        awake: true,
        limit: None,
        tries: Tries::default(),
    }
}

#[test]
fn status_names_the_pod_and_the_numbers() {
    use TargetOutcome::{Applied, Deferred, Refused};
    let applied = one("a", Hears::Yes, Some(told(4, Applied, "", 0)));
    let stand = |engines: &[Engine]| steer(4, engines).stand;
    assert_eq!(stand(&[]), Stand::Nobody);
    assert_eq!(
        stand(&[applied.clone(), one("z", Hears::Ends, None)]),
        Stand::Applied("generation 4 is in force in all engines (1)".to_owned())
    );
    let pending = |engine: Engine| match stand(&[applied.clone(), engine]) {
        Stand::Pending(words) => words,
        other => panic!("{other:?}"),
    };
    let begin = "generation 4 is in force in 1 of 2 engines; pod b";
    for (hears, words) in [
        (Hears::Yes, "is being told"),
        (Hears::Loading, "is loading"),
        (Hears::Silent, "is not heard"),
    ] {
        assert_eq!(pending(one("b", hears, None)), format!("{begin} {words}"));
    }
    let mut failed = one("b", Hears::Yes, Some(told(3, Applied, "", 0)));
    failed.tries.failed = Some(Failed {
        generation: 4,
        times: 3,
        ago: Duration::ZERO,
        words: "connect: refused".to_owned(),
    });
    assert_eq!(
        pending(failed.clone()),
        format!("{begin} could not be told, and is told again: connect: refused")
    );
    let newer = one("b", Hears::Yes, Some(told(5, Applied, "", 0)));
    assert_eq!(
        pending(newer),
        format!("{begin} was told generation 5 already")
    );
    let sleepy = one(
        "b",
        Hears::Yes,
        Some(told(4, Deferred, "is going to sleep", 0)),
    );
    let words = "generation 4 is in force in 0 of 1 engines; pod b is going to sleep";
    assert_eq!(steer(4, &[sleepy]).stand, Stand::Deferred(words.to_owned()));
    let deferred = one("b", Hears::Yes, Some(told(4, Deferred, "", 3 << 20)));
    assert_eq!(
        stand(&[applied.clone(), deferred.clone()]),
        Stand::Deferred(format!("{begin} holds 3.00 MiB above it"))
    );
    let refused = one(
        "b",
        Hears::Yes,
        Some(told(4, Refused, "needs a restart", 0)),
    );
    assert_eq!(
        stand(&[deferred, failed, refused]),
        Stand::Refused(
            "generation 4 is in force in 0 of 3 engines; pod b: needs a restart".to_owned()
        )
    );
}

#[test]
fn pauses_double_up_to_a_minute_and_end_with_a_newer_generation() {
    let mut engine = one("a", Hears::Yes, None);
    let mut look = |generation, times, ago| {
        engine.tries.failed = Some(Failed {
            generation: 4,
            times,
            ago: Duration::from_secs(ago),
            words: String::new(),
        });
        let steer = steer(generation, std::slice::from_ref(&engine));
        (
            steer.tell.len(),
            steer.look_again.map(|rest| rest.as_secs()),
        )
    };
    assert_eq!(look(4, 1, 0), (0, Some(1)));
    assert_eq!(look(4, 1, 1), (1, None));
    assert_eq!(look(4, 4, 1), (0, Some(7)));
    assert_eq!(look(4, 7, 0), (0, Some(60)));
    assert_eq!(look(4, u32::MAX, 59), (0, Some(1)));
    assert_eq!(look(4, u32::MAX, 60), (1, None));
    assert_eq!(look(5, u32::MAX, 0), (1, None));
}

#[test]
fn an_answer_counts_until_a_report_may_have_come() {
    use TargetOutcome::Applied;
    let mut engine = one("a", Hears::Yes, Some(told(3, Applied, "", 0)));
    let mut look = |seconds| {
        let ago = Duration::from_secs(seconds);
        engine.tries.answer = Some((told(4, Applied, "", 0), ago));
        let steer = steer(4, std::slice::from_ref(&engine));
        (
            steer.tell.len(),
            steer.look_again.map(|rest| rest.as_secs()),
        )
    };
    assert_eq!(look(0), (0, Some(10)));
    assert_eq!(look(9), (0, Some(1)));
    // It began again, with the files of a moment ago.
    assert_eq!(look(10), (1, None));
}

/// An engine that answers one call for each permit, as its next answer says.
struct Remote {
    calls: mpsc::Sender<(String, Vec<u8>)>,
    permits: Semaphore,
    answer: (StatusCode, String),
}

async fn take(
    State(remote): State<Arc<Remote>>,
    headers: HeaderMap,
    body: Body,
) -> (StatusCode, String) {
    let token = headers["authorization"].to_str().unwrap().to_owned();
    remote.calls.send((token, body.to_vec())).await.unwrap();
    remote.permits.acquire().await.unwrap().forget();
    remote.answer.clone()
}

struct Setup {
    steering: Steering,
    nudged: mpsc::Receiver<ObjectRef<InferenceDeployment>>,
    calls: mpsc::Receiver<(String, Vec<u8>)>,
    remote: Arc<Remote>,
    port: u16,
}

impl Setup {
    async fn new(mandate: Mandate, status: StatusCode, answer: String) -> Setup {
        let (sender, calls) = mpsc::channel(16);
        let remote = Arc::new(Remote {
            calls: sender,
            permits: Semaphore::new(0),
            answer: (status, answer),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = Router::new()
            .route("/target", put(take))
            .with_state(Arc::clone(&remote));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let (nudges, nudged) = mpsc::channel(16);
        Setup {
            steering: Steering::new(nudges, mandate),
            nudged,
            calls,
            remote,
            port,
        }
    }

    fn tell(&self, generation: i64) {
        let addressee = Addressee {
            resource: ObjectRef::new("chat").within("team"),
            pod: "chat-1".to_owned(),
            uid: "p".to_owned(),
            ip: "127.0.0.1".to_owned(),
            port: self.port,
        };
        let body = hyper::body::Bytes::from(format!("target {generation}"));
        self.steering
            .tell("uid", "secret", addressee, (generation, body, true));
    }

    fn tries(&self) -> Tries {
        self.steering.of("uid").remove("p").unwrap()
    }

    async fn ended(&mut self) -> Tries {
        self.nudged.recv().await.unwrap();
        self.tries()
    }
}

#[tokio::test]
async fn a_pod_is_told_with_its_token_one_call_at_a_time() {
    let applied = told(4, TargetOutcome::Applied, "", 0);
    let answer = serde_json::to_string(&applied).unwrap();
    let mut setup = Setup::new(Mandate::forever(), StatusCode::OK, answer).await;
    setup.tell(4);
    let first = setup.calls.recv().await.unwrap();
    assert_eq!(first, ("Bearer secret".to_owned(), b"target 4".to_vec()));
    // Another while it is on its way makes no second call.
    setup.tell(5);
    assert!(setup.tries().under_way);
    setup.remote.permits.add_permits(8);
    let tries = setup.ended().await;
    assert!(!tries.under_way && tries.failed.is_none());
    assert_eq!((tries.answer.unwrap().0, tries.held), (applied, Some(4)));
    setup.tell(5);
    assert_eq!(setup.calls.recv().await.unwrap().1, b"target 5");
    // It answers of 4 all the same: a failure, which is tried again after a pause.
    let failed = setup.ended().await.failed.unwrap();
    assert_eq!((failed.generation, failed.times), (5, 1));
    assert_eq!(
        failed.words,
        "the engine was told generation 5 and answers of 4"
    );
    assert!(
        setup.calls.try_recv().is_err(),
        "three were told, two were called"
    );
    // Of another resource's pods, and of those that are gone, nothing is kept.
    assert!(setup.steering.of("another").is_empty());
    setup.steering.keep("another", &[]);
    assert_eq!(setup.steering.of("uid").len(), 1);
    setup.steering.keep("uid", &["q"]);
    assert!(setup.steering.of("uid").is_empty());
}

#[tokio::test]
async fn calls_that_fail_are_counted_with_the_engines_words() {
    let error = json!({"error": {"message": "generation 4 is older than 5"}}).to_string();
    let mut setup = Setup::new(Mandate::forever(), StatusCode::CONFLICT, error).await;
    setup.remote.permits.add_permits(8);
    for (generation, times) in [(4, 1), (4, 2), (5, 1)] {
        setup.tell(generation);
        let failed = setup.ended().await.failed.unwrap();
        assert_eq!((failed.generation, failed.times), (generation, times));
        assert_eq!(
            failed.words,
            "the engine answered 409 Conflict: generation 4 is older than 5"
        );
    }
    for (status, answer, part) in [
        (StatusCode::OK, "{}".to_owned(), "no report: missing field"),
        (
            StatusCode::OK,
            "x".repeat(70 << 10),
            "no report: length limit",
        ),
        (
            StatusCode::BAD_GATEWAY,
            "<html>".repeat(100),
            "502 Bad Gateway: <html>",
        ),
    ] {
        let mut setup = Setup::new(Mandate::forever(), status, answer).await;
        setup.remote.permits.add_permits(1);
        setup.tell(4);
        let words = setup.ended().await.failed.unwrap().words;
        assert!(words.contains(part) && words.len() < 400, "{part}: {words}");
    }
    let mut setup = Setup::new(Mandate::forever(), StatusCode::OK, String::new()).await;
    // Nobody listens there.
    setup.port = {
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        free.local_addr().unwrap().port()
    };
    setup.tell(4);
    let words = setup.ended().await.failed.unwrap().words;
    assert!(words.starts_with("connect: "), "{words}");
}

#[tokio::test]
async fn a_call_that_is_never_answered_ends() {
    let mut setup = Setup::new(Mandate::forever(), StatusCode::OK, String::new()).await;
    setup.steering.patience = Duration::from_millis(50);
    setup.tell(4);
    let words = setup.ended().await.failed.unwrap().words;
    assert_eq!(words, "no answer within 0.05 s");
}

#[tokio::test]
async fn without_the_lease_nobody_is_told() {
    let mandate = Mandate::none();
    let mut setup = Setup::new(mandate, StatusCode::OK, String::new()).await;
    setup.tell(4);
    let words = setup.ended().await.failed.unwrap().words;
    assert!(words.contains("does not hold the Lease"), "{words}");
    assert!(setup.calls.try_recv().is_err());
}
