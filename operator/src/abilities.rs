//! What the cluster can do that not every one can, asked once before anything is decided: a guess
//! that turns out wrong would name every revision anew, and so replace every pod.

use std::time::Duration;

use kube::Client;
use tokio::time::{sleep, timeout};

use crate::error::words;

/// A question that is not answered by then is asked again.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_secs(2);
/// Kubernetes has it since 1.33, unless it is switched off (`InPlacePodVerticalScaling`).
const RESIZE: &str = "pods/resize";

/// Whether the memory limits of pods that run can be changed. Asked until it is answered.
pub(crate) async fn resizes(client: &Client) -> bool {
    ask(client, PAUSE).await
}

async fn ask(client: &Client, pause: Duration) -> bool {
    loop {
        let error = match timeout(PATIENCE, client.list_core_api_resources("v1")).await {
            Ok(Ok(list)) => {
                let found = list.resources.iter().any(|it| it.name == RESIZE);
                if !found {
                    tracing::warn!(
                        "this cluster has no {RESIZE} (Kubernetes before 1.33, or switched off): new \
                         quotas replace pods instead of resizing them"
                    );
                }
                return found;
            }
            Ok(Err(error)) => words(&error),
            Err(_) => "no answer".to_owned(),
        };
        tracing::warn!(
            error,
            "the API server does not say what it can do; asked again"
        );
        sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::get;
    use serde_json::json;

    use super::*;

    /// The answers of an API server that begins with a failure, which is no answer.
    async fn answered(resources: &[&str]) -> bool {
        let named = |name: &&str| {
            json!({
                "name": name, "singularName": "", "namespaced": true, "kind": "Pod",
                "verbs": ["patch"],
            })
        };
        let list = json!({
            "kind": "APIResourceList", "groupVersion": "v1",
            "resources": resources.iter().map(named).collect::<Vec<_>>(),
        });
        let asked = AtomicBool::new(false);
        let answer = Arc::new(move || match asked.swap(true, Ordering::Relaxed) {
            false => (StatusCode::SERVICE_UNAVAILABLE, String::new()),
            true => (StatusCode::OK, list.to_string()),
        });
        let router = Router::new().route("/api/v1", get(async move || answer()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let config = kube::Config::new(uri.parse().unwrap());
        ask(&Client::try_from(config).unwrap(), Duration::ZERO).await
    }

    #[tokio::test]
    async fn a_cluster_is_asked_until_it_says_whether_it_resizes_pods() {
        assert!(answered(&["pods", "pods/status", "pods/resize"]).await);
        assert!(!answered(&["pods", "pods/status"]).await);
    }
}
