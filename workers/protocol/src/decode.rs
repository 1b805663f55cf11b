//! From text to a message and back. The `type` is read first and the frame then parsed as that one
//! struct, because serde's internally tagged enums would copy every payload.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::messages::*;

/// Why a text is not a frame.
#[derive(Debug)]
pub enum DecodeError {
    /// Not JSON, or no `type`, or a field of the wrong shape.
    Malformed(serde_json::Error),
    /// A `type` that this side does not know; answered with `error`, never a reason to close.
    UnknownType(String),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(error) => write!(f, "not a rollcall.v1 frame: {error}"),
            Self::UnknownType(name) => write!(f, "unknown frame type {name:?}"),
        }
    }
}

impl std::error::Error for DecodeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Malformed(error) => Some(error),
            Self::UnknownType(_) => None,
        }
    }
}

impl From<serde_json::Error> for DecodeError {
    fn from(error: serde_json::Error) -> Self {
        Self::Malformed(error)
    }
}

/// The `type` of a frame that begins with it, as ours do: saves a pass over the rest.
fn kind_in_front(text: &str) -> Option<&str> {
    let (kind, _) = text.strip_prefix("{\"type\":\"")?.split_once('"')?;
    (!kind.contains('\\')).then_some(kind)
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
}

/// Declares an enum of frames with its wire names, its decoder and the names by variant.
macro_rules! frames {
    ($(#[$doc:meta])* $name:ident<$life:lifetime> { $($(#[$vdoc:meta])* $variant:ident($inner:ty) = $wire:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub enum $name<$life> { $($(#[$vdoc])* $variant($inner),)* }

        impl<$life> $name<$life> {
            /// Reads one text message.
            ///
            /// # Errors
            /// [`DecodeError::Malformed`] or [`DecodeError::UnknownType`].
            pub fn decode(text: &$life str) -> Result<Self, DecodeError> {
                let kind = match kind_in_front(text) {
                    Some(kind) => Cow::Borrowed(kind),
                    None => serde_json::from_str::<Head<'_>>(text)?.kind,
                };
                match kind.as_ref() {
                    $($wire => Ok(Self::$variant(serde_json::from_str(text)?)),)*
                    other => Err(DecodeError::UnknownType(other.chars().take(64).collect())),
                }
            }

            /// The frame's `type`.
            pub fn kind(&self) -> &'static str {
                match self { $(Self::$variant(_) => $wire,)* }
            }
        }

        $(impl<$life> From<$inner> for $name<$life> {
            fn from(frame: $inner) -> Self { Self::$variant(frame) }
        })*

        impl<$life> $name<$life> {
            /// The frame as one text message.
            ///
            /// # Errors
            /// Only when a payload cannot be written as JSON, such as a number that is not finite.
            pub fn encode(&self) -> Result<String, serde_json::Error> {
                match self { $(Self::$variant(frame) => tagged($wire, frame),)* }
            }
        }
    };
}

