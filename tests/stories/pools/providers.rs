//! Every provider keeps the same contract: it is told a level and answers once, the same call twice is
//! one, a failure is told with its reason, and nothing outlives its time.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rollcall::fleet::*;
use rollcall::provider::{Exec, HookFault, Instances, Nobody, Process, Provider, Webhook, signature};
use serde_json::{Value, json};

/// The key of the signatures.
const SECRET: &str = "a secret of sixteen and more";

/// How a hook behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Willing,
    Refusing,
    Hanging,
}

/// A provider with whatever stands behind it.
struct Subject {
    provider: Arc<dyn Provider>,
    hook: Option<HookSpec>,
    kind: ProviderKind,
    told: Told,
    _folder: tempfile::TempDir,
}

/// Where a hook leaves what it was told.
enum Told {
    Nothing,
    Lines(std::path::PathBuf),
    Posts(Arc<Mutex<Vec<Post>>>),
}

/// A request as a webhook's receiver sees it.
#[derive(Debug, Clone)]
struct Post {
    path: String,
    headers: BTreeMap<String, String>,
    body: String,
}

fn hook(command: Vec<String>, url: String, timeout: Duration) -> HookSpec {
    HookSpec { command, env: BTreeMap::new(), url, secret: SECRET.to_owned(), timeout }
}

/// A receiver that answers each post with the next status, the last one again and again.
fn receiver(statuses: Vec<&'static str>) -> (String, Arc<Mutex<Vec<Post>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/scale?of=pool", listener.local_addr().expect("bound"));
    let posts = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&posts);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let post = read_post(&stream);
            let mut posts = noted.lock().expect("nobody panics with it");
            let status = statuses[posts.len().min(statuses.len() - 1)];
            posts.push(post);
            if status == "hang" {
                // Held open without an answer for as long as the test runs.
                std::mem::forget(stream);
                continue;
            }
            let more = if status.starts_with('3') { "location: http://127.0.0.1:1/\r\n" } else { "" };
            let answer = format!("HTTP/1.1 {status}\r\n{more}content-length: 0\r\nconnection: close\r\n\r\n");
            drop((&stream).write_all(answer.as_bytes()));
        }
    });
    (url, posts)
}

fn read_post(stream: &TcpStream) -> Post {
    let mut reader = BufReader::new(stream);
    let mut line = || {
        let mut text = String::new();
        reader.read_line(&mut text).expect("a line");
        text.trim_end().to_owned()
    };
    let path = line().split(' ').nth(1).expect("a path").to_owned();
    let mut headers = BTreeMap::new();
    while let Some((name, value)) =
        Some(line()).filter(|it| !it.is_empty()).as_deref().and_then(|it| it.split_once(": "))
    {
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").and_then(|it| it.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    Post { path, headers, body: String::from_utf8(body).expect("UTF-8") }
}

impl Subject {
    fn new(kind: ProviderKind, mood: Mood) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let timeout =
            if mood == Mood::Hanging { Duration::from_millis(300) } else { Duration::from_secs(20) };
        let (provider, hook, told): (Arc<dyn Provider>, _, _) = match kind {
            ProviderKind::Process => (Arc::new(Process::default()), None, Told::Nothing),
            ProviderKind::External => (Arc::new(Nobody), None, Told::Nothing),
            ProviderKind::Exec => {
                let (script, lines) = script(folder.path(), mood);
                (Arc::new(Exec), Some(hook(vec![script], String::new(), timeout)), Told::Lines(lines))
            }
            ProviderKind::Webhook => {
                let status = match mood {
                    Mood::Willing => "204 No Content",
                    Mood::Refusing => "403 Forbidden",
                    Mood::Hanging => "hang",
                };
                let (url, posts) = receiver(vec![status]);
                (Arc::new(Webhook::default()), Some(hook(Vec::new(), url, timeout)), Told::Posts(posts))
            }
        };
        Self { provider, hook, kind, told, _folder: folder }
    }

    fn pool(&self) -> Arc<PoolSpec> {
        let is_process = self.kind == ProviderKind::Process;
        let template = WorkerSpec {
            name: "template".into(),
            formerly: None,
            origin: Origin::Pool,
            pool: None,
            interface: InterfaceKind::Websocket,
            endpoint: is_process.then(|| "ws://127.0.0.1:{port}".into()),
            capabilities: None,
            slots: None,
            timeout: Duration::from_secs(60),
            labels: BTreeMap::new(),
            launch: None,
            mock: MockSpec::default(),
        };
        let scaling = Scaling { max: 9, provider: self.kind, hook: self.hook.clone(), ..Scaling::default() };
        Arc::new(PoolSpec { name: "p".into(), formerly: None, template, scaling })
    }

    async fn asked(&self, call: u64) -> Result<Instances, HookFault> {
        let wanted = Wanted {
            call,
            from: 1,
            to: 3,
            reason: "backlog",
            added: vec!["p-2".into(), "p-3".into()],
            victims: vec!["p-7".into()],
        };
        self.provider.reconcile(self.pool(), Arc::new(wanted)).await
    }

    /// The documents that the hook was told.
    fn documents(&self) -> Vec<Value> {
        let parsed = |text: &str| serde_json::from_str(text).expect("JSON");
        match &self.told {
            Told::Nothing => Vec::new(),
            Told::Lines(file) => {
                std::fs::read_to_string(file).expect("it was told").lines().map(parsed).collect()
            }
            Told::Posts(posts) => {
                posts.lock().expect("nobody panics with it").iter().map(|post| parsed(&post.body)).collect()
            }
        }
    }
}

