//! The answer to a worker that dials in.

use std::fmt;

use hyper::header::{HeaderMap, HeaderValue, ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use hyper::{Request, Response, StatusCode};
use rollcall_protocol::SUBPROTOCOL;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;

use crate::fleet::ConnectOutcome;

/// Why a request is not a worker's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotAccepted {
    /// The HTTP status to answer with.
    pub status: StatusCode,
    /// The word for the metrics.
    pub outcome: ConnectOutcome,
    /// A sentence for people.
    pub reason: String,
}

impl fmt::Display for NotAccepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for NotAccepted {}

/// The 101 that turns a request at [`rollcall_protocol::CONNECT_PATH`] into a worker's WebSocket,
/// with `Sec-WebSocket-Accept` and the subprotocol.
///
/// # Errors
/// [`NotAccepted`] when it has an `Origin` (a page in a browser sent it), does not name
/// `rollcall.v1`, or is no WebSocket request of version 13.
pub fn accept_response<B>(request: &Request<B>) -> Result<Response<()>, NotAccepted> {
    if request.headers().contains_key(ORIGIN) {
        let reason = "requests with an Origin are refused".to_owned();
        return Err(NotAccepted { status: StatusCode::FORBIDDEN, outcome: ConnectOutcome::Auth, reason });
    }
    let mut response = create_response_with_body(request, || ()).map_err(|problem| NotAccepted {
        status: StatusCode::BAD_REQUEST,
        outcome: ConnectOutcome::Handshake,
        reason: problem.to_string(),
    })?;
    if !speaks_ours(request.headers()) {
        let reason = format!("the subprotocol here is {SUBPROTOCOL}");
        let (status, outcome) = (StatusCode::UPGRADE_REQUIRED, ConnectOutcome::Version);
        return Err(NotAccepted { status, outcome, reason });
    }
    response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    Ok(response)
}

fn speaks_ours(headers: &HeaderMap) -> bool {
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    offered
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|name| name.trim() == SUBPROTOCOL)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let mut builder = Request::get("/v1/workers/connect");
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).expect("a request")
    }

    const GOOD: [(&str, &str); 5] = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Protocol", "rollcall.v9, rollcall.v1"),
    ];

    #[test]
    fn a_worker_is_answered_by_the_rules_of_rfc_6455() {
        let response = accept_response(&request(&GOOD)).expect("a worker");
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        // The example of RFC 6455, section 1.3.
        assert_eq!(response.headers()["Sec-WebSocket-Accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(response.headers()["Sec-WebSocket-Protocol"], "rollcall.v1");
    }

    #[test]
    fn what_is_no_worker_is_told_why() {
        let refused = |headers: &[(&str, &str)]| {
            let refusal = accept_response(&request(headers)).expect_err("no worker");
            (refusal.status.as_u16(), refusal.outcome)
        };
        let mut page = GOOD.to_vec();
        page.push(("Origin", "https://example.com"));
        assert_eq!(refused(&page), (403, ConnectOutcome::Auth));
        assert_eq!(refused(&GOOD[..4]), (426, ConnectOutcome::Version));
        assert_eq!(refused(&GOOD[1..]), (400, ConnectOutcome::Handshake));
        let mut old = GOOD;
        old[2].1 = "8";
        assert_eq!(refused(&old), (400, ConnectOutcome::Handshake));
    }
}
