//! Tokens that are guessed, a certificate that ends soon, and probes that do not come back.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use rollcall::client::Client;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Watch;
use crate::metrics::proving::is_ready;
use crate::support::authority::Authority;
use crate::support::program;

pub(super) const RAISED: [&str; 3] =
    ["RollcallAuthFailures", "RollcallCertificateExpiry", "RollcallProbeFailing"];

const DAY: Duration = Duration::from_secs(86_400);

/// A worker that dials in with a token that was made up; what it is answered.
async fn guesses(address: &str) -> u16 {
    let head = format!(
        "GET /v1/workers/connect HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: rollcall.v1\r\nAuthorization: Bearer guessed-0123456789abcdef\r\n\r\n"
    );
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(head.as_bytes()).await.expect("it is sent");
    let mut answer = Vec::new();
    // How it is closed does not matter once the head is there.
    drop(stream.read_to_end(&mut answer).await);
    let answer = String::from_utf8_lossy(&answer);
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default()
}

#[tokio::test]
async fn what_goes_wrong_at_the_doors_and_on_the_way_is_told_and_passes() {
    let folder = Arc::new(tempfile::tempdir().expect("a folder can be made"));
    let pki = tempfile::tempdir().expect("a folder can be made");
    let authority = Authority::new(pki.path());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let pair = authority.issue_to("server", &["127.0.0.1"], now + 90 * DAY);
    let (cert, key) = (pair.cert.display(), pair.key.display());
    let config = |failures: &str| {
        format!(
            "server: {{ listen: \"127.0.0.1:0\", workers_listen: {{ listen: \"127.0.0.1:0\", tls: {{ cert: {cert}, key: {key} }} }} }}
heartbeat: {{ interval: 500ms }}
telemetry: {{ probe: 500ms }}
workers:
  - {{ name: ann, capabilities: [once], token: \"${{OF_ANN}}\" }}
  - {{ name: echo, interface: mock, capabilities: [echo], mock: {{ latency: 1ms, failure_rate: {failures} }} }}
"
        )
    };
    let by = ["env", "OF_ANN=ann-0123456789abcdef0123456789abcdef"];
    let server = program::Server::start_in(&folder, &config("0.0"), &by);
    let client = Client::new(server.base()).expect("an address");
    is_ready(&client, "echo").await;
    let mut watch = Watch::over(server.base(), folder.path()).await;

    // Somebody guesses, and goes on when the answers come later and later.
    let address = server.base().trim_start_matches("http://").to_owned();
    watch
        .fire_while(&["RollcallAuthFailures"], async || {
            let answers = join_all((0..20).map(|_| guesses(&address))).await;
            assert!(answers.iter().all(|status| matches!(status, 401 | 429)), "{answers:?}");
        })
        .await;

    // A certificate is put there that ends in three days; then one that does not.
    authority.issue_to("server", &["127.0.0.1"], now + 3 * DAY);
    watch.fire(&["RollcallCertificateExpiry"]).await;
    authority.issue_to("server", &["127.0.0.1"], now + 90 * DAY);

    // A worker stays connected, and fails whatever it is given. The only one is never taken out.
    let write = |failures: &str| {
        std::fs::write(server.config(), config(failures)).expect("it can be written");
    };
    write("1.0");
    watch.fire(&["RollcallProbeFailing"]).await;
    write("0.0");
    watch.fall(&RAISED).await;
    watch.told(&RAISED);
}
