//! Bodies: a request's is read whole within a limit of bytes and of time; an answer's is either
//! there at once or a stream.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};

use super::problem::{self, Problem, Refused};

/// How long a client may take to send a whole body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// So much of a body that is too large is read on and thrown away, ...
const THROWN_AWAY: u64 = 16 << 20;

/// ... for so long, ...
const THROWING_AWAY: Duration = Duration::from_secs(5);

/// ... and while more comes within this.
const MORE: Duration = Duration::from_millis(250);

/// An answer.
pub(crate) type Answer = Response<Body>;

/// What a handler comes to.
pub(crate) type Reply = Result<Answer, Refused>;

/// The body of an answer.
pub(crate) enum Body {
    /// All of it.
    Whole(Option<Bytes>),
    /// Piece by piece.
    Stream(Pin<Box<dyn HttpBody<Data = Bytes, Error = Infallible> + Send>>),
}

impl Body {
    /// No bytes at all.
    pub(crate) fn empty() -> Self {
        Self::Whole(None)
    }

    /// These bytes.
    pub(crate) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self::Whole(Some(bytes.into()))
    }

    /// Whether it comes piece by piece.
    pub(crate) fn is_stream(&self) -> bool {
        matches!(self, Self::Stream(_))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(stream) => stream.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Self::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream(stream) => stream.size_hint(),
        }
    }
}

/// An answer with a body of this type. Nothing that the API says may be kept by a cache.
pub(crate) fn answer(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Body::whole(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// An answer in JSON, already written.
pub(crate) fn json(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    answer(status, "application/json", body)
}

/// An answer in JSON, of a value that always has a JSON form.
pub(crate) fn json_of(status: StatusCode, value: &impl serde::Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => json(status, body),
        Err(error) => {
            tracing::error!(%error, "an answer has no JSON form");
            problem::INTERNAL.with("the answer could not be written").into()
        }
    }
}

/// Reads a request's body whole.
///
/// # Errors
/// 413 beyond `limit` bytes, 408 when it is not there in time, 400 when it breaks off.
pub(crate) async fn read(mut body: Incoming, limit: u64) -> Result<Bytes, Refused> {
    if body.size_hint().lower() > limit {
        throw_away(&mut body).await;
        return Err(too_large(limit));
    }
    let mut collected = std::pin::pin!(collect(body, limit));
    // Most bodies came with their heads: no clock needs to run for them.
    if let Some(read) = collected.as_mut().now_or_never() {
        return read;
    }
    match tokio::time::timeout(BODY_TIMEOUT, collected).await {
        Ok(read) => read,
        Err(_) => Err(problem::BODY_TIMEOUT
            .with(format!("the body was not there within {} s", BODY_TIMEOUT.as_secs()))
            .into()),
    }
}

/// Reads on for a while what is refused: a client that is still sending when its connection ends hears of
/// that, and not of the answer.
async fn throw_away(body: &mut Incoming) {
    let reading = async {
        let mut left = THROWN_AWAY;
        while left > 0 {
            let Ok(Ok(Some(read))) = tokio::time::timeout(MORE, piece(body)).await else { return };
            left = left.saturating_sub(read.len() as u64);
        }
    };
    // Whoever sends on after that hears no answer.
    tokio::time::timeout(THROWING_AWAY, reading).await.unwrap_or_default();
}

async fn collect(mut body: Incoming, limit: u64) -> Result<Bytes, Refused> {
    let Some(first) = piece(&mut body).await? else { return Ok(Bytes::new()) };
    let mut held = first.len() as u64;
    if held > limit {
        return Err(too_large(limit));
    }
    // A small body comes in one piece, which is then not copied.
    let Some(second) = piece(&mut body).await? else { return Ok(first) };
    let mut whole = BytesMut::from(first);
    let mut next = Some(second);
    while let Some(piece_of_it) = next {
        held += piece_of_it.len() as u64;
        if held > limit {
            return Err(too_large(limit));
        }
        whole.extend_from_slice(&piece_of_it);
        next = piece(&mut body).await?;
    }
    Ok(whole.freeze())
}

/// The next piece of a body that is not read whole; `None` after the last.
///
/// # Errors
/// 408 when none comes in time, 400 when the body breaks off.
pub(crate) async fn next_piece(body: &mut Incoming) -> Result<Option<Bytes>, Refused> {
    match tokio::time::timeout(BODY_TIMEOUT, piece(body)).await {
        Ok(piece) => piece,
        Err(_) => Err(problem::BODY_TIMEOUT
            .with(format!("nothing of the body came for {} s", BODY_TIMEOUT.as_secs()))
            .into()),
    }
}

/// The next piece of data; trailers are skipped.
async fn piece(body: &mut Incoming) -> Result<Option<Bytes>, Refused> {
    while !body.is_end_stream() {
        match body.frame().await {
            None => return Ok(None),
            Some(Err(error)) => {
                return Err(problem::BAD_REQUEST.with(format!("the body broke off: {error}")).into());
            }
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
    Ok(None)
}

fn too_large(limit: u64) -> Refused {
    problem::BODY_TOO_LARGE
        .with(format!("the body is larger than {limit} bytes"))
        .hint("send less, or raise `server.max_body` in config.yaml")
        .into()
}

impl From<Problem> for Answer {
    fn from(problem: Problem) -> Self {
        problem.into_answer()
    }
}
