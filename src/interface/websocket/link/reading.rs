//! What a worker says, and what is done about it.

use std::time::Duration;

use rollcall_protocol::{DecodeError, ErrorFrame, FromServer, FromWorker};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tracing::{debug, warn};

use super::ending::End;
use super::{Link, NUISANCES, Ping, translate};
use crate::fleet::{Report, Why};
use crate::interface::NotReported;

impl<S> Link<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    /// Acts on a message of the worker.
    pub(super) fn read(&mut self, message: Message) -> Result<(), End> {
        match message {
            Message::Text(text) => {
                self.alive()?;
                self.frame(&text)
            }
            Message::Ping(_) => {
                self.unflushed = true;
                self.nuisance()?;
                self.alive()
            }
            // No life: libraries answer pings while the worker hangs.
            Message::Pong(payload) => self.pong(&payload),
            Message::Binary(frame) => {
                self.alive()?;
                self.chunk(frame)
            }
            Message::Close(_) | Message::Frame(_) => Err(self.closed()),
        }
    }

    fn frame(&mut self, text: &str) -> Result<(), End> {
        let frame = match FromWorker::decode(text) {
            Ok(frame) => frame,
            Err(problem) => {
                self.io.meter.protocol_error(kind_of(&problem));
                return match problem {
                    DecodeError::UnknownType(_) => {
                        self.nuisance()?;
                        self.complain("unknown_type", &problem.to_string())
                    }
                    DecodeError::Malformed(_) => {
                        warn!(worker = %self.worker, %problem, "closing a connection that carries garbage");
                        self.complain("bad_frame", &problem.to_string())?;
                        Err(End::tell(Why::Protocol, CloseCode::Invalid))
                    }
                };
            }
        };
        self.io.meter.message("in", frame.kind(), text.len());
        let report = match frame {
            FromWorker::Accepted(frame) => translate::attempt(&frame.task, frame.epoch)
                .map(|(task, epoch)| Report::Accepted { task, epoch }),
            FromWorker::Result(frame) => match translate::result(frame) {
                Ok(result) => return self.result(result),
                Err(problem) => Err(problem),
            },
            FromWorker::Artifact(frame) => return self.announced(frame),
            FromWorker::Rejected(frame) => translate::rejected(frame),
            FromWorker::Heartbeat(frame) => Ok(translate::heartbeat(&frame)),
            FromWorker::Goodbye(frame) => {
                self.said_goodbye = true;
                Ok(translate::goodbye(frame))
            }
            FromWorker::Output(frame) => match translate::attempt(&frame.task, frame.epoch) {
                Ok((task, epoch)) => {
                    let (conn, stream) = (self.io.conn, translate::stream(frame.stream));
                    self.io.door.output(conn, task, epoch, stream, frame.offset, &frame.data);
                    return Ok(());
                }
                Err(problem) => Err(problem),
            },
            FromWorker::Progress(frame) => match translate::attempt(&frame.task, frame.epoch) {
                Ok((task, epoch)) => {
                    let message = frame.message.as_deref().map(translate::sentence);
                    let fraction = translate::fraction(frame.fraction);
                    self.io.door.progress(self.io.conn, task, epoch, fraction, message);
                    return Ok(());
                }
                Err(problem) => Err(problem),
            },
            FromWorker::Error(frame) => {
                // Never answered by `error`, or two peers could do so for ever.
                warn!(worker = %self.worker, code = ?frame.code, message = ?frame.message, "the worker complains");
                return self.nuisance();
            }
            FromWorker::Register(_) => {
                self.io.meter.protocol_error("unexpected");
                self.complain("already_registered", "register is the first frame and comes once")?;
                return Err(End::tell(Why::Protocol, CloseCode::Policy));
            }
        };
        match report {
            Ok(report) => self.report(report),
            Err(problem) => {
                self.io.meter.protocol_error("unexpected");
                debug!(worker = %self.worker, %problem, "ignored a frame about no task of ours");
                self.nuisance()
            }
        }
    }

    fn pong(&mut self, payload: &[u8]) -> Result<(), End> {
        let asked = |ping: &Ping| ping.nonce.to_be_bytes() == payload;
        let Some(ping) = self.pings.iter().position(asked).and_then(|at| self.pings.remove(at)) else {
            return self.nuisance();
        };
        let rtt = ping.sent.elapsed();
        self.io.meter.rtt(&self.worker, rtt);
        if let Some(answer) = ping.answer {
            // Who asked may have given up.
            answer.send(rtt).ok();
        }
        Ok(())
    }

    /// Reports life, at most every quarter interval.
    fn alive(&mut self) -> Result<(), End> {
        let now = self.now();
        if now - self.alive_at < self.interval / 4 {
            return Ok(());
        }
        self.alive_at = now;
        self.report(Report::Alive)
    }

    /// Tells the core, now or once there is room; nothing more is read before.
    pub(super) fn report(&mut self, report: Report) -> Result<(), End> {
        // Behind what had no room, it waits too: what a worker says stays in order.
        if !self.unsent.is_empty() {
            self.unsent.push_back(self.io.event(report));
            return Ok(());
        }
        match self.io.try_report(report) {
            Ok(()) => Ok(()),
            Err(NotReported::Full(event)) => {
                self.unsent.push_back(event);
                Ok(())
            }
            Err(NotReported::Closed) => Err(End::tell(Why::ServerShutdown, CloseCode::Away)),
        }
    }

    /// Counts what costs more than it brings, and ends a connection that overdoes it.
    pub(super) fn nuisance(&mut self) -> Result<(), End> {
        let now = Instant::now();
        if now - self.nuisances.0 >= Duration::from_secs(1) {
            self.nuisances = (now, 0);
        }
        self.nuisances.1 += 1;
        if self.nuisances.1 <= NUISANCES {
            return Ok(());
        }
        self.io.meter.protocol_error("rate");
        warn!(worker = %self.worker, "closing a connection with too many control or bad frames");
        Err(End::tell(Why::Protocol, CloseCode::Policy))
    }

    pub(super) fn complain(&mut self, code: &str, message: &str) -> Result<(), End> {
        let frame = FromServer::from(ErrorFrame { code: code.to_owned(), message: message.to_owned() });
        match frame.encode() {
            Ok(text) => self.send_text(frame.kind(), text),
            Err(_) => Ok(()),
        }
    }
}

/// The metrics' word for what cannot be read.
pub(super) fn kind_of(problem: &DecodeError) -> &'static str {
    match problem {
        DecodeError::Malformed(_) => "bad_json",
        DecodeError::UnknownType(_) => "bad_type",
    }
}
