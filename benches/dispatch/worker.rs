//! The no-op worker of both sides, in a process of its own. On the path `/echo` it sends each frame
//! back (the proxy's peer); on any other it speaks `rollcall.v1`, accepts every attempt and returns
//! its input. Written on the bare WebSocket, with batched writes, so that it costs as little beside
//! the server as the echo does.

use std::time::Duration;

use futures_util::{FutureExt, SinkExt, StreamExt};
use rollcall_protocol::{
    CapabilityOffer, FromServer, FromWorker, Register, SUBPROTOCOL, WorkerHeartbeat, features,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::Failure;
use crate::process;

/// What this worker offers.
pub(crate) const CAPABILITY: &str = "bench.noop";

/// The path of the proxy's echo.
pub(crate) const ECHO: &str = "/echo";

type Socket = WebSocketStream<TcpStream>;

/// The worker's process: prints its port, then serves any number of connections until its standard
/// input closes.
pub(crate) fn serve() -> Result<(), Failure> {
    process::end_with_parent();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        process::tell(&listener.local_addr()?.port().to_string())?;
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await?;
            connections.spawn(connection(stream));
            while connections.try_join_next().is_some() {}
        }
    })
}

/// One connection; an error is its end, and the server's loss to report.
async fn connection(mut stream: TcpStream) {
    process::set_nodelay(&mut stream);
    let mut echo = false;
    let small = WebSocketConfig::default().read_buffer_size(16 * 1024);
    #[expect(clippy::result_large_err, reason = "the callback's type is the library's")]
    let agree = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        echo = request.uri().path() == ECHO;
        if !echo {
            let subprotocol = HeaderValue::from_static(SUBPROTOCOL);
            response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, subprotocol);
        }
        Ok(response)
    };
    let Ok(socket) = tokio_tungstenite::accept_hdr_async_with_config(stream, agree, Some(small)).await else {
        return;
    };
    let ended = if echo { serve_echo(socket).await } else { serve_rollcall(socket).await };
    // The peer's end is this connection's end; nobody here has more to do about it.
    drop(ended);
}

async fn serve_echo(mut socket: Socket) -> Result<(), Error> {
    while let Some(message) = socket.next().await {
        let mut next = Some(Some(message));
        while let Some(Some(message)) = next {
            let message = message?;
            if message.is_binary() {
                socket.feed(message).await?;
            }
            next = socket.next().now_or_never();
        }
        socket.flush().await?;
    }
    Ok(())
}

async fn serve_rollcall(mut socket: Socket) -> Result<(), Error> {
    let register = Register {
        instance: format!("{:016x}", rand::random::<u64>()),
        kind: "bench".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        capabilities: vec![CapabilityOffer {
            name: CAPABILITY.to_owned(),
            idempotent: true,
            ..CapabilityOffer::default()
        }],
        features: [features::CANCEL, features::RESUME].map(str::to_owned).into(),
        ..Register::default()
    };
    socket.send(text(&Box::new(register).into())).await?;
    // Replaced by the server's interval with its `registered`.
    let mut heartbeat = tokio::time::interval(Duration::from_secs(5));
    loop {
        tokio::select! {
            message = socket.next() => {
                let mut next = Some(message);
                while let Some(message) = next {
                    let Some(message) = message.transpose()? else { return Ok(()) };
                    if let Message::Text(frame) = message {
                        answer(&mut socket, frame.as_str(), &mut heartbeat).await?;
                    }
                    next = socket.next().now_or_never();
                }
                socket.flush().await?;
            }
            _ = heartbeat.tick() => socket.send(text(&WorkerHeartbeat::default().into())).await?,
        }
    }
}

/// Takes one frame of the server; what it writes is flushed by the caller.
async fn answer(
    socket: &mut Socket,
    frame: &str,
    heartbeat: &mut tokio::time::Interval,
) -> Result<(), Error> {
    // What comes for every task is not parsed: beside the proxy an echo is what runs.
    if let Some(Attempt { task, epoch, input }) = Attempt::of(frame) {
        let accepted = format!(r#"{{"type":"accepted","task":"{task}","epoch":{epoch}}}"#);
        socket.feed(Message::text(accepted)).await?;
        let result = format!(
            r#"{{"type":"result","task":"{task}","epoch":{epoch},"status":"succeeded","output":{input}}}"#
        );
        return socket.feed(Message::text(result)).await;
    }
    if frame.starts_with(r#"{"type":"result_ack""#) {
        return Ok(());
    }
    match FromServer::decode(frame) {
        Ok(FromServer::Execute(_)) => {
            return Err(Error::Io(std::io::Error::other("an `execute` of a new form")));
        }
        Ok(FromServer::Registered(registered)) => {
            let every = Duration::from_millis(registered.heartbeat_interval_ms.max(100));
            *heartbeat = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
        }
        // Attempts end at once, so there is nothing to cancel, drain or resend.
        Ok(_) => {}
        Err(error) => eprintln!("bench worker: {error}"),
    }
    Ok(())
}

/// What there is to know of an `execute` frame, as pieces of its text.
struct Attempt<'a> {
    task: &'a str,
    epoch: &'a str,
    input: &'a str,
}

impl<'a> Attempt<'a> {
    /// The frame as the server writes it, field by field in the order that `docs/protocol.md` shows.
    fn of(frame: &'a str) -> Option<Self> {
        let rest = frame.strip_prefix(r#"{"type":"execute","task":""#)?;
        let (task, rest) = rest.split_once(r#"","epoch":"#)?;
        let (epoch, rest) = rest.split_once(',')?;
        let (_, rest) = rest.split_once(r#","input":"#)?;
        let (input, _) = rest.rsplit_once(r#","deadline_ms":"#)?;
        Some(Self { task, epoch, input })
    }
}

fn text(frame: &FromWorker<'_>) -> Message {
    let encoded = frame.encode().expect("plain fields and JSON that was read as JSON");
    Message::text(encoded)
}
