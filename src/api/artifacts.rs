//! The routes about files: what tasks made, what callers upload for tasks to read. Bytes pass in
//! pieces, in both directions; no file is ever whole in memory.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH, IF_RANGE, LOCATION,
    RANGE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Request, Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::{JoinHandle, spawn_blocking};

use super::AppState;
use super::http::body::{Answer, Body, Reply, json, next_piece};
use super::http::json::Object;
use super::http::problem::{self, Refused};
use super::http::pulse::{Pulse, Streaming};
use super::http::query::percent_decoded;
use super::tasks;
use crate::client::encoded;
use crate::data::artifacts::{Artifacts, MAX_BYTES};
use crate::fleet::{Artifact, ContentHash};

/// Bytes read at once.
const PIECE: usize = 128 << 10;
/// Pieces of an upload that may wait for the disk.
const WAITING_PIECES: usize = 4;
/// What is said of bytes whose type nobody has told.
const UNKNOWN_TYPE: &str = "application/octet-stream";

/// `GET /v1/tasks/{id}/artifacts/{name}`
pub(super) async fn of_task(
    state: &AppState,
    parameters: &str,
    pulse: &Arc<Pulse>,
    request: &Request<Incoming>,
) -> Reply {
    let (id, name) = parameters.split_once("/artifacts/").unwrap_or((parameters, ""));
    let task = tasks::find(state, id).await?;
    let name = percent_decoded(name).unwrap_or_default();
    let Some(artifact) = task.artifacts.iter().find(|artifact| *artifact.name == *name) else {
        let nothing = problem::NO_SUCH_ARTIFACT.with(format!("the task has made no file called {name:?}"));
        return Err(nothing.hint("GET /v1/tasks/{id} lists its artifacts").into());
    };
    match open(state, &artifact.sha256).await? {
        Some(file) => send(state, file, artifact, pulse, request.headers()),
        None => {
            let gone = problem::ARTIFACT_EXPIRED.with("artifacts are kept for `retention.artifacts`");
            Err(gone.hint("run the task again (POST /v1/tasks/{id}/retry)").into())
        }
    }
}

/// `GET /v1/artifacts/{sha256}`
pub(super) async fn get(
    state: &AppState,
    hash: &str,
    pulse: &Arc<Pulse>,
    request: &Request<Incoming>,
) -> Reply {
    let nothing = || {
        let nothing = problem::NO_SUCH_ARTIFACT.with("there is no file with this SHA-256, or not any more");
        Refused::from(nothing.hint("POST /v1/artifacts takes files"))
    };
    let sha256 = hash.parse().map_err(|_| nothing())?;
    let file = open(state, &sha256).await?.ok_or_else(nothing)?;
    let artifact = Artifact { name: hash.into(), media_type: UNKNOWN_TYPE.into(), size: file.1, sha256 };
    send(state, file, &artifact, pulse, request.headers())
}

/// `POST /v1/artifacts`
pub(super) async fn give(state: &AppState, request: Request<Incoming>) -> Reply {
    let mut body = request.into_body();
    if body.size_hint().lower() > MAX_BYTES {
        return Err(too_large());
    }
    let artifacts = Arc::clone(state.manager().artifacts());
    let Some(_place) = state.manager().artifacts().giver().await else {
        return Err(problem::STOPPED.with("the server is stopping").into());
    };
    let (pieces, incoming) = mpsc::channel(WAITING_PIECES);
    let writing = spawn_blocking(move || write(&artifacts, incoming));
    let mut size = 0;
    while let Some(piece) = next_piece(&mut body).await? {
        size += piece.len() as u64;
        if size > MAX_BYTES {
            return Err(too_large());
        }
        if pieces.send(Some(piece)).await.is_err() {
            // The disk has failed; its own word follows.
            break;
        }
    }
    drop(pieces.send(None).await);
    let written = writing.await.map_err(|error| problem::INTERNAL.with(error.to_string()))?;
    let (hash, size) = written.map_err(|error| disk(&error))?;
    let mut out = Vec::with_capacity(256);
    let mut object = Object::new(&mut out);
    object.value("sha256", &hash).value("size", &size).text("$artifact", &format!("sha256:{hash}"));
    object.end();
    let mut answer = json(StatusCode::CREATED, out);
    answer.headers_mut().insert(LOCATION, header(format!("/v1/artifacts/{hash}")));
    Ok(answer)
}

