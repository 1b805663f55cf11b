//! Who may call: requests for a host name that is ours (against DNS rebinding), from no web page but
//! our own and those that the configuration allows.

use std::net::IpAddr;

use hyper::Uri;
use hyper::header::{HOST, HeaderMap, ORIGIN};

use super::problem::{self, Refused};
use crate::config::ServerConfig;

/// Lets a request in, or says why not.
///
/// # Errors
/// 403 for a foreign `Host` or `Origin`, 400 where there is no single `Host`.
pub(crate) fn check(uri: &Uri, headers: &HeaderMap, config: &ServerConfig) -> Result<(), Refused> {
    let host = host(uri, headers)?;
    if !is_ours(host, config) {
        return Err(problem::HOST_NOT_ALLOWED
            .with(format!("the server does not answer to {:?}", short(host)))
            .hint("call it by a loopback address, or name the host in `server.allowed_hosts`")
            .into());
    }
    let mut origins = headers.get_all(ORIGIN).iter();
    let Some(origin) = origins.next() else { return Ok(()) };
    let origin = origin.to_str().unwrap_or("null");
    if origins.next().is_none() && (is_same(origin, host) || is_allowed(origin, config)) {
        return Ok(());
    }
    Err(problem::ORIGIN_NOT_ALLOWED
        .with(format!("web pages of {:?} may not call this server", short(origin)))
        .hint("name the origin in `server.allowed_origins` if it is yours")
        .into())
}

/// The host, with its port, that the request is for.
fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Result<&'a str, Refused> {
    let mut hosts = headers.get_all(HOST).iter();
    let bad = |wrong: &str| Err(problem::BAD_REQUEST.with(wrong).into());
    match (uri.authority(), hosts.next(), hosts.next()) {
        // The absolute form wins over the header (RFC 9112, section 3.2.2).
        (Some(authority), _, None) => Ok(authority.as_str()),
        (None, Some(host), None) => host.to_str().or_else(|_| bad("the Host header is no text")),
        (_, None, _) => bad("the request has no Host header"),
        (_, Some(_), Some(_)) => bad("the request has more than one Host header"),
    }
}

fn is_ours(host: &str, config: &ServerConfig) -> bool {
    let Some(name) = name_of(host) else { return false };
    if name.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    if address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()) {
        return true;
    }
    config
        .allowed_hosts
        .iter()
        .any(|allowed| name.eq_ignore_ascii_case(allowed) || host.eq_ignore_ascii_case(allowed))
}

/// The host without its port; `None` when it has neither form.
fn name_of(host: &str) -> Option<&str> {
    let end = if host.starts_with('[') { host.find(']')? + 1 } else { host.find(':').unwrap_or(host.len()) };
    let (name, port) = host.split_at(end);
    let port_is_fine = match port.strip_prefix(':') {
        Some(digits) => digits.len() <= 5 && digits.bytes().all(|digit| digit.is_ascii_digit()),
        None => port.is_empty(),
    };
    (port_is_fine && !name.is_empty()).then_some(name)
}

/// Whether a page of this origin came from this very server. It speaks plain HTTP alone.
fn is_same(origin: &str, host: &str) -> bool {
    origin.strip_prefix("http://").is_some_and(|origin| {
        let without_port = |text: &str| text.strip_suffix(":80").unwrap_or(text).to_ascii_lowercase();
        without_port(origin) == without_port(host)
    })
}

fn is_allowed(origin: &str, config: &ServerConfig) -> bool {
    config.allowed_origins.iter().any(|allowed| origin.eq_ignore_ascii_case(allowed))
}

/// As much of a stranger's text as is shown back.
fn short(text: &str) -> String {
    text.chars().take(120).collect()
}

#[cfg(test)]
mod tests {
    use hyper::StatusCode;
    use hyper::header::HeaderValue;

    use super::*;

    fn config() -> ServerConfig {
        ServerConfig {
            listen: ([127, 0, 0, 1], 7600).into(),
            data_dir: "data".into(),
            max_body: 1 << 20,
            drain_timeout: std::time::Duration::from_secs(30),
            allowed_hosts: vec!["rollcall.internal".into()],
            allowed_origins: vec!["https://board.example".into()],
            metrics_listen: None,
            workers_listen: None,
        }
    }

    fn status(uri: &str, hosts: &[&str], origins: &[&str]) -> u16 {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, HeaderValue::from_str(host).expect("a header"));
        }
        for origin in origins {
            headers.append(ORIGIN, HeaderValue::from_str(origin).expect("a header"));
        }
        let uri: Uri = uri.parse().expect("a URI");
        check(&uri, &headers, &config())
            .map_or_else(|problem| problem.kind.status, |()| StatusCode::OK)
            .as_u16()
    }

    #[test]
    fn only_names_of_this_server_are_answered() {
        for ours in [
            "127.0.0.1",
            "127.0.0.1:7600",
            "localhost",
            "LocalHost:80",
            "[::1]:7600",
            "127.8.9.1",
            "rollcall.internal:1",
        ] {
            assert_eq!(status("/", &[ours], &[]), 200, "{ours}");
        }
        for foreign in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "0.0.0.0",
            "[::]",
            "",
            ":80",
            "localhost:x",
            "127.0.0.1:7600:1",
            "[::1",
            "user@localhost",
            "2130706433",
        ] {
            assert_eq!(status("/", &[foreign], &[]), 403, "{foreign}");
        }
    }

    #[test]
    fn the_host_must_be_there_once() {
        assert_eq!(status("/", &[], &[]), 400);
        assert_eq!(status("/", &["localhost", "evil.example"], &[]), 400);
        assert_eq!(status("http://evil.example/", &["localhost"], &[]), 403);
        assert_eq!(status("http://localhost/", &["evil.example"], &[]), 200);
    }

    #[test]
    fn only_our_own_pages_and_the_allowed_ones_may_call() {
        for fine in ["http://localhost:7600", "https://board.example"] {
            assert_eq!(status("/", &["localhost:7600"], &[fine]), 200, "{fine}");
        }
        for foreign in [
            "http://localhost:3000",
            "https://localhost:7600",
            "http://127.0.0.1:7600",
            "null",
            "http://evil.example",
            "https://board.example.evil",
            "",
        ] {
            assert_eq!(status("/", &["localhost:7600"], &[foreign]), 403, "{foreign}");
        }
        assert_eq!(status("/", &["localhost"], &["http://localhost", "http://localhost"]), 403);
        assert_eq!(status("/", &["localhost:80"], &["http://localhost"]), 200);
    }
}
