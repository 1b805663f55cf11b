//! A real Prometheus and a real Alertmanager with our own configuration, at short intervals and at
//! ports of their own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rollcall::client::{Client, encoded};
use serde_json::Value;
use tempfile::TempDir;

use super::bundle::{fetched, root};
use crate::support::eventually;
use crate::support::process::free_port;

/// A program of somebody else: it ends, and its folder goes, when this is dropped.
struct Process {
    child: Child,
    client: Client,
    _folder: TempDir,
}

impl Process {
    /// Starts one that listens there, and waits until it says that it is ready.
    async fn start(program: &str, words: &[String], address: SocketAddr, folder: TempDir) -> Self {
        let child = Command::new(program)
            .args(words)
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{program}: {error}; `make setup` installs it from Debian's packages")
            });
        let client = Client::new(&format!("http://{address}")).expect("an address");
        let started = Self { child, client, _folder: folder };
        eventually(&format!("a ready {program}"), async || {
            let asked = rollcall::client::Request::new(hyper::Method::GET, "/-/ready");
            match started.client.send(asked).await {
                Ok(answer) if answer.status == 200 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        started
    }

    async fn get(&self, path: &str) -> Value {
        self.client.get(path).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has nothing to keep; an error means that it has ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Which Prometheus.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Version {
    /// Debian's, which `make setup` installs: 2.42 on bookworm.
    Installed,
    /// 3.x, which `make setup` unpacks beside it: it drops a target whose Content-Type is wrong, and
    /// writes `le="1.0"` where 2.x writes `le="1"`.
    Three,
}

impl Version {
    fn program(self) -> String {
        match self {
            Self::Installed => "prometheus".to_owned(),
            Self::Three => three("prometheus"),
        }
    }
}

/// A program of Prometheus 3, as `make setup` has unpacked it.
pub(crate) fn three(program: &str) -> String {
    let part = format!("usr/bin/{program}");
    format!("{}/{part}", fetched("prometheus-3", &part))
}

/// See the module.
pub(crate) struct Prometheus(Process);

impl Prometheus {
    /// One of this version that scrapes the server at this URL each second, and others under the same
    /// job, judges by these rules, and tells this Alertmanager.
    pub(crate) async fn run(
        version: Version,
        server: &str,
        others: &[SocketAddr],
        rules: &Path,
        alertmanager: SocketAddr,
    ) -> Self {
        let address = free_port();
        let ours = std::fs::read_to_string(root().join("monitoring/prometheus.yml")).expect("it is there");
        let server = server.trim_start_matches("http://");
        let all: Vec<String> = others.iter().map(SocketAddr::to_string).chain([server.to_owned()]).collect();
        let config = ours
            .replace("[127.0.0.1:7600]", &format!("[{}]", all.join(", ")))
            .replace("127.0.0.1:7600", server)
            .replace("127.0.0.1:9090", &address.to_string())
            .replace("127.0.0.1:9093", &alertmanager.to_string())
            .replace("scrape_interval: 15s", "scrape_interval: 1s\n  scrape_timeout: 1s")
            .replace("scrape_interval: 60s", "scrape_interval: 1s")
            .replace("evaluation_interval: 30s", "evaluation_interval: 1s")
            .replace("refresh_interval: 30s", "refresh_interval: 500ms")
            .replace("scrape_timeout: 20s", "scrape_timeout: 1s")
            .replace("rules/*.yaml", &rules.display().to_string());
        let old = ["7600", "9090", "9093", "60s", "30s"];
        let used = config.lines().filter(|line| !line.trim_start().starts_with('#'));
        assert!(
            used.clone().all(|line| old.iter().all(|old| !line.contains(old) || line.contains("127.0.0.1:"))),
            "{config}"
        );
        let folder = tempfile::tempdir().expect("a folder can be made");
        let file = folder.path().join("prometheus.yml");
        std::fs::write(&file, config).expect("a file can be written");
        let words = [
            format!("--config.file={}", file.display()),
            format!("--storage.tsdb.path={}", folder.path().join("data").display()),
            // What was told before it knew the Alertmanager is told again soon.
            "--rules.alert.resend-delay=1s".to_owned(),
        ];
        Self(Process::start(&version.program(), &words, address, folder).await)
    }

    /// What it says that it is.
    pub(crate) async fn version(&self) -> String {
        let answer = self.0.get("/api/v1/status/buildinfo").await;
        answer["data"]["version"].as_str().expect("a version").to_owned()
    }

    /// Its targets, with what it got from each.
    pub(crate) async fn targets(&self) -> Vec<Value> {
        let answer = self.0.get("/api/v1/targets?state=active").await;
        answer["data"]["activeTargets"].as_array().expect("targets").clone()
    }

    /// What an instant query finds.
    pub(crate) async fn value(&self, query: &str) -> Vec<Value> {
        self.result(&format!("/api/v1/query?query={}", encoded(query)), query).await
    }

    /// What a query found over the last seconds, at every fifth of one.
    pub(crate) async fn history(&self, query: &str, seconds: u64) -> Vec<Value> {
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
        let path = format!(
            "/api/v1/query_range?query={}&start={}&end={now}&step=0.2",
            encoded(query),
            now - seconds
        );
        self.result(&path, query).await
    }

    async fn result(&self, path: &str, query: &str) -> Vec<Value> {
        let answer = self.0.get(path).await;
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().cloned().unwrap_or_default()
    }

    /// Every rule, as it judged last.
    pub(crate) async fn rules(&self) -> Vec<Value> {
        let answer = self.0.get("/api/v1/rules").await;
        let groups = answer["data"]["groups"].as_array().expect("groups").clone();
        groups.iter().flat_map(|group| group["rules"].as_array().expect("rules").clone()).collect()
    }
}

/// See the module.
pub(crate) struct Alertmanager {
    process: Process,
    pub(crate) address: SocketAddr,
}

impl Alertmanager {
    /// One with our configuration, which sends nothing anywhere.
    pub(crate) async fn start() -> Self {
        let (address, folder) = (free_port(), tempfile::tempdir().expect("a folder can be made"));
        let words = [
            format!("--config.file={}", root().join("monitoring/alertmanager.yml").display()),
            format!("--storage.path={}", folder.path().display()),
            "--cluster.listen-address=".to_owned(),
        ];
        // Debian's name for it, so that it is not taken for another program.
        Self { process: Process::start("prometheus-alertmanager", &words, address, folder).await, address }
    }

    /// The alerts of that name which it holds, suppressed ones too.
    pub(crate) async fn alerts(&self, name: &str) -> Vec<Value> {
        let all = self.process.get("/api/v2/alerts").await;
        let all = all.as_array().cloned().unwrap_or_default();
        all.into_iter().filter(|alert| alert["labels"]["alertname"] == name).collect()
    }
}
