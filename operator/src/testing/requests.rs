//! Requests to the API server of tests, in words.

use axum::http::{Method, Uri};
use serde_json::Value;

/// `create services/smollm2`, `apply services/smollm2!` (by force), and the like.
pub(super) fn words((method, uri, applies): (&Method, &Uri, bool), body: &Value) -> String {
    let mut path = uri.path().rsplit('/');
    let (name, kind) = (path.next().unwrap(), path.next().unwrap());
    let query = uri.query().unwrap_or_default();
    let has = |word: &str| query.split('&').any(|part| part == word);
    match (method.as_str(), name) {
        (_, "events") => format!("event {}", body["reason"].as_str().unwrap()),
        (_, "status") => "status".to_owned(),
        (_, "resize") => format!("resize pods/{kind}"),
        ("POST", _) => format!(
            "create {name}/{}",
            body["metadata"]["name"].as_str().unwrap()
        ),
        ("DELETE", _) => format!("delete {kind}/{name}"),
        _ if has("dryRun=All") => format!("look {kind}/{name}"),
        _ if has("fieldManager=plimsoll-operator-scale") => {
            format!("scale {kind}/{name} to {}", body["spec"]["replicas"])
        }
        _ if !applies => format!("reset {kind}/{name}"),
        _ => {
            let mut words = format!("apply {kind}/{name}");
            if has("force=true") {
                words.push('!');
            }
            words
        }
    }
}
