//! A real browser without a window, driven by its own protocol over a WebSocket: what a story types
//! and reads is what a person would.

use std::process::Stdio;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::{PATIENCE, eventually};

/// What else a browser would do at its start, on a machine that reaches nobody.
const QUIET: &[&str] = &[
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
];

/// One page in a browser of its own; dropping ends it.
pub(crate) struct Page {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    session: Value,
    last: u64,
    /// Errors that the page or the browser told, but for answers with an error status.
    complaints: Vec<String>,
    _browser: Child,
    _profile: TempDir,
}

impl Page {
    /// Opens a page.
    pub(crate) async fn open(url: &str) -> Self {
        let profile = tempfile::tempdir().expect("a folder can be made");
        let mut browser = Command::new("chromium")
            .args(QUIET)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("chromium is there; `make setup` installs it");
        let mut lines = BufReader::new(browser.stderr.take().expect("piped")).lines();
        let address = loop {
            let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("it starts");
            let line = line.expect("it speaks").expect("it says where it listens");
            if let Some(address) = line.strip_prefix("DevTools listening on ") {
                break address.to_owned();
            }
        };
        // Read on, or a full pipe would stop the browser.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let (socket, _) = tokio_tungstenite::connect_async(address).await.expect("it takes a connection");
        let (session, complaints) = (Value::Null, Vec::new());
        let mut page = Self { socket, session, last: 0, complaints, _browser: browser, _profile: profile };
        let target = page.call("Target.createTarget", json!({ "url": "about:blank" })).await;
        let target = json!({ "targetId": target["targetId"], "flatten": true });
        page.session = page.call("Target.attachToTarget", target).await["sessionId"].take();
        for domain in ["Page", "Runtime", "Log"] {
            page.call(&format!("{domain}.enable"), json!({})).await;
        }
        page.looks(1280, 900, "light").await;
        page.call("Page.navigate", json!({ "url": url })).await;
        page
    }

    /// Sets the size of the window, and whether its owner likes it `light` or `dark`.
    pub(crate) async fn looks(&mut self, width: u32, height: u32, scheme: &str) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", size).await;
        let scheme = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", scheme).await;
    }

    /// The value of an expression in the page.
    pub(crate) async fn eval(&mut self, expression: &str) -> Value {
        let asked = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut answer = self.call("Runtime.evaluate", asked).await;
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].take()
    }

    /// Waits until an expression is true.
    pub(crate) async fn until(&mut self, expression: &str) {
        let text = "document.body?.innerText";
        let page = tokio::sync::Mutex::new(self);
        eventually(expression, async || {
            let mut page = page.lock().await;
            match page.eval(&format!("Boolean({expression})")).await {
                Value::Bool(true) => Ok(()),
                _ => Err(page.eval(text).await.to_string()),
            }
        })
        .await;
    }

    /// Waits until the page shows this text.
    pub(crate) async fn shows(&mut self, text: &str) {
        self.until(&format!("document.body?.innerText.includes({})", json!(text))).await;
    }

    /// Presses a key, such as `Tab` or `Enter`.
    pub(crate) async fn press(&mut self, key: &str) {
        let text = if key == "Enter" { "\r" } else { "" };
        let code = if key == "Enter" { 13 } else { 9 };
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { text } else { "" };
            let event =
                json!({ "type": kind, "key": key, "code": key, "text": text, "windowsVirtualKeyCode": code });
            self.call("Input.dispatchKeyEvent", event).await;
        }
    }

    /// What went wrong in the page so far.
    pub(crate) fn complaints(&self) -> &[String] {
        &self.complaints
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.last += 1;
        let mut asked = json!({ "id": self.last, "method": method, "params": params });
        if !self.session.is_null() {
            asked["sessionId"] = self.session.clone();
        }
        self.socket.send(Message::text(asked.to_string())).await.expect("the browser reads");
        loop {
            let message = tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("an answer");
            let message = message.expect("the browser is there").expect("it speaks");
            let Ok(text) = message.to_text() else { continue };
            let Ok(mut told) = serde_json::from_str::<Value>(text) else { continue };
            if told["id"] == self.last {
                assert!(told.get("error").is_none(), "{method}: {told}");
                return told["result"].take();
            }
            self.note(&told);
        }
    }

    fn note(&mut self, told: &Value) {
        let wrong = match told["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Log.entryAdded") => {
                let entry = &told["params"]["entry"];
                entry["level"] == "error" && entry["source"] != "network"
            }
            _ => false,
        };
        if wrong {
            self.complaints.push(told["params"].to_string());
        }
    }
}
