//! Calls to an engine that answers over a real socket.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes as Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::routing::put;
use kube::runtime::reflector::ObjectRef;
use plimsoll_crds::v1alpha1::InferenceDeployment;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};

use super::tests::told;
use super::*;
use crate::mandate::Mandate;

/// An engine that answers one call for each permit, as its next answer says.
struct Remote {
    calls: mpsc::Sender<(String, String, Vec<u8>)>,
    permits: Semaphore,
    answer: (StatusCode, String),
}

async fn take(
    State(remote): State<Arc<Remote>>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> (StatusCode, String) {
    let token = headers["authorization"].to_str().unwrap().to_owned();
    let call = (uri.path().to_owned(), token, body.to_vec());
    remote.calls.send(call).await.unwrap();
    remote.permits.acquire().await.unwrap().forget();
    remote.answer.clone()
}

struct Setup {
    steering: Steering,
    nudged: mpsc::Receiver<ObjectRef<InferenceDeployment>>,
    calls: mpsc::Receiver<(String, String, Vec<u8>)>,
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
            .route("/target/sleep", put(take))
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
        self.tell_what(What::Target, generation);
    }

    fn tell_what(&self, what: What, generation: i64) {
        let addressee = Addressee {
            resource: ObjectRef::new("chat").within("team"),
            pod: "chat-1".to_owned(),
            uid: "p".to_owned(),
            ip: "127.0.0.1".to_owned(),
            port: self.port,
        };
        let body = hyper::body::Bytes::from(format!("target {generation}"));
        let told = Told {
            what,
            generation,
            body,
            held: true,
        };
        self.steering.tell("uid", "secret", addressee, told);
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
    let token = "Bearer secret".to_owned();
    assert_eq!(first, ("/target".to_owned(), token, b"target 4".to_vec()));
    // Another while it is on its way makes no second call.
    setup.tell(5);
    assert!(setup.tries().under_way);
    setup.remote.permits.add_permits(8);
    let tries = setup.ended().await;
    assert!(!tries.under_way && tries.failed.is_none());
    assert_eq!((tries.answer.unwrap().0, tries.held), (applied, Some(4)));
    setup.tell(5);
    assert_eq!(setup.calls.recv().await.unwrap().2, b"target 5");
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
async fn a_sleep_is_told_at_its_own_path_and_what_became_of_targets_is_forgotten_with_it() {
    let applied = told(4, TargetOutcome::Applied, "", 0);
    let answer = serde_json::to_string(&applied).unwrap();
    let mut setup = Setup::new(Mandate::forever(), StatusCode::OK, answer).await;
    setup.remote.permits.add_permits(8);
    for (what, path) in [
        (What::Target, "/target"),
        (What::Sleep, "/target/sleep"),
        (What::Target, "/target"),
    ] {
        // It answers of 4 whatever it is told.
        for (generation, failed) in [(5, Some(1)), (4, None)] {
            setup.tell_what(what, generation);
            assert_eq!(setup.calls.recv().await.unwrap().0, path);
            let tries = setup.ended().await;
            assert_eq!(
                (tries.what, tries.failed.map(|it| it.times)),
                (what, failed)
            );
            assert_eq!(tries.answer.is_some(), failed.is_none(), "not of the other");
        }
    }
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
