//! The two frames that the server sends for every task, written by hand: they are most of what it
//! sends, and neither needs more than its numbers put between fixed words.

#[cfg(doc)]
use crate::messages::{Execute, ResultAck};

/// An `execute` frame as one text message. `input` must be JSON, and what is said to be of digits and
/// hyphens just that; everything else is escaped where it needs it.
pub fn execute(frame: &ExecuteText<'_>) -> String {
    let mut text = String::with_capacity(384 + frame.input.len());
    text.push_str("{\"type\":\"execute\",\"task\":\"");
    text.push_str(frame.task);
    text.push_str("\",\"epoch\":");
    number(&mut text, frame.epoch);
    text.push_str(",\"connection\":");
    number(&mut text, frame.connection);
    text.push_str(",\"attempt\":");
    number(&mut text, frame.attempt.into());
    text.push_str(",\"capability\":");
    quoted(&mut text, frame.capability);
    text.push_str(",\"input\":");
    text.push_str(frame.input);
    text.push_str(",\"deadline_ms\":");
    number(&mut text, frame.deadline_ms);
    if let Some(session) = frame.session {
        text.push_str(",\"session\":");
        quoted(&mut text, session.name);
        text.push_str(if session.new { ",\"session_new\":true" } else { ",\"session_new\":false" });
        text.push_str(",\"session_ttl_ms\":");
        number(&mut text, session.ttl_ms);
    }
    // The task's id serves: it is the same for all its attempts and for nothing else.
    text.push_str(",\"idempotency_key\":\"");
    text.push_str(frame.task);
    text.push('"');
    if let Some(traceparent) = frame.traceparent {
        text.push_str(",\"traceparent\":\"");
        text.push_str(traceparent);
        text.push('"');
    }
    text.push('}');
    text
}

/// What an `execute` frame says; see [`Execute`].
#[derive(Debug, Clone, Copy)]
pub struct ExecuteText<'a> {
    /// The task's id: hexadecimal digits and hyphens.
    pub task: &'a str,
    /// The attempt's fencing number.
    pub epoch: u64,
    /// The connection it is sent on.
    pub connection: u64,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// What to do.
    pub capability: &'a str,
    /// The input, JSON.
    pub input: &'a str,
    /// How long the attempt may run from now, in milliseconds.
    pub deadline_ms: u64,
    /// The session that it runs in.
    pub session: Option<SessionText<'a>>,
    /// W3C trace context: hexadecimal digits and hyphens.
    pub traceparent: Option<&'a str>,
}

/// What an `execute` frame says of a session.
#[derive(Debug, Clone, Copy)]
pub struct SessionText<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether the attempt begins it.
    pub new: bool,
    /// How long it lives unused, in milliseconds.
    pub ttl_ms: u64,
}

/// A `result_ack` frame as one text message; see [`ResultAck`]. `refused` says why the result was
/// not recorded.
pub fn result_ack(task: &str, epoch: u64, refused: Option<&str>) -> String {
    let mut text = String::with_capacity(128);
    text.push_str("{\"type\":\"result_ack\",\"task\":\"");
    text.push_str(task);
    text.push_str("\",\"epoch\":");
    number(&mut text, epoch);
    text.push_str(if refused.is_none() { ",\"accepted\":true" } else { ",\"accepted\":false" });
    if let Some(reason) = refused {
        text.push_str(",\"reason\":");
        quoted(&mut text, reason);
    }
    text.push('}');
    text
}

fn number(text: &mut String, mut number: u64) {
    // 20 digits hold the largest number.
    let mut digits = [b'0'; 20];
    let mut from = digits.len();
    loop {
        from -= 1;
        digits[from] = b'0' + (number % 10).to_le_bytes()[0];
        number /= 10;
        if number == 0 {
            break;
        }
    }
    text.push_str(std::str::from_utf8(&digits[from..]).unwrap_or_default());
}

fn quoted(text: &mut String, value: &str) {
    if value.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        text.push('"');
        text.push_str(value);
        text.push('"');
    } else {
        text.push_str(&serde_json::Value::from(value).to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Execute, FromServer, ResultAck};

    #[test]
    fn what_is_written_by_hand_reads_as_the_frame_it_is() {
        let frame = ExecuteText {
            task: "0190a6c4-0000-7000-8000-000000000001",
            epoch: u64::MAX,
            connection: 0,
            attempt: 10,
            capability: "a.b",
            input: r#"{"x":[1,"\u00e4"]}"#,
            deadline_ms: 1_200,
            session: Some(SessionText { name: "quote \" and \n", new: true, ttl_ms: 900 }),
            traceparent: None,
        };
        let text = execute(&frame);
        let FromServer::Execute(back) = FromServer::decode(&text).expect("our own frame") else {
            panic!("not an execute: {text}")
        };
        let Execute { task, epoch, connection, attempt, capability, input, deadline_ms, .. } = &back;
        assert_eq!((task.as_str(), *epoch, *connection), (frame.task, frame.epoch, frame.connection));
        assert_eq!((*attempt, capability.as_ref(), input.get()), (10, "a.b", frame.input));
        assert_eq!(
            (*deadline_ms, back.session.as_deref()),
            (1_200, frame.session.map(|session| session.name))
        );
        assert_eq!((back.session_new, back.session_ttl_ms), (Some(true), Some(900)));
        assert_eq!((back.idempotency_key.as_deref(), back.traceparent.as_deref()), (Some(frame.task), None));
        assert_eq!(FromServer::from(back).encode().expect("plain data"), text, "as serde writes it");
    }

    #[test]
    fn acknowledgements_too() {
        for refused in [None, Some("stale_epoch")] {
            let text = result_ack("t", 1 << 32, refused);
            let frame = ResultAck {
                task: "t".into(),
                epoch: 1 << 32,
                accepted: refused.is_none(),
                reason: refused.map(str::to_owned),
            };
            assert_eq!(FromServer::from(frame).encode().expect("plain data"), text);
        }
    }
}
