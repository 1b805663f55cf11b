//! F34: certificates that are renewed, half written, foreign or expired; and workers that are dialled
//! under TLS. What is connected stays connected, whatever becomes of the files.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::net::TcpStream;

use super::{FLEET, OF_ANN, TIMES, TOKENS, listens};
use crate::support::authority::{Authority, put};
use crate::support::process::{Papers, WorkerProcess, free_port};
use crate::support::{Server, eventually};

/// The certificate that the listener shows to who comes now.
async fn shown(server: &Server, authority: &Authority) -> Vec<u8> {
    use rollcall_tls::Files as _;
    let files = rollcall_tls::ClientFiles { ca: Some(authority.ca()), identity: None };
    let stream = TcpStream::connect(server.workers_address()).await.expect("it listens");
    let name = rollcall_tls::ServerName::try_from("127.0.0.1").expect("a name");
    let connector = tokio_rustls::TlsConnector::from(files.load().expect("good files"));
    let stream = connector.connect(name, stream).await.expect("they agree");
    stream.get_ref().1.peer_certificates().expect("one is shown")[0].to_vec()
}

#[tokio::test]
async fn f34_certificates_are_renewed_under_load_and_no_connection_is_lost() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let authority = Authority::new(&folder.path().join("pki"));
    let config = listens("127.0.0.1:0", &authority, &["127.0.0.1"], false) + TIMES + FLEET;
    let server = Server::with_env(&config, &TOKENS);
    let url = format!("wss://{}", server.workers_address());
    let papers = Papers { token: Some(OF_ANN), believes: Some(authority.ca()), ..Papers::default() };
    let _ann = WorkerProcess::enter("ann", &url, folder.path(), &papers);
    let before = server.worker_is("ann", "ready").await;
    let first = shown(&server, &authority).await;
    let expiry = ["cert=\"api\""];
    let ends = server.metric("rollcall_tls_certificate_expiry_timestamp_seconds", &expiry).await;
    assert_eq!(ends, Some(4_070_908_800.0), "2099-01-01");

    // Tasks run all the while.
    let (done, mut ran) = (tokio::sync::watch::channel(false), 0);
    let load = async {
        while !*done.1.borrow() {
            assert_eq!(server.run("once", json!({})).await["state"], "succeeded");
            ran += 1;
        }
    };
    let renewals = async {
        // A half-written file is told, and changes nothing.
        let pki = folder.path().join("pki");
        let whole = std::fs::read_to_string(pki.join("server.pem")).expect("as written");
        put(&pki.join("server.pem"), &whole[..whole.len() / 2], 0o644);
        server.metric_reaches("rollcall_tls_reloads_total", &["outcome=\"invalid\""], 1.0).await;
        assert_eq!(shown(&server, &authority).await, first);
        // A whole new pair is taken up within seconds.
        let begun = Instant::now();
        authority.issue_until("server", &["127.0.0.1"], 2_098);
        eventually("the new certificate is shown", async || {
            let now = shown(&server, &authority).await;
            if now == first { Err("the old one".to_owned()) } else { Ok(()) }
        })
        .await;
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        server.metric_reaches("rollcall_tls_reloads_total", &["outcome=\"applied\""], 1.0).await;
        done.0.send_replace(true);
    };
    tokio::join!(load, renewals);
    assert!(ran > 10, "there was a load: {ran}");
    let after = server.worker_is("ann", "ready").await;
    assert_eq!(before["connection"], after["connection"], "one and the same connection");
    let ends = server.metric("rollcall_tls_certificate_expiry_timestamp_seconds", &expiry).await;
    assert_eq!(ends, Some(4_039_372_800.0), "2098-01-01");
}

#[tokio::test]
async fn a_worker_is_dialled_under_tls_and_both_show_who_they_are() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let authority = Authority::new(&folder.path().join("pki"));
    let address = free_port();
    let (worker, client) =
        (authority.issue("worker", &["127.0.0.1"]), authority.issue("client", &["rollcall"]));
    let ca = authority.ca();
    let papers =
        Papers { token: Some(OF_ANN), believes: Some(ca.clone()), shows: Some(worker), inside: None };
    let _ann = WorkerProcess::listen_with("ann", address, folder.path(), &papers);
    let config = |tls: &str| {
        format!(
            "{TIMES}workers: [{{ name: ann, endpoint: \"wss://{address}\", token: \"${{OF_ANN}}\", tls: {{ {tls} }} }}]\n"
        )
    };
    let (ca, cert, key) = (ca.display(), client.cert.display(), client.key.display());
    let server = Server::with_env(&config(&format!("ca: {ca}")), &TOKENS);
    server.metric_reaches("rollcall_worker_connects_total", &["outcome=\"handshake\""], 1.0).await;
    // It wants to see a certificate, too; the endpoint is the same, so the next dial shows it.
    let whole = config(&format!("ca: {ca}, cert: {cert}, key: {key}"));
    std::fs::write(server.config_file(), whole).expect("a file can be written");
    assert_eq!(server.post("/-/reload", "").await.0, 200);
    server.worker_is("ann", "ready").await;
    assert_eq!(server.run("once", json!({})).await["state"], "succeeded");
    let expiry = ["cert=\"worker_client\""];
    let ends = server.metric("rollcall_tls_certificate_expiry_timestamp_seconds", &expiry).await;
    assert_eq!(ends, Some(4_070_908_800.0));
}

#[tokio::test]
async fn a_worker_whose_certificate_is_foreign_is_not_believed_and_one_is_told_why() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let (ours, theirs) =
        (Authority::new(&folder.path().join("ours")), Authority::new(&folder.path().join("theirs")));
    let (stranger, misnamed) = (free_port(), free_port());
    let papers = |pair| Papers { token: Some(OF_ANN), shows: Some(pair), ..Papers::default() };
    let of_theirs = papers(theirs.issue("worker", &["127.0.0.1"]));
    let of_another = papers(ours.issue("worker", &["elsewhere.example"]));
    let _one = WorkerProcess::listen_with("one", stranger, folder.path(), &of_theirs);
    let _two = WorkerProcess::listen_with("two", misnamed, folder.path(), &of_another);
    let entry = |name: &str, address| {
        let ca = ours.ca();
        format!(
            "  - {{ name: {name}, endpoint: \"wss://{address}\", token: \"${{OF_ANN}}\", tls: {{ ca: {} }} }}\n",
            ca.display()
        )
    };
    let config = format!("{TIMES}workers:\n{}{}", entry("one", stranger), entry("two", misnamed));
    let server = Server::with_env(&config, &TOKENS);
    for (name, told) in
        [("one", "`tls.ca` names the right one"), ("two", "for another host than the one that was dialled")]
    {
        eventually("the reason is told", async || {
            let worker = server.get(&format!("/v1/workers/{name}")).await;
            let error = worker["last_error"].to_string();
            if error.contains(told) { Ok(()) } else { Err(worker.to_string()) }
        })
        .await;
    }
    server.metric_reaches("rollcall_worker_connects_total", &["outcome=\"tls\""], 2.0).await;
}
