//! A fresh start against an API server that lists and watches: whichever list comes last, passes
//! are made, and the turns know what there is.

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use clap::Parser as _;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::*;
use crate::testing::{SMOLLM2, object};
use crate::turns::{Stand, Turn};

/// What is watched, by the last part of its path.
const KINDS: [&str; 8] = [
    "inferencedeployments",
    "replicasets",
    "pods",
    "configmaps",
    "services",
    "serviceaccounts",
    "poddisruptionbudgets",
    "endpointslices",
];
/// Long enough for everybody to have looked at the lists before the last, and asked for that.
const LATER: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(20);

/// An API server that has one resource, answers one list after all others, and refuses writes.
struct Lists {
    last: &'static str,
    answered: watch::Sender<usize>,
}

async fn answer(State(lists): State<Arc<Lists>>, method: Method, uri: Uri) -> Response {
    if method != Method::GET {
        let words = json!({"kind": "Status", "status": "Failure", "code": 500, "message": "no"});
        return (StatusCode::INTERNAL_SERVER_ERROR, words.to_string()).into_response();
    }
    if uri
        .query()
        .is_some_and(|query| query.contains("watch=true"))
    {
        // Nothing ever changes.
        return Body::from_stream(futures::stream::pending::<Result<String, String>>())
            .into_response();
    }
    let kind = uri.path().rsplit('/').next().unwrap_or_default();
    if kind == lists.last {
        let mut answered = lists.answered.subscribe();
        let others = answered.wait_for(|count| *count == KINDS.len() - 1);
        others.await.unwrap();
        // Nothing tells when everybody has seen those lists and waits for this one.
        tokio::time::sleep(LATER).await;
    }
    lists.answered.send_modify(|count| *count += 1);
    let items = match kind == KINDS[0] {
        true => vec![json!(object(SMOLLM2))],
        false => Vec::<Value>::new(),
    };
    let list = json!({
        "apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "7"}, "items": items,
    });
    list.to_string().into_response()
}

async fn begin(last: &'static str) {
    let lists = Arc::new(Lists {
        last,
        answered: watch::Sender::new(0),
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(answer).with_state(lists);
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let metrics = Arc::new(Metrics::new().unwrap());
    let turns = Arc::new(Turns::new(1));
    turns.begin(1);
    let shared = Shared {
        client: Client::try_from(kube::Config::new(uri.parse().unwrap())).unwrap(),
        metrics: Arc::clone(&metrics),
        watches: Arc::new(Watches::new(Arc::clone(&metrics))),
        turns: Arc::clone(&turns),
        mandate: Mandate::forever(),
        key: AdminKey::new(b"0123456789abcdef".to_vec()).unwrap(),
        args: Arc::new(Args::parse_from(["operator", "--sidecar-image=image"])),
        resize: true,
    };
    let controller = tokio::spawn(run(shared, None, future::pending()));
    let begun = async {
        let mut looks = tokio::time::interval(Duration::from_millis(10));
        loop {
            looks.tick().await;
            let passes: u64 = ["ok", "error"]
                .map(|result| metrics.reconciles.with_label_values(&[result]).get())
                .iter()
                .sum();
            if passes > 0 && turns.stand("team/another", Stand::Wants) == Turn::Yours {
                break;
            }
        }
    };
    let outcome = tokio::time::timeout(PATIENCE, begun).await;
    controller.abort();
    server.abort();
    assert!(
        outcome.is_ok(),
        "the list of {last} came last, and nobody began within {PATIENCE:?}"
    );
}

#[tokio::test]
async fn whichever_list_comes_last_the_operator_begins() {
    futures::future::join_all(KINDS.map(begin)).await;
}
