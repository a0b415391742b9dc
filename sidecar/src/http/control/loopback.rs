//! `--control-api loopback`: control routes on the API port, without a token, for trainers in the same
//! pod, which know one base address and no token.
//!
//! Who may: a peer whose socket comes from 127.0.0.1 or ::1, and nobody who speaks for somebody else.
//! What a header says of a client's address never counts: anybody can write one. A proxy on this
//! machine, which would make all its clients local, is told by the headers it adds and refused; so is
//! a browser, whose pages may be anybody's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::http::error::ApiError;

/// Where a request's socket comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer(pub SocketAddr);

pub(super) async fn only_this_machine(request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().copied();
    match refused(peer, request.headers()) {
        None => next.run(request).await,
        Some(why) => {
            let message = format!("{why}; use the admin port and its token");
            ApiError {
                status: StatusCode::FORBIDDEN,
                ..ApiError::invalid(None, message).with_code("not_local")
            }
            .into_response()
        }
    }
}

/// Why a request may not control the engine without a token.
fn refused(peer: Option<Peer>, headers: &HeaderMap) -> Option<&'static str> {
    // These two alone: a service mesh brings the requests of other machines from 127.0.0.6.
    let own = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    if !peer.is_some_and(|Peer(peer)| own.contains(&peer.ip().to_canonical())) {
        return Some("control routes on this port are for clients on 127.0.0.1 and ::1");
    }
    let proxies = ["x-forwarded-", "x-real-ip", "x-envoy-", "l5d-"];
    let of_proxy = |name: &header::HeaderName| {
        let mut proxies = proxies.iter();
        proxies.any(|start| name.as_str().starts_with(start))
    };
    if headers.keys().any(of_proxy)
        || headers.contains_key(header::FORWARDED)
        || headers.contains_key(header::VIA)
    {
        return Some("control routes on this port are not for clients of a proxy");
    }
    if headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site") {
        return Some("control routes on this port are not for pages in a browser");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_local_peer_that_speaks_for_itself_is_let_in() {
        let admits = |peer: &str, header: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(name) = header {
                let name = header::HeaderName::from_bytes(name.as_bytes()).unwrap();
                headers.insert(name, "127.0.0.1".parse().unwrap());
            }
            let peer = peer.parse().ok().map(Peer);
            refused(peer, &headers).is_none()
        };
        for peer in ["127.0.0.1:9", "[::1]:9", "[::ffff:127.0.0.1]:9"] {
            assert!(admits(peer, None), "{peer}");
            for header in [
                "x-forwarded-for",
                "x-forwarded-client-cert",
                "x-envoy-attempt-count",
                "l5d-client-id",
                "forwarded",
                "via",
                "origin",
                "sec-fetch-site",
            ] {
                assert!(!admits(peer, Some(header)), "{peer} {header}");
            }
        }
        for peer in [
            "127.0.0.6:9",
            "10.0.0.1:9",
            "[::ffff:10.0.0.1]:9",
            "[fe80::1]:9",
            "nobody",
        ] {
            assert!(!admits(peer, None), "{peer}");
            assert!(!admits(peer, Some("x-forwarded-for")), "{peer}");
        }
    }
}
