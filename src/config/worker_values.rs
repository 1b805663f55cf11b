//! The values that a worker's entry is made of: names, capabilities, labels, addresses, and the
//! environment of its program.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::node::{At, Node};
use super::reader::{List, Reader, Value};
use super::tls_model::Address;
use super::values::{Text, Whole};
use crate::fleet::{Capability, FairnessKey, WorkerName};

/// Capabilities of one worker.
const MAX_CAPABILITIES: usize = 200;
/// Labels of one worker.
const MAX_LABELS: usize = 32;
/// Names in the environment of one program.
const MAX_ENV: usize = 100;
/// Fairness keys that have a weight.
const MAX_WEIGHTS: usize = 1_000;
/// Words of one command.
pub(super) const MAX_WORDS: usize = 256;

impl Value for WorkerName {
    fn read(node: &Node<'_>, at: &At<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let first = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let fits = |text: &&str| {
            text.len() <= 63
                && text.starts_with(first)
                && text.chars().all(|c| first(c) || matches!(c, '.' | '_' | '-'))
        };
        let expected =
            "a name of 1 to 63 characters from a-z, 0-9, `.`, `_` and `-`, beginning with a letter or digit";
        let name = node.word().filter(fits).map(Self::from);
        reader.or_wanted(name, node, at, || expected.to_owned())
    }

    fn schema() -> Json {
        json!({ "type": "string", "pattern": r"^[a-z0-9][a-z0-9._-]{0,62}$|\$\{" })
    }

    fn written(&self) -> Option<Json> {
        Some(self.as_str().into())
    }
}

impl Value for Capability {
    fn read(node: &Node<'_>, at: &At<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let word = |word: &str| {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
            word.starts_with(plain) && word.chars().all(|c| plain(c) || matches!(c, '_' | '-'))
        };
        let fits = |text: &&str| {
            let stem = text.strip_suffix(".*").unwrap_or(text);
            text.len() <= 128 && (*text == "*" || stem.split('.').all(word))
        };
        let expected = "a capability such as python.execute, browser.* or * (words of a-z, 0-9, `_` and `-` between points, at most 128 characters)";
        let capability = node.word().filter(fits).map(Self::from);
        reader.or_wanted(capability, node, at, || expected.to_owned())
    }

    fn schema() -> Json {
        let pattern = r"^(\*|[a-z0-9][a-z0-9_-]*(\.[a-z0-9][a-z0-9_-]*)*(\.\*)?)$|\$\{";
        json!({ "type": "string", "maxLength": 128, "pattern": pattern })
    }

    fn written(&self) -> Option<Json> {
        Some(self.as_str().into())
    }
}

/// What a worker may be asked for; no word twice.
#[derive(Debug, Clone)]
pub(super) struct Capabilities(pub(super) Vec<Capability>);

impl Value for Capabilities {
    fn read(node: &Node<'_>, at: &At<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let mut all: Vec<Capability> = Vec::new();
        for (n, item) in reader.list(node, at, MAX_CAPABILITIES)?.iter().enumerate() {
            let at = at.index(n);
            let Some(capability) = Capability::read(item, &at, reader) else { continue };
            if all.contains(&capability) {
                reader.problem(item.place, &at, format!("\"{capability}\" is listed twice"));
            } else {
                all.push(capability);
            }
        }
        Some(Self(all))
    }

    fn schema() -> Json {
        let items = Capability::schema();
        json!({ "type": "array", "items": items, "maxItems": MAX_CAPABILITIES, "uniqueItems": true })
    }

    fn written(&self) -> Option<Json> {
        Some(self.0.iter().map(Capability::as_str).collect())
    }
}