frames! {
    /// A frame that a worker sends.
    FromWorker<'a> {
        /// See [`Register`].
        Register(Box<Register>) = "register",
        /// See [`Accepted`].
        Accepted(Accepted) = "accepted",
        /// See [`Rejected`].
        Rejected(Rejected) = "rejected",
        /// See [`Output`].
        Output(Output<'a>) = "output",
        /// See [`Progress`].
        Progress(Progress) = "progress",
        /// See [`Artifact`].
        Artifact(Artifact) = "artifact",
        /// See [`TaskResult`].
        Result(TaskResult<'a>) = "result",
        /// See [`WorkerHeartbeat`].
        Heartbeat(WorkerHeartbeat) = "heartbeat",
        /// See [`Goodbye`].
        Goodbye(Goodbye) = "goodbye",
        /// See [`ErrorFrame`].
        Error(ErrorFrame) = "error",
    }
}

frames! {
    /// A frame that the server sends.
    FromServer<'a> {
        /// See [`Registered`].
        Registered(Box<Registered>) = "registered",
        /// See [`ResultAck`].
        ResultAck(ResultAck) = "result_ack",
        /// See [`Credit`].
        Credit(Credit) = "credit",
        /// See [`Execute`].
        Execute(Execute<'a>) = "execute",
        /// See [`Cancel`].
        Cancel(Cancel) = "cancel",
        /// See [`Drain`].
        Drain(Drain) = "drain",
        /// See [`EndSession`].
        EndSession(EndSession) = "end_session",
        /// See [`ServerHeartbeat`].
        Heartbeat(ServerHeartbeat) = "heartbeat",
        /// See [`Goodbye`].
        Goodbye(Goodbye) = "goodbye",
        /// See [`ErrorFrame`].
        Error(ErrorFrame) = "error",
    }
}

/// Writes the fields with `type` before them: serde's own tagging would go through a slower
/// serializer for each frame of the hot path.
fn tagged(kind: &str, frame: &impl Serialize) -> Result<String, serde_json::Error> {
    let mut text = Vec::with_capacity(256);
    text.extend_from_slice(b"{\"type\":\"");
    text.extend_from_slice(kind.as_bytes());
    text.push(b'"');
    let brace = text.len();
    serde_json::to_writer(&mut text, frame)?;
    // The struct wrote `{}` or `{"field"...`: its brace becomes the comma after `type`.
    if text.get(brace + 1) == Some(&b'}') {
        text.remove(brace);
    } else {
        text[brace] = b',';
    }
    Ok(String::from_utf8(text).expect("serde_json writes UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_reads_back_as_what_was_written() {
        let (task, epoch) = (String::from("t"), 1 << 32);
        let raw: Box<serde_json::value::RawValue> =
            serde_json::value::to_raw_value(&[1, 2]).expect("plain JSON");
        let frames: Vec<FromServer<'_>> = vec![
            Box::<Registered>::default().into(),
            ResultAck { task: task.clone(), epoch, accepted: false, reason: Some("stale_epoch".into()) }
                .into(),
            Execute {
                task: task.clone(),
                epoch,
                connection: 3,
                attempt: 1,
                capability: "a.b".into(),
                input: &raw,
                deadline_ms: 5,
                session: None,
                session_new: None,
                session_ttl_ms: None,
                idempotency_key: None,
                traceparent: None,
            }
            .into(),
            Cancel { task, epoch, reason: "timeout".into() }.into(),
            EndSession { session: "s".into() }.into(),
            ServerHeartbeat {}.into(),
            Credit { number: 7, bytes: 1 << 18, ..Credit::default() }.into(),
            Credit { number: 7, stored: true, ..Credit::default() }.into(),
        ];
        for frame in frames {
            let text = frame.encode().expect("plain data");
            let back = FromServer::decode(&text).expect("our own frame");
            assert_eq!(back.kind(), frame.kind());
            assert_eq!(back.encode().expect("plain data"), text);
        }
    }

    #[test]
    fn output_text_is_borrowed_unless_it_has_escapes() {
        let text = r#"{"type":"output","task":"t","epoch":1,"stream":"stdout","offset":0,"data":"plain"}"#;
        let FromWorker::Output(output) = FromWorker::decode(text).expect("a frame") else {
            panic!("not output")
        };
        assert!(matches!(output.data, Cow::Borrowed("plain")));
    }

    #[test]
    fn an_unknown_type_is_told_apart_from_garbage() {
        assert!(
            matches!(FromWorker::decode(r#"{"type":"dance"}"#), Err(DecodeError::UnknownType(name)) if name == "dance")
        );
        let garbage = r#"{"type":"heartbeat"#;
        assert!(matches!(FromWorker::decode(garbage), Err(DecodeError::Malformed(_))));
        let elsewhere = r#"{ "load": 0.5, "type": "heartbeat" }"#;
        assert!(matches!(FromWorker::decode(elsewhere), Ok(FromWorker::Heartbeat(_))));
        assert!(matches!(FromWorker::decode("{"), Err(DecodeError::Malformed(_))));
    }
}
