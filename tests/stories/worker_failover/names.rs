//! A worker whose endpoint is a name, and what befalls names (F19 of docs/guarantees.md): the server has
//! a hosts file of its own, in a mount namespace of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use hyper::Method;
use rollcall::client::{Client, Request};
use serde_json::Value;
use tempfile::TempDir;

use super::IMPATIENT;
use crate::support::eventually;
use crate::support::machine::{run, skip};
use crate::support::process::{WorkerProcess, free_port};
use crate::support::program::Server;

/// The server looks names up in its own files; beside them there is no resolver that answers.
const MOUNT: &str = "mount --bind \"$HERE/hosts\" /etc/hosts && mount --bind \"$HERE/resolv\" /etc/resolv.conf && exec \"$@\"";

struct Stage {
    folder: Arc<TempDir>,
    server: Server,
    client: Client,
    port: u16,
}

impl Stage {
    /// `None` where nothing can be mounted; that has been said then.
    fn set() -> Option<Self> {
        if let Err(why) = run("unshare", &["--mount", "mount", "--bind", "/etc", "/etc"]) {
            skip(&format!("names need a mount namespace: {why}"));
            return None;
        }
        let folder = Arc::new(tempfile::tempdir().expect("a folder can be made"));
        let port = free_port().port();
        let config = format!(
            "{IMPATIENT}workers:\n  - {{ name: ann, endpoint: \"ws://ann.story:{port}\", slots: 4 }}\n"
        );
        let file = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).expect("a file can be written")
        };
        file("hosts", "");
        file("resolv", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n");
        let server = Server::start_in(&folder, &config, &["unshare", "--mount", "sh", "-c", MOUNT, "sh"]);
        let client = Client::new(server.base()).expect("an address");
        Some(Self { folder, server, client, port })
    }

    /// From now on the name leads there.
    fn leads_to(&self, addresses: &[Ipv4Addr]) {
        let lines: String = addresses.iter().map(|address| format!("{address} ann.story\n")).collect();
        // Written in place: another file of the name would not be the one that is mounted.
        std::fs::write(self.folder.path().join("hosts"), lines).expect("a file can be written");
    }

    /// A worker's process there.
    fn worker(&self, address: Ipv4Addr) -> WorkerProcess {
        let folder: PathBuf = self.folder.path().join(address.to_string());
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        WorkerProcess::listen("ann", SocketAddr::from((address, self.port)), &folder)
    }

    async fn ann_is(&self, state: &str) -> Value {
        eventually(&format!("ann is {state}"), async || {
            let ann: Value = self.client.get("/v1/workers/ann").await.map_err(|error| error.to_string())?;
            if ann["state"] == state { Ok(ann) } else { Err(ann.to_string()) }
        })
        .await
    }

    /// The pid of whoever does a task now.
    async fn served_by(&self) -> Value {
        let request =
            Request::new(Method::POST, "/v1/tasks?wait=20s").body(r#"{"capability":"again","input":{}}"#);
        let answer = self.client.send(request).await.expect("an answer");
        let task: Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!(task["state"], "succeeded", "{task}");
        task["output"]["pid"].clone()
    }

    async fn counted(&self, outcome: &str) -> f64 {
        let page = self.client.send(Request::new(Method::GET, "/metrics")).await.expect("an answer");
        let page = String::from_utf8_lossy(&page.body).into_owned();
        let wanted = format!("outcome=\"{outcome}\"");
        let lines = page.lines().filter(|line| line.starts_with("rollcall_worker_connects_total{"));
        let of_outcome = lines.filter(|line| line.contains(&wanted));
        of_outcome.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

#[tokio::test]
async fn f19_a_name_that_fails_changes_and_has_fifty_addresses_costs_no_worker() {
    let Some(stage) = Stage::set() else { return };
    let [first, second] = [Ipv4Addr::new(127, 0, 19, 1), Ipv4Addr::new(127, 0, 19, 2)];
    // It leads nowhere: counted, and tried again ever more rarely.
    eventually("dials that find no address", async || {
        let counted = stage.counted("dns").await;
        if counted >= 2.0 { Ok(()) } else { Err(counted.to_string()) }
    })
    .await;
    let here = stage.worker(first);
    stage.leads_to(&[first]);
    stage.ann_is("ready").await;
    assert_eq!(stage.served_by().await, here.pid());

    // It changes while the connection stands: nothing happens before the connection ends.
    stage.leads_to(&[second]);
    let there = stage.worker(second);
    assert_eq!(stage.served_by().await, here.pid());
    here.kill();
    eventually("the other one", async || {
        let ann: Value = stage.client.get("/v1/workers/ann").await.map_err(|error| error.to_string())?;
        if ann["state"] == "ready" && ann["reconnects"] != 0 { Ok(()) } else { Err(ann.to_string()) }
    })
    .await;
    assert_eq!(stage.served_by().await, there.pid());

    // It fails, and so does the connection: where the name led last is dialled.
    stage.leads_to(&[]);
    there.kill();
    let before = stage.counted("ok").await;
    let again = stage.worker(second);
    eventually("the last good address", async || {
        let counted = stage.counted("ok").await;
        if counted > before { Ok(()) } else { Err(counted.to_string()) }
    })
    .await;
    stage.ann_is("ready").await;
    assert_eq!(stage.served_by().await, again.pid());

    // Fifty addresses, of which one answers, and that is a new one.
    let mut fifty: Vec<Ipv4Addr> = (50..99).map(|host| Ipv4Addr::new(127, 0, 19, host)).collect();
    fifty.push(first);
    stage.leads_to(&fifty);
    let last = stage.worker(first);
    again.kill();
    let before = stage.counted("ok").await;
    eventually("the one of fifty", async || {
        let counted = stage.counted("ok").await;
        if counted > before { Ok(()) } else { Err(counted.to_string()) }
    })
    .await;
    stage.ann_is("ready").await;
    assert_eq!(stage.served_by().await, last.pid());
    drop(stage.server);
}