/// Writes what comes; `None` is the end, and without it the upload broke off.
fn write(
    artifacts: &Artifacts,
    mut incoming: mpsc::Receiver<Option<Bytes>>,
) -> io::Result<(ContentHash, u64)> {
    let mut gift = artifacts.receive()?;
    while let Some(piece) = incoming.blocking_recv() {
        match piece {
            Some(piece) => gift.write(&piece)?,
            None => return gift.keep(),
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

async fn open(state: &AppState, hash: &ContentHash) -> Result<Option<(File, u64)>, Refused> {
    let (artifacts, hash) = (Arc::clone(state.manager().artifacts()), *hash);
    blocking(move || artifacts.open(&hash)).await
}

/// Asks the disk, away from the thread that dispatches.
async fn blocking<T: Send + 'static>(
    ask: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Refused> {
    let asked = spawn_blocking(ask).await.map_err(|error| problem::INTERNAL.with(error.to_string()))?;
    asked.map_err(|error| disk(&error))
}

fn disk(error: &io::Error) -> Refused {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            let full = problem::ARTIFACT_STORE_FULL.with("the disk under `server.data_dir` is nearly full");
            full.hint("free some of it, or lower `retention.artifacts`").retry_after(60).into()
        }
        _ => problem::INTERNAL.with(format!("the disk under `server.data_dir` failed: {error}")).into(),
    }
}

fn too_large() -> Refused {
    problem::BODY_TOO_LARGE.with(format!("an artifact has {MAX_BYTES} bytes at most")).into()
}

/// Answers with a file, or a part of it.
fn send(
    state: &AppState,
    (file, size): (File, u64),
    artifact: &Artifact,
    pulse: &Arc<Pulse>,
    asked: &HeaderMap,
) -> Reply {
    let tag = format!("\"{}\"", artifact.sha256);
    let mut answer = Response::new(Body::empty());
    let headers = answer.headers_mut();
    headers.insert(ETAG, header(&tag));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // Bytes of this name never change, but who may read them can, and they are not kept for ever.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    if names(asked, &tag) {
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(answer);
    }
    // A task wrote it: a browser must neither show it nor guess what it is.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; sandbox"));
    headers.insert(CONTENT_DISPOSITION, header(disposition(&artifact.name)));
    let media_type = HeaderValue::try_from(&*artifact.media_type);
    headers.insert(CONTENT_TYPE, media_type.unwrap_or(HeaderValue::from_static(UNKNOWN_TYPE)));
    let (from, end) = match range(asked, &tag, size) {
        Part::Whole => (0, size),
        Part::Of(from, end) => {
            headers.insert(CONTENT_RANGE, header(format!("bytes {from}-{}/{size}", end - 1)));
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
            (from, end)
        }
        Part::Nowhere => {
            let nowhere = problem::RANGE_NOT_SATISFIABLE.with(format!("the file has {size} bytes"));
            let mut answer = Answer::from(nowhere);
            answer.headers_mut().insert(CONTENT_RANGE, header(format!("bytes */{size}")));
            return Ok(answer);
        }
    };
    answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(end - from));
    let Ok(place) = Arc::clone(&state.0.streams).try_acquire_owned() else {
        return Err(problem::TOO_MANY_STREAMS.with("come back later").retry_after(10).into());
    };
    let (next, held) = (Next::File(Arc::new(file)), (pulse.streaming(), place));
    *answer.body_mut() = Body::Stream(Box::pin(Sending { next, at: from, end, _held: held }));
    Ok(answer)
}

/// Whether the client has it already (RFC 9110, section 13.1.2).
fn names(asked: &HeaderMap, tag: &str) -> bool {
    let tags = asked.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = tags.flat_map(|value| value.split(','));
    tags.any(|one| matches!(one.trim(), "*") || one.trim().trim_start_matches("W/") == tag)
}

/// Which part of a file is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Whole,
    /// From this byte to before that one.
    Of(u64, u64),
    /// One that the file does not have.
    Nowhere,
}

/// The one range that is asked for (RFC 9110, section 14). Several at once, and what cannot be read,
/// are answered with the whole, as that section allows.
fn range(asked: &HeaderMap, tag: &str, size: u64) -> Part {
    let still_fits = asked.get(IF_RANGE).is_none_or(|value| value.as_bytes() == tag.as_bytes());
    let text = asked.get(RANGE).and_then(|value| value.to_str().ok()).filter(|_| still_fits);
    let Some((from, end)) = text.and_then(|text| text.strip_prefix("bytes=")?.split_once('-')) else {
        return Part::Whole;
    };
    match (from.trim().parse::<u64>(), end.trim().parse::<u64>()) {
        (Ok(from), Ok(last)) if from > last => Part::Whole,
        (Ok(from), _) if from >= size && (end.trim().is_empty() || end.trim().parse::<u64>().is_ok()) => {
            Part::Nowhere
        }
        (Ok(from), Ok(last)) => Part::Of(from, size.min(last.saturating_add(1))),
        (Ok(from), Err(_)) if end.trim().is_empty() => Part::Of(from, size),
        (Err(_), Ok(0)) if from.trim().is_empty() => Part::Nowhere,
        (Err(_), Ok(_)) if from.trim().is_empty() && size == 0 => Part::Nowhere,
        (Err(_), Ok(last)) if from.trim().is_empty() => Part::Of(size.saturating_sub(last), size),
        _ => Part::Whole,
    }
}

