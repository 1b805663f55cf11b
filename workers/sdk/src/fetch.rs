//! Files that a task's input refers to, fetched from the server's API: by HTTP, beside the link, so that
//! no result stands behind megabytes.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Empty};
use hyper::header::{AUTHORIZATION, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rollcall_protocol::{Fault, TaskError};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use crate::Token;
use crate::task::error;

/// The environment's name for the server's URL, which a server sets for those that it launches.
pub const SERVER: &str = "ROLLCALL_SERVER";

/// How long the connection, and then each piece, may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A reference in an input, such as `{"$artifact": "sha256:…"}`; other fields of it are ignored.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct ArtifactReference {
    /// `sha256:` and 64 hexadecimal digits.
    #[serde(rename = "$artifact")]
    pub artifact: String,
}

impl ArtifactReference {
    /// The SHA-256, if this is a reference at all.
    fn sha256(&self) -> Option<&str> {
        let hash = self.artifact.strip_prefix("sha256:")?;
        let plain = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        plain.then_some(hash)
    }
}

/// Where the server's API is.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    authority: String,
    token: Option<Token>,
}

impl Api {
    /// Reads `http://host:port`, whatever path follows; `ws://` is taken as well. `None` for what it is not.
    pub(crate) fn read(url: &str, token: Option<Token>) -> Option<Self> {
        let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("ws://"))?;
        let authority = rest.split('/').next().filter(|authority| !authority.is_empty())?;
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let authority = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        Some(Self { authority, token })
    }

    /// Fetches a file of at most `most` bytes. Cancel-safe.
    pub(crate) async fn fetch(&self, reference: &ArtifactReference, most: usize) -> Result<Bytes, TaskError> {
        let wrong = || error("artifact_bad_reference", "this is no reference to a file", Fault::Caller);
        let hash = reference.sha256().ok_or_else(wrong)?;
        let answer = tokio::time::timeout(PATIENCE, self.ask(hash)).await;
        let (answer, _connection) = answer.map_err(|_| self.away(&"no answer in time"))??;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => {
                let message = format!("the server has no file sha256:{hash}, or not any more");
                return Err(error("artifact_missing", &message, Fault::Caller));
            }
            other => return Err(self.away(&other)),
        }
        let (mut body, mut bytes) = (answer.into_body(), BytesMut::new());
        loop {
            let piece = tokio::time::timeout(PATIENCE, body.frame()).await;
            let Some(piece) = piece.map_err(|_| self.away(&"it went silent"))? else { break };
            let piece = piece.map_err(|problem| self.away(&problem))?;
            let Some(data) = piece.data_ref() else { continue };
            if bytes.len() + data.len() > most {
                let message = format!("the file sha256:{hash} has more than {most} bytes");
                return Err(error("artifact_too_large", &message, Fault::Caller));
            }
            bytes.extend_from_slice(data);
        }
        let found: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        if found.eq_ignore_ascii_case(hash) {
            return Ok(bytes.freeze());
        }
        let message = format!("other bytes came than those of sha256:{hash}");
        Err(TaskError { retryable: true, ..error("artifact_corrupt", &message, Fault::Rollcall) })
    }

    async fn ask(
        &self,
        hash: &str,
    ) -> Result<(hyper::Response<hyper::body::Incoming>, AbortOnDropHandle<()>), TaskError> {
        let away = |problem: &dyn std::fmt::Display| self.away(problem);
        let stream = TcpStream::connect(&self.authority).await.map_err(|problem| away(&problem))?;
        let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken.map_err(|problem| away(&problem))?;
        let carrying = AbortOnDropHandle::new(tokio::spawn(async move {
            // Its end is seen where the answer is read.
            drop(connection.await);
        }));
        let mut request = Request::get(format!("/v1/artifacts/{hash}")).header(HOST, &self.authority);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token.bearer());
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|problem| away(&problem))?;
        let answer = sender.send_request(request).await.map_err(|problem| away(&problem))?;
        Ok((answer, carrying))
    }

    fn away(&self, problem: &dyn std::fmt::Display) -> TaskError {
        let message = format!("the file cannot be fetched from {}: {problem}", self.authority);
        TaskError { retryable: true, ..error("artifact_unreachable", &message, Fault::Worker) }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one request with this head and body; what it was asked.
    async fn once(status: &str, body: &'static [u8]) -> (Api, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("ws://{}/v1/workers/connect", listener.local_addr().expect("an address"));
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                assert!(stream.read_buf(&mut asked).await.expect("a request") > 0);
            }
            stream.write_all(head.as_bytes()).await.expect("it reads");
            stream.write_all(body).await.expect("it reads");
            String::from_utf8(asked).expect("text")
        });
        let token = Token::new("s3cret").expect("a token");
        (Api::read(&url, Some(token)).expect("a URL"), asked)
    }

    fn reference(bytes: &[u8]) -> ArtifactReference {
        let hash: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        ArtifactReference { artifact: format!("sha256:{hash}") }
    }

    #[tokio::test]
    async fn a_file_is_fetched_by_its_hash_and_checked_against_it() {
        let (api, asked) = once("200 OK", b"hello").await;
        assert_eq!(api.fetch(&reference(b"hello"), 5).await, Ok(Bytes::from_static(b"hello")));
        let asked = asked.await.expect("it answered").to_ascii_lowercase();
        assert!(asked.starts_with("get /v1/artifacts/2cf24dba"), "{asked}");
        assert!(asked.contains("authorization: bearer s3cret"), "{asked}");
        let (api, _asked) = once("200 OK", b"other").await;
        let problem = api.fetch(&reference(b"hello"), 5).await.expect_err("other bytes");
        assert_eq!((problem.code.as_str(), problem.retryable), ("artifact_corrupt", true));
    }

    #[tokio::test]
    async fn what_is_missing_too_large_or_away_says_whose_fault_that_is() {
        let (api, _asked) = once("200 OK", b"hello").await;
        let problem = api.fetch(&reference(b"hello"), 4).await.expect_err("too large");
        assert_eq!((problem.code.as_str(), problem.fault), ("artifact_too_large", Fault::Caller));
        let (api, _asked) = once("404 Not Found", b"").await;
        let problem = api.fetch(&reference(b"hello"), 5).await.expect_err("missing");
        assert_eq!((problem.code.as_str(), problem.fault), ("artifact_missing", Fault::Caller));
        let gone = Api::read("http://127.0.0.1:1", None).expect("a URL");
        let problem = gone.fetch(&reference(b"hello"), 5).await.expect_err("nobody is there");
        assert_eq!((problem.code.as_str(), problem.retryable), ("artifact_unreachable", true));
        for wrong in ["", "sha256:", "sha256:../../x", "md5:00"] {
            let reference = ArtifactReference { artifact: wrong.into() };
            let problem = gone.fetch(&reference, 5).await.expect_err(wrong);
            assert_eq!(problem.code, "artifact_bad_reference");
        }
    }
}