/// A mapping whose keys are free.
fn free<T>(
    (node, at): (&Node<'_>, &At<'_>),
    reader: &mut Reader<'_>,
    most: usize,
    (key_fits, keys): (impl Fn(&str) -> bool, &str),
    read: impl Fn(&Node<'_>, &At<'_>, &mut Reader<'_>) -> Option<T>,
) -> Option<Vec<(String, T)>> {
    let entries = reader.mapping(node, at)?;
    if entries.len() > most {
        reader.problem(node.place, at, format!("has {} entries; at most {most} are taken", entries.len()));
    }
    let mut all = Vec::new();
    for (key, value) in entries.iter().take(most) {
        let at = at.field(&key.text);
        if !key_fits(&key.text) {
            reader.problem(key.place, &at, format!("{:?} is not {keys}", key.text));
        } else if let Some(value) = read(value, &at, reader) {
            all.push((key.text.to_string(), value));
        }
    }
    Some(all)
}

/// Labels: free words for placement.
#[derive(Debug, Clone, Default)]
pub(super) struct Labels(pub(super) BTreeMap<Arc<str>, Arc<str>>);

impl Value for Labels {
    fn read(node: &Node<'_>, at: &At<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let key_fits = |key: &str| {
            key.len() <= 63
                && key.starts_with(|c: char| c.is_ascii_alphanumeric())
                && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/'))
        };
        let keys = "a label of 1 to 63 characters from a-z, A-Z, 0-9, `.`, `_`, `-` and `/`, beginning with a letter or digit";
        let entries = free((node, at), reader, MAX_LABELS, (key_fits, keys), |node, at, reader| {
            let text = node.word().filter(|text| text.chars().count() <= 128).map(Arc::from);
            reader.or_wanted(text, node, at, || "a label's value of at most 128 characters".to_owned())
        })?;
        Some(Self(entries.into_iter().map(|(key, value)| (key.into(), value)).collect()))
    }

    fn schema() -> Json {
        let value = json!({ "type": ["string", "number", "boolean"], "maxLength": 128 });
        let keys = json!({ "pattern": "^[a-zA-Z0-9][a-zA-Z0-9._/-]{0,62}$" });
        json!({ "type": "object", "propertyNames": keys, "additionalProperties": value, "maxProperties": MAX_LABELS })
    }

    fn written(&self) -> Option<Json> {
        None
    }
}

/// The environment of a program. Its values may be secrets.
#[derive(Clone, Default)]
pub(super) struct Variables(pub(super) BTreeMap<String, String>);

impl std::fmt::Debug for Variables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Value for Variables {
    fn read(node: &Node<'_>, at: &At<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let key_fits = |key: &str| {
            key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        let keys = "a name of letters, digits and `_`, not beginning with a digit";
        let entries = free((node, at), reader, MAX_ENV, (key_fits, keys), |node, at, reader| {
            // An empty value is a value here; a zero byte is what no environment can hold.
            let text = if node.is_null() { Some("") } else { node.word() };
            let text = text.filter(|text| !text.contains('\0')).map(str::to_owned);
            reader.or_wanted(text, node, at, || "a text without zero bytes".to_owned())
        })?;
        Some(Self(entries.into_iter().collect()))
    }

    fn schema() -> Json {
        let value = json!({ "type": ["string", "number", "boolean", "null"] });
        let keys = json!({ "pattern": "^[A-Za-z_][A-Za-z0-9_]*$" });
        json!({ "type": "object", "propertyNames": keys, "additionalProperties": value, "maxProperties": MAX_ENV })
    }

    fn written(&self) -> Option<Json> {
        None
    }
}

/// Shares of fairness keys.
#[derive(Debug, Clone, Default)]
pub(super) struct Weights(pub(super) BTreeMap<FairnessKey, u32>);

impl Value for Weights {
    fn read(node: &Node<'_>, at: &At<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let key_fits = |key: &str| !key.is_empty() && key.chars().count() <= 128;
        let keys = "a fairness key of 1 to 128 characters";
        let entries = free((node, at), reader, MAX_WEIGHTS, (key_fits, keys), Whole::<1, 1_000>::read)?;
        let weight = |Whole(weight): Whole<1, 1_000>| u32::try_from(weight).unwrap_or(u32::MAX);
        Some(Self(entries.into_iter().map(|(key, whole)| (FairnessKey::from(key), weight(whole))).collect()))
    }

    fn schema() -> Json {
        let value = Whole::<1, 1_000>::schema();
        json!({ "type": "object", "additionalProperties": value, "maxProperties": MAX_WEIGHTS })
    }

    fn written(&self) -> Option<Json> {
        None
    }
}

/// Where a worker listens: `ws://host:port` or `wss://host:port`, with a path or without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// As written.
    pub(super) url: Arc<str>,
    /// Host (in lower case), port and path: what makes two endpoints one.
    pub(super) key: String,
    /// Whether only this machine can be meant.
    pub(super) loopback: bool,
    /// Whether it is spoken to under TLS.
    pub(super) secure: bool,
}

/// What makes two endpoints one, however they are spelled.
pub(crate) fn endpoint_key(url: &str) -> String {
    Endpoint::parse(url).map_or_else(|| url.to_owned(), |endpoint| endpoint.key)
}

impl Value for Endpoint {
    fn read(node: &Node<'_>, at: &At<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let endpoint = node.word().and_then(Self::parse);
        let expected = || "an address such as ws://127.0.0.1:3001 or wss://worker.example:3001".to_owned();
        reader.or_wanted(endpoint, node, at, expected)
    }