/// A hook's script in a folder, and the file in which it notes what it was told.
fn script(folder: &Path, mood: Mood) -> (String, std::path::PathBuf) {
    use std::os::unix::fs::PermissionsExt as _;
    let (file, lines) = (folder.join("hook"), folder.join("told"));
    let told = lines.display();
    let rest = match mood {
        Mood::Willing => "exit 0",
        Mood::Refusing => "echo 'no more machines' >&2; exit 7",
        // A grandchild that holds its output open hangs like its parent.
        Mood::Hanging => "sleep 600 & echo $! > \"$0.pid\"; wait",
    };
    let text = format!("#!/bin/sh\ncat >> {told}; echo >> {told}; env > \"$0.env\"\n{rest}\n");
    std::fs::write(&file, text).expect("written");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o700)).expect("made a program");
    (file.display().to_string(), lines)
}

#[tokio::test]
async fn every_provider_answers_and_the_same_call_twice_is_one() {
    for kind in ProviderKind::ALL {
        let subject = Subject::new(kind, Mood::Willing);
        for call in 1..=2 {
            let done = subject.asked(call).await.unwrap_or_else(|fault| panic!("{kind:?}: {fault}"));
            let ports = if kind == ProviderKind::Process { 2 } else { 0 };
            assert_eq!(done.ports.len(), ports, "{kind:?}");
        }
        let document = |call: u64| {
            json!({ "pool": "p", "from": 1, "to": 3, "reason": "backlog", "added": ["p-2", "p-3"],
                    "victims": ["p-7"], "call": call })
        };
        if subject.hook.is_some() {
            assert_eq!(subject.documents(), [document(1), document(2)], "{kind:?}");
        }
    }
}

#[tokio::test]
async fn a_hook_that_says_no_is_a_failure_with_its_reason() {
    for (kind, reason) in [(ProviderKind::Exec, "no more machines"), (ProviderKind::Webhook, "403 Forbidden")]
    {
        let subject = Subject::new(kind, Mood::Refusing);
        match subject.asked(1).await {
            Err(HookFault::Failed(why)) => assert!(why.contains(reason), "{kind:?}: {why}"),
            other => panic!("{kind:?}: {other:?}"),
        }
        assert_eq!(subject.documents().len(), 1, "{kind:?}: a no is not asked again");
    }
}

