//! Connections to one server, kept for the next request. A request goes out a second time only if
//! the first connection turned out to be closed before anything was sent.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long making a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// Idle connections that are kept.
const KEPT: usize = 256;

pub(super) struct Pool {
    host: String,
    port: u16,
    idle: Mutex<Vec<Connection>>,
}

/// One connection, and the task that drives it, which ends with it.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Why an exchange failed.
pub(super) enum Failure {
    /// There is no connection.
    Unreachable(io::Error),
    /// There was one.
    Broken(hyper::Error),
}

impl Pool {
    pub(super) fn new(host: String, port: u16) -> Self {
        Self { host, port, idle: Mutex::default() }
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) async fn exchange(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<(Response<Incoming>, Connection), Failure> {
        while let Some(mut connection) = self.take() {
            match connection.sender.try_send_request(request).await {
                Ok(response) => return Ok((response, connection)),
                Err(mut error) => match error.take_message() {
                    // Never sent: the server had closed the idle connection.
                    Some(unsent) => request = unsent,
                    None => return Err(Failure::Broken(error.into_error())),
                },
            }
        }
        let mut connection = self.connect().await?;
        let response = connection.sender.send_request(request).await.map_err(Failure::Broken)?;
        Ok((response, connection))
    }

    /// Keeps a connection whose answer was read to its end.
    pub(super) fn give_back(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT && !connection.sender.is_closed() {
            idle.push(connection);
        }
    }

    /// An idle connection that can take a request now.
    fn take(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(connection) = idle.pop() {
            if connection.sender.is_ready() {
                return Some(connection);
            }
        }
        None
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let connecting = TcpStream::connect((self.host.as_str(), self.port));
        let stream = timeout(CONNECT, connecting)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
            .map_err(Failure::Unreachable)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(Failure::Broken)?;
        // How it ends is told to whoever uses the sender.
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Connection { sender, driver })
    }
}
