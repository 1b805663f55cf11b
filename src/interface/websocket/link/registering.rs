//! The beginning of a connection: `register` comes first, soon, and makes sense.

use futures_util::StreamExt;
use rollcall_protocol::{FIRST_FRAME_TIMEOUT, FromWorker};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::ending::{End, code_of};
use super::reading::kind_of;
use super::{Link, Peer, translate};
use crate::fleet::{ConnectOutcome, Registration, Why};
use crate::interface::{Ended, LinkCommand};
use crate::trust::Pass;

impl<S> Link<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    /// Waits for `register`, which must be the first frame.
    pub(super) async fn first_frame(&mut self, peer: Peer) -> Result<Registration, (End, Ended)> {
        let (dialled, pass) = match peer {
            Peer::Dialled(worker) => (Some(worker), None),
            Peer::Came(pass) => (None, Some(pass)),
        };
        let text = self.first_text().await?;
        let detail = match FromWorker::decode(&text) {
            Ok(FromWorker::Register(frame)) => {
                self.io.meter.message("in", "register", text.len());
                match translate::registration(*frame, dialled) {
                    Ok(registration) => return self.admitted(registration, pass),
                    Err(detail) => {
                        self.io.meter.protocol_error("unexpected");
                        detail
                    }
                }
            }
            Ok(other) => {
                self.io.meter.protocol_error("unexpected");
                format!("the first frame is {}, not register", other.kind())
            }
            Err(problem) => {
                self.io.meter.protocol_error(kind_of(&problem));
                problem.to_string()
            }
        };
        // The peer may be gone; then there is nobody to tell.
        drop(self.complain("bad_register", &detail));
        Err(not_registered(End::tell(Why::Protocol, CloseCode::Policy), detail))
    }

    /// A registration under a name that what was shown is good for.
    fn admitted(
        &mut self,
        registration: Registration,
        pass: Option<Pass>,
    ) -> Result<Registration, (End, Ended)> {
        match pass.map_or(Ok(()), |pass| pass.admits(&registration.worker)) {
            Ok(()) => Ok(registration),
            Err(why) => {
                // The peer may be gone; then there is nobody to tell.
                drop(self.complain("unauthorized", &why));
                let end = End::tell(Why::Protocol, CloseCode::Policy);
                Err((end, Ended::NotConnected(ConnectOutcome::Auth, why)))
            }
        }
    }

    /// Waits for the first text, and not for long.
    async fn first_text(&mut self) -> Result<Utf8Bytes, (End, Ended)> {
        let deadline = Instant::now() + FIRST_FRAME_TIMEOUT;
        loop {
            let read = tokio::select! {
                read = self.ws.next() => read,
                () = sleep_until(deadline) => {
                    let end = End::tell(Why::Protocol, CloseCode::Policy);
                    return Err(not_registered(end, format!("no register within {FIRST_FRAME_TIMEOUT:?}")));
                }
                command = self.io.commands.recv() => match command {
                    // Nobody is there yet who could be told or measured.
                    Some(LinkCommand::Order(..) | LinkCommand::Probe(_)) => continue,
                    Some(LinkCommand::Close(why)) => return Err((End::tell(why, code_of(why)), Ended::Down(why))),
                    None => {
                        let why = Why::ServerShutdown;
                        return Err((End::tell(why, code_of(why)), Ended::Down(why)));
                    }
                },
            };
            let message = match read {
                Some(Ok(message)) => message,
                Some(Err(error)) => return Err(not_registered(self.ended(&error), error.to_string())),
                None => return Err(not_registered(self.closed(), "closed before register".to_owned())),
            };
            self.was_whole(&message);
            match message {
                Message::Text(text) => return Ok(text),
                Message::Ping(_) | Message::Pong(_) => self.nuisance().map_err(|end| {
                    not_registered(end, "more control frames than a worker needs".to_owned())
                })?,
                Message::Binary(_) | Message::Close(_) | Message::Frame(_) => {
                    let end = End::tell(Why::Protocol, CloseCode::Policy);
                    return Err(not_registered(end, "closed, or sent bytes, before register".to_owned()));
                }
            }
        }
    }
}

fn not_registered(end: End, detail: String) -> (End, Ended) {
    (end, Ended::NotConnected(ConnectOutcome::Handshake, detail))
}