    fn schema() -> Json {
        json!({ "type": "string", "pattern": r"^wss?://|\$\{" })
    }

    fn written(&self) -> Option<Json> {
        Some((*self.url).into())
    }
}

impl Endpoint {
    fn parse(text: &str) -> Option<Self> {
        Self::behind(text, ("ws://", 80)).or_else(|| Self::behind(text, ("wss://", 443)))
    }

    /// Of an address that begins with this scheme.
    fn behind(text: &str, (scheme, usual_port): (&str, u16)) -> Option<Self> {
        let rest = text.strip_prefix(scheme)?;
        let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let graphic =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}#".contains(&byte));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                let digits = port.bytes().all(|byte| byte.is_ascii_digit());
                (host, port.parse().ok().filter(|port: &u16| digits && *port > 0)?)
            }
            _ => (authority, usual_port),
        };
        let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let fits = match inside {
            Some(inside) => inside.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                !host.is_empty()
                    && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
            }
        };
        if text.len() > 512 || !fits || !graphic(path) {
            return None;
        }
        let host = host.to_ascii_lowercase();
        let host = if host == "localhost" { "127.0.0.1".to_owned() } else { host };
        let address = inside.unwrap_or(&host).parse::<std::net::IpAddr>();
        let loopback = address.is_ok_and(|address| address.is_loopback());
        let secure = usual_port == 443;
        Some(Self { url: text.into(), key: format!("{host}:{port}{path}"), loopback, secure })
    }
}

/// Where spans go: `http://host:port`, with a path or without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Collector(pub(super) Arc<str>);

impl Value for Collector {
    fn read(node: &Node<'_>, at: &At<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let text = node.word();
        if text.is_some_and(|text| text.starts_with("https://")) {
            let message = "`https://` is not supported by this version; send to a collector on this machine \
                           or on a network that you trust, which may pass it on";
            reader.problem(node.place, at, message);
            return None;
        }
        let fits = |text: &&str| Endpoint::behind(text, ("http://", 80)).is_some() && !text.contains('?');
        let url = text.filter(fits).map(|text| Self(text.into()));
        reader.or_wanted(url, node, at, || "an address such as http://127.0.0.1:4318".to_owned())
    }

    fn schema() -> Json {
        json!({ "type": "string", "pattern": r"^http://|\$\{" })
    }

    fn written(&self) -> Option<Json> {
        Some((*self.0).into())
    }
}

/// Where the server listens. Only this machine, for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Loopback(pub(super) SocketAddr);

impl Value for Loopback {
    fn read(node: &Node<'_>, at: &At<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let address = node.word().and_then(Address::parse);
        let expected = || "an address and a port, such as 127.0.0.1:7600".to_owned();
        let address = reader.or_wanted(address, node, at, expected)?;
        if !address.ip().is_loopback() {
            reader.problem(
                node.place,
                at,
                format!(
                    "{} would let other machines in, and this version has no access control; only loopback \
                     (127.0.0.1 or [::1]) is allowed",
                    node.shown()
                ),
            );
            return None;
        }
        Some(Self(address))
    }

    fn schema() -> Json {
        json!({ "type": "string", "pattern": r"^(127\.[0-9.]+|localhost|\[::1\]):[0-9]+$|\$\{" })
    }

    fn written(&self) -> Option<Json> {
        Some(self.0.to_string().into())
    }
}

/// A program and its arguments.
pub(super) type Command = List<Text, MAX_WORDS>;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Option<String> {
        Endpoint::parse(text).map(|endpoint| endpoint.key)
    }

    #[test]
    fn one_endpoint_is_known_by_all_its_spellings() {
        assert_eq!(key("ws://localhost:3001").as_deref(), Some("127.0.0.1:3001/"));
        assert_eq!(key("ws://127.0.0.1:3001/"), key("ws://localhost:3001"));
        assert_eq!(key("ws://Host.Example").as_deref(), Some("host.example:80/"));
        assert_eq!(key("ws://[::1]:3001/a").as_deref(), Some("[::1]:3001/a"));
        assert_eq!(key("wss://host.example").as_deref(), Some("host.example:443/"));
        assert_eq!(key("wss://localhost:3001"), key("ws://localhost:3001"), "one port, one worker");
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        for wrong in [
            "",
            "ws://",
            "http://a:1",
            "ws://a:0",
            "ws://a:70000",
            "ws://u:p@a:1",
            "ws://a b:1",
            "ws://a:1/x y",
            "ws://[::g]:1",
            "ws://a:+1",
        ] {
            assert_eq!(key(wrong), None, "{wrong}");
        }
    }
}
