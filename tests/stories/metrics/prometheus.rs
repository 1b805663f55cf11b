//! A real Prometheus, with our own scrape configuration and short intervals.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use rollcall::client::{Client, encoded};
use serde_json::Value;

use crate::support::{PATIENCE, Server};

/// A Prometheus of its own: its folder and process end with it.
pub(crate) struct Prometheus {
    process: Child,
    client: Client,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    /// Starts one with our configuration, its targets replaced and its intervals shortened.
    pub(crate) fn scraping(server: &Server) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("monitoring");
        let ours = std::fs::read_to_string(root.join("prometheus.yml")).expect("our scrape configuration");
        let config = ours
            .replace("127.0.0.1:7600", server.client().base().trim_start_matches("http://"))
            .replace("_interval: 15s", "_interval: 500ms")
            .replace("_interval: 60s", "_interval: 500ms")
            .replace("_interval: 30s", "_interval: 500ms")
            .replace("_timeout: 20s", "_timeout: 500ms")
            .replace("rules/*.yaml", &root.join("rules/*.yaml").display().to_string());
        assert!(!config.contains("7600") && config.matches("500ms").count() == 6, "{config}");
        let folder = tempfile::tempdir().expect("a folder can be made");
        let file = folder.path().join("prometheus.yml");
        std::fs::write(&file, config).expect("a file can be written");
        let mut process = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg("--web.listen-address=127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("prometheus is missing; `make setup` installs it (Debian's package `prometheus`)");
        // It says where it listens; what it says later must be read too, or it would stop there.
        let lines = BufReader::new(process.stderr.take().expect("piped")).lines();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let address = line.split("msg=\"Listening on\" address=").nth(1);
                if let Some(address) = address.and_then(|rest| rest.split_whitespace().next()) {
                    // The story may be over.
                    drop(tell.send(address.to_owned()));
                }
            }
        });
        let address = told.recv_timeout(PATIENCE).expect("prometheus says where it listens");
        let client = Client::new(&format!("http://{address}")).expect("an address");
        Self { process, client, _folder: folder }
    }

    /// What an instant query finds.
    pub(crate) async fn value(&self, query: &str) -> Vec<Value> {
        let path = format!("/api/v1/query?query={}", encoded(query));
        let answer: Value = self.client.get(&path).await.unwrap_or_else(|error| panic!("{query}: {error}"));
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().cloned().unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It has nothing to keep; an error means that it has ended by itself.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
