//! The only way out of an installer's sandbox: a Unix socket behind which the worker connects to the hosts
//! of the configured index, and to nothing else. What goes through is not looked at: with TLS it could not
//! be.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::source::Place;

/// Connections at once; pip makes a few.
const MOST_CONNECTIONS: usize = 16;

/// A request's first lines.
const LONGEST_HEAD: usize = 16 * 1024;

/// How long the first lines, and then the other side, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Places that were asked for and refused, at most; nobody reads more.
const MOST_REFUSED: usize = 8;

/// A proxy that serves until it is dropped.
pub(super) struct Proxy {
    serving: JoinSet<()>,
    refused: Arc<Mutex<BTreeSet<String>>>,
}

impl Proxy {
    /// Serves a socket at `path`, which a sandbox's own user may open.
    ///
    /// # Errors
    /// When there can be no socket at that path.
    pub(super) fn serve(path: &Path, allowed: BTreeSet<Place>) -> io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
        let refused = Arc::<Mutex<BTreeSet<String>>>::default();
        let (allowed, seen) = (Arc::new(allowed), Arc::clone(&refused));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                while connections.len() >= MOST_CONNECTIONS {
                    connections.join_next().await;
                }
                connections.spawn(carry(near, Arc::clone(&allowed), Arc::clone(&seen)));
            }
        });
        Ok(Self { serving, refused })
    }

    /// What was asked for and is not of the index, up to now.
    pub(super) fn refused(&self) -> Vec<String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort_all();
    }
}

/// A request to the proxy: where to, and what to say there first.
#[derive(Debug, PartialEq, Eq)]
struct Wish {
    place: Place,
    /// Absent in a tunnel.
    head: Option<String>,
}

async fn carry(mut near: UnixStream, allowed: Arc<BTreeSet<Place>>, refused: Arc<Mutex<BTreeSet<String>>>) {
    // Whatever goes wrong here, pip sees a connection that ended, and says so.
    let Ok(Ok((head, rest))) = timeout(PATIENCE, first_lines(&mut near)).await else { return };
    let Some(wish) = read_wish(&head) else {
        drop(near.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await);
        return;
    };
    if !allowed.contains(&wish.place) {
        remember(&refused, &wish.place);
        drop(near.write_all(b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n").await);
        return;
    }
    let Place { host, port } = &wish.place;
    let Ok(Ok(mut far)) = timeout(PATIENCE, TcpStream::connect((host.as_str(), *port))).await else {
        drop(near.write_all(b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n\r\n").await);
        return;
    };
    let begun = match &wish.head {
        None => near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await,
        Some(head) => far.write_all(head.as_bytes()).await,
    };
    if begun.is_ok() && far.write_all(&rest).await.is_ok() {
        drop(copy_bidirectional(&mut near, &mut far).await);
    }
}

fn remember(refused: &Mutex<BTreeSet<String>>, place: &Place) {
    let mut refused = refused.lock().unwrap_or_else(PoisonError::into_inner);
    if refused.len() < MOST_REFUSED {
        refused.insert(place.to_string());
    }
}

/// Everything up to the empty line, and what came with it behind that.
async fn first_lines(near: &mut UnixStream) -> io::Result<(String, Vec<u8>)> {
    let mut head = Vec::new();
    loop {
        if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = head.split_off(end + 4);
            return String::from_utf8(head).map(|head| (head, rest)).map_err(io::Error::other);
        }
        if head.len() > LONGEST_HEAD || near.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

/// `CONNECT host:port`, or a request for `http://host:port/path`.
fn read_wish(head: &str) -> Option<Wish> {
    let (line, fields) = head.split_once("\r\n")?;
    let mut words = line.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    if method == "CONNECT" {
        return Some(Wish { place: Place::read(target, None)?, head: None });
    }
    let target = target.strip_prefix("http://")?;
    let (authority, path) = target.split_once('/').unwrap_or((target, ""));
    let place = Place::read(authority, Some(80))?;
    // One request a connection: the next one may be for somebody else.
    let fields = fields.split("\r\n").filter(|field| {
        let name = field.split(':').next().unwrap_or_default();
        !name.is_empty()
            && !["connection", "proxy-connection", "keep-alive"].contains(&name.to_ascii_lowercase().as_str())
    });
    let mut head = format!("{method} /{path} {version}\r\n");
    for field in fields {
        head.push_str(field);
        head.push_str("\r\n");
    }
    head.push_str("Connection: close\r\n\r\n");
    Some(Wish { place, head: Some(head) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(host: &str, port: u16) -> Place {
        Place { host: host.into(), port }
    }

    #[test]
    fn a_tunnel_and_a_plain_request_name_where_they_go() {
        let tunnel = read_wish("CONNECT Index.Example:443 HTTP/1.1\r\nHost: elsewhere\r\n\r\n");
        assert_eq!(tunnel, Some(Wish { place: place("index.example", 443), head: None }));
        let plain =
            read_wish("GET http://127.0.0.1:8/a/b?c HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n");
        let head = "GET /a/b?c HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        assert_eq!(plain, Some(Wish { place: place("127.0.0.1", 8), head: Some(head.into()) }));
        for wrong in
            ["GET / HTTP/1.1\r\n\r\n", "CONNECT host HTTP/1.1\r\n\r\n", "\r\n\r\n", "CONNECT a:b c\r\n\r\n"]
        {
            assert_eq!(read_wish(wrong), None, "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn what_is_not_of_the_index_is_refused_and_remembered() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("proxy");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let proxy = Proxy::serve(&path, BTreeSet::from([place("index.example", 443)])).expect("a socket");
        let mut near = UnixStream::connect(&path).await.expect("it listens");
        near.write_all(format!("CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n").as_bytes())
            .await
            .expect("it reads");
        let mut answer = String::new();
        near.read_to_string(&mut answer).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        assert_eq!(proxy.refused(), [format!("127.0.0.1:{port}")]);
        let seen = timeout(Duration::from_millis(50), listener.accept()).await;
        assert!(seen.is_err(), "nobody was connected to");
    }
}