#[tokio::test]
async fn a_hook_that_hangs_is_given_up_in_its_time() {
    for kind in [ProviderKind::Exec, ProviderKind::Webhook] {
        let subject = Subject::new(kind, Mood::Hanging);
        let began = Instant::now();
        let fault = subject.asked(1).await.expect_err("it hangs");
        assert_eq!(fault, HookFault::Timeout(Duration::from_millis(300)), "{kind:?}");
        assert!(began.elapsed() < Duration::from_secs(10), "{kind:?} took {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn nothing_of_a_command_that_hangs_is_left_behind() {
    let subject = Subject::new(ProviderKind::Exec, Mood::Hanging);
    subject.asked(1).await.expect_err("it hangs");
    let Told::Lines(lines) = &subject.told else { panic!("an exec hook") };
    let pid = std::fs::read_to_string(lines.with_file_name("hook.pid")).expect("it was started");
    let pid: i32 = pid.trim().parse().expect("a pid");
    let began = Instant::now();
    // One that was killed may wait for a moment until it is reaped.
    let gone = || {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        state.is_empty() || state.contains(") Z ")
    };
    while !gone() {
        assert!(began.elapsed() < Duration::from_secs(10), "the grandchild {pid} is still there");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_command_gets_a_clean_environment() {
    let subject = Subject::new(ProviderKind::Exec, Mood::Willing);
    subject.asked(1).await.expect("willing");
    let Told::Lines(lines) = &subject.told else { panic!("an exec hook") };
    let env = std::fs::read_to_string(lines.with_file_name("hook.env")).expect("it ran");
    let known = ["PATH=", "HOME=", "LANG=", "TZ=", "PWD=", "OLDPWD=", "SHLVL=", "_="];
    for line in env.lines() {
        assert!(known.iter().any(|name| line.starts_with(name)), "{line} is passed on");
    }
}

#[tokio::test]
async fn a_webhook_can_be_verified_and_only_by_who_knows_the_secret() {
    let subject = Subject::new(ProviderKind::Webhook, Mood::Willing);
    subject.asked(1).await.expect("willing");
    let Told::Posts(posts) = &subject.told else { panic!("a webhook") };
    let post = posts.lock().expect("nobody panics with it")[0].clone();
    assert_eq!(post.path, "/scale?of=pool");
    let timestamp = &post.headers["rollcall-timestamp"];
    let signed = &post.headers["rollcall-signature"];
    assert_eq!(*signed, signature(SECRET, timestamp, post.body.as_bytes()));
    assert_ne!(*signed, signature("another secret", timestamp, post.body.as_bytes()));
    assert_ne!(*signed, signature(SECRET, "0", post.body.as_bytes()));
    assert!(!format!("{:?}", subject.pool()).contains(SECRET), "a secret is never shown");
}

#[tokio::test]
async fn a_webhook_that_is_overloaded_is_asked_again_and_a_redirect_is_not_followed() {
    let mut subject = Subject::new(ProviderKind::Webhook, Mood::Willing);
    let (url, posts) = receiver(vec!["503 Busy", "429 Slow Down", "200 OK"]);
    subject.hook.as_mut().expect("it has one").url = url;
    subject.asked(1).await.expect("the third time");
    assert_eq!(posts.lock().expect("nobody panics with it").len(), 3);
    let (url, posts) = receiver(vec!["307 Elsewhere"]);
    subject.hook.as_mut().expect("it has one").url = url;
    assert!(matches!(subject.asked(2).await, Err(HookFault::Failed(why)) if why.contains("307")));
    assert_eq!(posts.lock().expect("nobody panics with it").len(), 1);
}

#[tokio::test]
async fn a_webhook_never_speaks_to_where_clouds_keep_credentials() {
    let mut subject = Subject::new(ProviderKind::Webhook, Mood::Willing);
    for url in ["http://169.254.169.254/latest", "http://[fe80::1]/", "http://0.0.0.0/", "http://2852039166/"]
    {
        subject.hook.as_mut().expect("it has one").url = url.to_owned();
        let fault = subject.asked(1).await.expect_err(url);
        assert!(matches!(&fault, HookFault::Failed(why) if why.contains("never")), "{url}: {fault}");
    }
}

#[tokio::test]
async fn a_command_that_is_not_there_is_a_failure() {
    let mut subject = Subject::new(ProviderKind::Exec, Mood::Willing);
    subject.hook.as_mut().expect("it has one").command = vec!["/no/such/program".to_owned()];
    assert!(
        matches!(subject.asked(1).await, Err(HookFault::Failed(why)) if why.contains("/no/such/program"))
    );
}