/// "Save as", under a name that is harmless wherever it is saved (RFC 6266): the last part of it, with
/// nothing that a shell or a file system could take amiss.
fn disposition(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let last = last.trim_start_matches('.');
    let last = if last.is_empty() { "artifact" } else { last };
    let safe = |c: char| if c.is_ascii_alphanumeric() || "._- ".contains(c) { c } else { '_' };
    let plain: String = last.chars().map(safe).collect();
    if plain == last {
        format!("attachment; filename=\"{plain}\"")
    } else {
        format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{}", encoded(last))
    }
}

/// A header of our own making, which is always one: what is not is left empty.
fn header(text: impl AsRef<str>) -> HeaderValue {
    HeaderValue::try_from(text.as_ref()).unwrap_or(HeaderValue::from_static(""))
}

/// A part of a file as a body: read piece by piece, as the client takes it, off this thread.
struct Sending {
    next: Next,
    at: u64,
    end: u64,
    /// Keeps its connection from being taken for idle, and its place among the open streams.
    _held: (Streaming, OwnedSemaphorePermit),
}

enum Next {
    File(Arc<File>),
    Reading(Arc<File>, JoinHandle<io::Result<Bytes>>),
}

impl HttpBody for Sending {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        loop {
            match &mut this.next {
                _ if this.at >= this.end => return Poll::Ready(None),
                Next::File(file) => {
                    let (file, at, left) = (Arc::clone(file), this.at, this.end - this.at);
                    let reader = Arc::clone(&file);
                    this.next = Next::Reading(file, spawn_blocking(move || read(&reader, at, left)));
                }
                Next::Reading(file, reading) => {
                    let read = ready!(Pin::new(reading).poll(cx));
                    this.next = Next::File(Arc::clone(file));
                    match read.map_err(io::Error::other).flatten() {
                        Ok(bytes) if !bytes.is_empty() => {
                            this.at += bytes.len() as u64;
                            return Poll::Ready(Some(Ok(Frame::data(bytes))));
                        }
                        broken => {
                            // Too few bytes for the length that was told: the client sees it break off.
                            tracing::warn!(?broken, "an artifact cannot be read to its end");
                            this.end = this.at;
                        }
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.at >= self.end
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.end - self.at)
    }
}

fn read(file: &File, at: u64, left: u64) -> io::Result<Bytes> {
    let mut piece = vec![0; PIECE.min(usize::try_from(left).unwrap_or(PIECE))];
    let count = file.read_at(&mut piece, at)?;
    piece.truncate(count);
    Ok(piece.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(text: &str, size: u64) -> Part {
        range(&HeaderMap::from_iter([(RANGE, header(text))]), "\"a\"", size)
    }

    #[test]
    fn one_range_is_read_as_rfc_9110_says() {
        assert_eq!(part("bytes=0-0", 10), Part::Of(0, 1));
        assert_eq!(part("bytes=2-", 10), Part::Of(2, 10));
        assert_eq!(part("bytes=2-99", 10), Part::Of(2, 10));
        assert_eq!(part("bytes=-3", 10), Part::Of(7, 10));
        assert_eq!(part("bytes=-99", 10), Part::Of(0, 10));
        assert_eq!(part(&format!("bytes=1-{}", u64::MAX), 10), Part::Of(1, 10));
        for nowhere in ["bytes=10-", "bytes=10-12", "bytes=-0"] {
            assert_eq!(part(nowhere, 10), Part::Nowhere, "{nowhere}");
        }
        assert_eq!(part("bytes=-1", 0), Part::Nowhere);
        for whole in ["bytes=3-2", "bytes=0-1,4-5", "bytes=a-b", "bytes=", "items=0-1", "bytes=-"] {
            assert_eq!(part(whole, 10), Part::Whole, "{whole}");
        }
    }

    #[test]
    fn a_range_of_another_content_is_not_taken() {
        let asked = |tag: &str| {
            let asked = [(RANGE, header("bytes=1-2")), (IF_RANGE, header(tag))];
            range(&HeaderMap::from_iter(asked), "\"a\"", 10)
        };
        assert_eq!(asked("\"a\""), Part::Of(1, 3));
        assert_eq!(asked("\"b\""), Part::Whole);
    }

    #[test]
    fn a_client_that_has_it_is_told_so() {
        let has = |text: &str| names(&HeaderMap::from_iter([(IF_NONE_MATCH, header(text))]), "\"a\"");
        assert!(has("\"a\"") && has("W/\"a\"") && has("\"b\", \"a\"") && has("*"));
        assert!(!has("\"b\"") && !has("a") && !has(""));
    }

    #[test]
    fn a_file_is_saved_under_a_harmless_name() {
        assert_eq!(disposition("plot.png"), "attachment; filename=\"plot.png\"");
        assert_eq!(disposition("../../etc/passwd"), "attachment; filename=\"passwd\"");
        assert_eq!(disposition("C:\\x\\.ssh"), "attachment; filename=\"ssh\"");
        assert_eq!(disposition(".."), "attachment; filename=\"artifact\"");
        assert_eq!(
            disposition("a\"b;é.txt"),
            "attachment; filename=\"a_b__.txt\"; filename*=UTF-8''a%22b%3B%C3%A9.txt"
        );
    }
}
