//! An index of packages on loopback: pages of links, wheels made for a test, and a second address that
//! nobody is to ask.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::wheels;

/// An index that serves until it is dropped.
/// Its pages name the hashes of wheels, but for those of packages called `plain`.
pub(crate) struct Index {
    address: String,
    strangers: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

/// A package: its name, its version, what it needs. The files of one called `far` are said to lie elsewhere.
type Package<'a> = (&'a str, &'a str, &'a [&'a str]);

impl Index {
    pub(crate) async fn serve(folder: &Path, packages: &[Package<'_>]) -> Self {
        for (name, version, needs) in packages {
            wheels::make_needing(folder, name, version, 0, needs);
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let elsewhere = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let other = elsewhere.local_addr().expect("an address").to_string();
        let strangers = Arc::<AtomicUsize>::default();
        let mut serving = JoinSet::new();
        let (folder, seen) = (folder.to_owned(), Arc::clone(&strangers));
        serving.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that hangs up is a client that hangs up.
                drop(answer(stream, &folder, &other).await);
            }
        });
        serving.spawn(async move {
            while elsewhere.accept().await.is_ok() {
                seen.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { address, strangers, _serving: serving }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/simple", self.address)
    }

    /// How many connections came to where nobody was to go.
    pub(crate) fn strangers(&self) -> usize {
        self.strangers.load(Ordering::Relaxed)
    }
}

async fn answer(mut stream: TcpStream, folder: &Path, other: &str) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await? > 0 {}
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default();
    let (kind, body) = match path.strip_prefix("/simple/") {
        Some(project) => ("text/html", page(folder, project.trim_matches('/'), other).into_bytes()),
        None => {
            ("application/octet-stream", std::fs::read(folder.join(path.rsplit('/').next().unwrap_or("")))?)
        }
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&body).await
}

fn page(folder: &Path, project: &str, other: &str) -> String {
    let files = std::fs::read_dir(folder).expect("its folder").flatten();
    let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    let its = names.filter(|name| name.split('-').next() == Some(&project.replace('-', "_")));
    let base = if project == "far" { format!("http://{other}") } else { String::new() };
    let link = |name: String| {
        let hash = Sha256::digest(std::fs::read(folder.join(&name)).expect("its file"));
        let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let hash = if project == "plain" { String::new() } else { format!("#sha256={hash}") };
        format!("<a href=\"{base}/files/{name}{hash}\">{name}</a>\n")
    };
    its.map(link).collect()
}
