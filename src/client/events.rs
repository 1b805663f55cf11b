//! Server-sent events, as the WHATWG's HTML standard section 9.2.6 reads them, with a bound on the
//! size of one event.

use std::collections::VecDeque;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout;

use super::pool::Connection;
use super::{Client, ClientError};

/// The largest event that is read.
const MAX_EVENT: usize = 16 << 20;
/// How long a stream may be silent: the server sends a comment every 15 s, so this one is dead.
const MAX_SILENCE: Duration = Duration::from_secs(60);

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerEvent {
    /// Its kind; `message` when the server named none.
    pub event: String,
    /// Its data.
    pub data: String,
    /// The id to go on from after it.
    pub id: Option<String>,
}

/// A stream of events.
pub struct Events {
    client: Client,
    body: Incoming,
    reader: Reader,
    ready: VecDeque<ServerEvent>,
    _connection: Connection,
}

impl Events {
    pub(super) fn new(client: Client, body: Incoming, connection: Connection) -> Self {
        Self { client, body, reader: Reader::default(), ready: VecDeque::new(), _connection: connection }
    }

    /// The next event; `None` when the server has ended the stream. Cancel-safe.
    ///
    /// # Errors
    /// [`ClientError::Broken`] when the connection ended within the stream,
    /// [`ClientError::Timeout`] when nothing was heard for a minute, [`ClientError::Answer`] for an
    /// event over the bound.
    pub async fn next(&mut self) -> Result<Option<ServerEvent>, ClientError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            let heard = timeout(MAX_SILENCE, self.body.frame()).await;
            let frame = heard.map_err(|_| self.client.silent(MAX_SILENCE))?;
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(self.client.broken(&error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.reader.feed(&data, &mut self.ready)?;
                    }
                }
            }
        }
    }
}

/// Bytes to events.
#[derive(Default)]
struct Reader {
    line: Vec<u8>,
    after_cr: bool,
    event: ServerEvent,
    has_data: bool,
}

impl Reader {
    fn feed(&mut self, bytes: &[u8], out: &mut VecDeque<ServerEvent>) -> Result<(), ClientError> {
        for byte in bytes {
            // A line ends with CR, LF, or both.
            let after_cr = std::mem::replace(&mut self.after_cr, *byte == b'\r');
            match byte {
                b'\n' if after_cr => {}
                b'\n' | b'\r' => {
                    let line = std::mem::take(&mut self.line);
                    self.take(&String::from_utf8_lossy(&line), out);
                }
                other => self.line.push(*other),
            }
            if self.line.len() + self.event.data.len() > MAX_EVENT {
                return Err(ClientError::Answer(format!("an event is larger than {MAX_EVENT} bytes")));
            }
        }
        Ok(())
    }

    fn take(&mut self, line: &str, out: &mut VecDeque<ServerEvent>) {
        if line.is_empty() {
            let id = self.event.id.clone();
            let event = std::mem::replace(&mut self.event, ServerEvent { id, ..ServerEvent::default() });
            if std::mem::take(&mut self.has_data) {
                let event_name = if event.event.is_empty() { "message".to_owned() } else { event.event };
                out.push_back(ServerEvent { event: event_name, ..event });
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.event),
            "id" if !value.contains('\0') => self.event.id = Some(value.to_owned()),
            "data" => {
                if self.has_data {
                    self.event.data.push('\n');
                }
                self.has_data = true;
                self.event.data.push_str(value);
            }
            // Comments keep the connection alive; other fields are for other clients.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(chunks: &[&str]) -> Vec<ServerEvent> {
        let (mut reader, mut out) = (Reader::default(), VecDeque::new());
        for chunk in chunks {
            assert!(reader.feed(chunk.as_bytes(), &mut out).is_ok());
        }
        out.into()
    }

    fn event(event: &str, data: &str, id: Option<&str>) -> ServerEvent {
        ServerEvent { event: event.into(), data: data.into(), id: id.map(str::to_owned) }
    }

    #[test]
    fn events_are_read_across_chunks_and_line_ends() {
        let text = ["id: 1-1\neven", "t: state\r", "\ndata: {\"a\":\ndata: 1}\n\n: ping\n\ndata:x\r\rdata"];
        let expected = [event("state", "{\"a\":\n1}", Some("1-1")), event("message", "x", Some("1-1"))];
        assert_eq!(read(&text), expected);
    }

    #[test]
    fn an_event_without_data_is_none() {
        assert!(read(&["event: state\n\n", "id: 7\n\n"]).is_empty());
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let (mut reader, mut out) = (Reader::default(), VecDeque::new());
        let mut feed = || (0..=16).try_for_each(|_| reader.feed(&vec![b'x'; 1 << 20], &mut out));
        assert!(matches!(feed(), Err(ClientError::Answer(_))));
    }
}
