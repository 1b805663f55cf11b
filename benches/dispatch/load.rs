//! The load: so many keep-alive connections, each sending the next request when the last was
//! answered (a closed loop). Raw HTTP/1.1 with prepared bytes, the same for both sides, so that the
//! client takes as little as it can from the two cores it shares with what it measures.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Failure;
use crate::process;

/// What stands in a request where its key goes, and is as long as one.
const KEY: &str = "00000000-0000-0000-0000";

/// One caller's request.
struct Request {
    text: String,
    number: usize,
    sent: u64,
}

impl Request {
    /// Its bytes, with a key that no other has.
    fn next(&mut self) -> &[u8] {
        if let Some(at) = self.text.find("idempotency-key: ") {
            let at = at + "idempotency-key: ".len();
            self.sent += 1;
            let key = format!("{:08x}-{:04x}-{:09x}", std::process::id(), self.number, self.sent);
            self.text.replace_range(at..at + KEY.len(), &key);
        }
        self.text.as_bytes()
    }
}

/// What one client process is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The server's address.
    pub(crate) address: String,
    /// The request's target.
    pub(crate) target: String,
    /// The request's body.
    pub(crate) body: String,
    /// The status that every answer must have.
    pub(crate) status: u16,
    /// Whether each request bears an `Idempotency-Key` of its own.
    pub(crate) keyed: bool,
    /// How many requests are on their way at any time.
    pub(crate) concurrency: usize,
    /// How long the measured part lasts; a sixth of it goes before as a warm-up.
    pub(crate) measured: Duration,
}

/// What the client saw.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// Answers in the measured part.
    pub(crate) answers: u64,
    /// Answers in all, those of the warm-up too.
    pub(crate) answers_in_all: u64,
    /// How long the measured part was.
    pub(crate) seconds: f64,
    /// The median latency, in microseconds.
    pub(crate) p50_us: f64,
    /// The latency that one in a hundred exceeds, in microseconds.
    pub(crate) p99_us: f64,
}

/// The client's process: an [`Order`] as JSON in its argument, [`Seen`] as JSON on its output.
pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    process::end_with_parent();
    let [order] = arguments else { return Err("the load needs its order".into()) };
    let order: Order = serde_json::from_str(order)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let seen = runtime.block_on(load(&order))?;
    process::tell(&serde_json::to_string(&seen)?)?;
    Ok(())
}

async fn load(order: &Order) -> Result<Seen, String> {
    let key = if order.keyed { format!("idempotency-key: {KEY}\r\n") } else { String::new() };
    let request = format!(
        "POST {} HTTP/1.1\r\nhost: {}\r\n{key}content-type: application/json\r\ncontent-length: {}\r\n\r\n{}",
        order.target,
        order.address,
        order.body.len(),
        order.body
    );
    let start = Instant::now();
    let from = start + order.measured / 6;
    let until = from + order.measured;
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..order.concurrency {
        let request = Request { text: request.to_string(), number, sent: 0 };
        callers.spawn(caller(order.address.clone(), request, order.status, from, until));
    }
    let mut latencies = Vec::new();
    let mut in_all = 0;
    while let Some(ended) = callers.join_next().await {
        let (mut measured, answers) = ended.map_err(|error| error.to_string())??;
        latencies.append(&mut measured);
        in_all += answers;
    }
    if latencies.is_empty() {
        return Err("nothing was answered in time".to_owned());
    }
    latencies.sort_unstable();
    let quantile = |q: f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index below len")]
        let at = ((latencies.len() - 1) as f64 * q) as usize;
        latencies[at].as_secs_f64() * 1e6
    };
    Ok(Seen {
        answers: latencies.len() as u64,
        answers_in_all: in_all,
        seconds: order.measured.as_secs_f64(),
        p50_us: quantile(0.5),
        p99_us: quantile(0.99),
    })
}

/// One connection's closed loop: the latencies of answers between `from` and `until`, and how many
/// answers there were in all.
async fn caller(
    address: String,
    mut request: Request,
    status: u16,
    from: Instant,
    until: Instant,
) -> Result<(Vec<Duration>, u64), String> {
    let mut connection = Connection::open(&address).await.map_err(|error| error.to_string())?;
    let mut latencies = Vec::with_capacity(64 * 1024);
    let mut answers = 0;
    let mut now = Instant::now();
    while now < until {
        let sent = now;
        let got = connection.exchange(request.next()).await.map_err(|error| error.to_string())?;
        if got != status {
            return Err(format!("status {got} where {status} was due: {}", connection.text()));
        }
        now = Instant::now();
        answers += 1;
        if now >= from && now < until {
            latencies.push(now - sent);
        }
    }
    Ok((latencies, answers))
}

/// One keep-alive connection with its last answer.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
}

impl Connection {
    /// Connects.
    pub(crate) async fn open(address: &str) -> std::io::Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        process::set_nodelay(&mut stream);
        Ok(Self { stream, buffer: vec![0; 16 * 1024], filled: 0 })
    }

    /// Sends one request, reads its whole answer and gives its status.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> std::io::Result<u16> {
        self.stream.write_all(request).await?;
        self.filled = 0;
        let mut end = None;
        loop {
            if self.filled == self.buffer.len() {
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
            let read = self.stream.read(&mut self.buffer[self.filled..]).await?;
            if read == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            self.filled += read;
            if end.is_none() {
                end = head_end(&self.buffer[..self.filled])
                    .map(|head| Ok::<_, std::io::Error>(head + content_length(&self.buffer[..head])?))
                    .transpose()?;
            }
            if end.is_some_and(|end| self.filled >= end) {
                return status(&self.buffer[..self.filled]);
            }
        }
    }

    /// The last answer, head and body.
    pub(crate) fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.buffer[..self.filled])
    }
}

/// Where the body begins, once the whole head is there.
fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

fn status(bytes: &[u8]) -> std::io::Result<u16> {
    bytes
        .get(9..12)
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| std::io::Error::other("not an HTTP/1.1 answer"))
}

fn content_length(head: &[u8]) -> std::io::Result<usize> {
    head.split(|byte| *byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok()?.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .ok_or_else(|| std::io::Error::other("an answer without content-length"))
}
