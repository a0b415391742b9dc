//! Who may use control routes, on which port: one rule for all of them.

use axum::Router;

use super::*;
use crate::args::ControlApi;
use crate::http::api_router;
use crate::http::control::loopback::Peer;
use crate::http::token::Token;

/// Each control route with a method that it takes.
const ROUTES: [(&str, &str); 41] = [
    ("POST", "/sleep"),
    ("POST", "/wake_up"),
    ("GET", "/is_sleeping"),
    ("POST", "/release_kv_cache_memory"),
    ("POST", "/pause"),
    ("POST", "/resume"),
    ("GET", "/is_paused"),
    ("POST", "/abort_requests"),
    ("POST", "/reset_prefix_cache"),
    ("POST", "/reset_mm_cache"),
    ("POST", "/reset_encoder_cache"),
    ("GET", "/get_world_size"),
    ("GET", "/server_info"),
    ("POST", "/collective_rpc"),
    ("POST", "/weight_checker"),
    ("GET", "/weight_info"),
    ("POST", "/update_weight_version"),
    ("POST", "/start_weight_update"),
    ("POST", "/update_weights"),
    ("POST", "/finish_weight_update"),
    ("POST", "/abort_weight_update"),
    ("POST", "/update_weights_from_disk"),
    ("POST", "/v1/load_lora_adapter"),
    ("POST", "/v1/unload_lora_adapter"),
    ("POST", "/load_lora_adapter"),
    ("POST", "/unload_lora_adapter"),
    ("POST", "/release_memory_occupation"),
    ("POST", "/resume_memory_occupation"),
    ("POST", "/pause_generation"),
    ("POST", "/continue_generation"),
    ("GET", "/flush_cache"),
    ("POST", "/abort_request"),
    ("POST", "/weights_checker"),
    ("GET", "/health_generate"),
    ("POST", "/init_weight_transfer_engine"),
    ("POST", "/start_draft_weight_update"),
    ("POST", "/init_weights_update_group"),
    ("POST", "/destroy_weights_update_group"),
    ("POST", "/update_weights_from_distributed"),
    ("POST", "/update_weights_from_tensor"),
    ("POST", "/init_communicator"),
];

/// On the admin port alone.
const ADMINS: [(&str, &str); 6] = [
    ("GET", "/memory"),
    ("GET", "/weight_checker"),
    ("GET", "/target"),
    ("GET", "/target/sleep"),
    ("GET", "/quota"),
    ("POST", "/quota"),
];

const TOKEN: &str = "0123456789abcdef";

async fn status(
    router: &Router,
    (method, path): (&str, &str),
    peer: &str,
    token: Option<&str>,
) -> (u16, String) {
    use hyper::service::Service;
    let mut request = Request::builder().method(method).uri(path);
    request = request.extension(Peer(peer.parse().unwrap()));
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let service = hyper_util::service::TowerToHyperService::new(router.clone());
    // No JSON: a route that is reached refuses it, or reads no body.
    let request = request.body(Body::from("{")).unwrap();
    let answer = service.call(request).await.unwrap();
    (answer.status().as_u16(), text(answer).await)
}

/// By port, client and token: the status of those who are refused at the door; None: they are let in.
#[tokio::test]
async fn one_rule_says_who_may_use_any_control_route_on_either_port() {
    let (app, _) = app(Script::Say("x"));
    let api = |who| api_router(Arc::clone(&app), &[], who);
    let admin = |token: Option<&str>| admin::router(Arc::clone(&app), token.map(Token::fixed));
    let (off, loopback) = (api(ControlApi::Off), api(ControlApi::Loopback));
    let (open, guarded) = (admin(None), admin(Some(TOKEN)));
    let (here, other) = ("127.0.0.1:3", "10.0.0.7:3");
    for (port, router, peer, token, expected) in [
        ("API, off", &off, here, None, Some(404)),
        ("API, off", &off, here, Some(TOKEN), Some(404)),
        ("API, loopback", &loopback, here, None, None),
        ("API, loopback", &loopback, other, None, Some(403)),
        ("API, loopback", &loopback, other, Some(TOKEN), Some(403)),
        ("admin, open", &open, other, None, None),
        ("admin, token", &guarded, here, None, Some(401)),
        ("admin, token", &guarded, here, Some("another"), Some(401)),
        ("admin, token", &guarded, other, Some(TOKEN), None),
    ] {
        for route in ROUTES {
            let (got, told) = status(router, route, peer, token).await;
            let what = format!("{port} {peer} {token:?} {route:?}: {got} {told}");
            match expected {
                Some(expected) => assert_eq!(got, expected, "{what}"),
                None => assert!(![401, 403, 404, 405].contains(&got), "{what}"),
            }
            if got == 404 {
                assert!(told.contains("--control-api loopback"), "{what}");
            }
        }
        for route in ADMINS {
            let (got, told) = status(router, route, peer, token).await;
            let what = format!("{port} {peer} {token:?} {route:?}: {got} {told}");
            match port.starts_with("API") {
                true => assert!([403, 404, 405].contains(&got), "{what}"),
                false if expected.is_some() => assert_eq!(got, 401, "{what}"),
                false => assert_ne!(got, 401, "{what}"),
            }
        }
    }
    // What is none is as it was.
    assert_eq!(
        status(&off, ("POST", "/v1/models"), here, None).await.0,
        405
    );
    assert_eq!(
        status(&loopback, ("GET", "/v1/models"), other, None)
            .await
            .0,
        200
    );
}

/// A route that is added is added here.
#[test]
fn the_table_has_every_control_route() {
    let sources = [
        include_str!("../../control/mod.rs"),
        include_str!("../../control/refused.rs"),
    ];
    let texts = sources
        .iter()
        .flat_map(|source| source.split('"').skip(1).step_by(2));
    let paths: Vec<&str> = texts.filter(|text| text.starts_with('/')).collect();
    assert!(paths.len() > 30, "{paths:?}");
    for path in paths {
        assert!(ROUTES.iter().any(|(_, route)| *route == path), "{path}");
    }
}

#[tokio::test]
async fn no_route_passes_over_a_parameter_that_it_does_not_know_or_that_is_there_twice() {
    let (app, engine) = app(Script::Say("x"));
    // The last ones are refused whatever they are asked.
    for (method, path) in ROUTES[..34].iter().chain(&ADMINS) {
        let (status, told) = control(&app, method, &format!("{path}?zz=1"), "{}").await;
        assert_eq!(status, 400, "{method} {path}: {told}");
        assert!(told.contains("query.zz"), "{method} {path}: {told}");
    }
    assert!(engine.obeyed().is_empty());
    for path in [
        "/sleep?level=1&level=2",
        "/finish_weight_update?update_id=1&update_id=1",
    ] {
        let (status, told) = control(&app, "POST", path, "").await;
        assert_eq!(status, 400, "{path}: {told}");
        assert!(told.contains("is there twice"), "{path}: {told}");
    }
    assert!(engine.obeyed().is_empty());
}
