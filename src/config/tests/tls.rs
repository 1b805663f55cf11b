//! What `rollcall check` says of tokens and certificates: which file is wrong, where it is named, and
//! what to do.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use crate::config::{Env, Source};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn put(folder: &Path, name: &str, end: i32) {
    let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    params.not_after = date_time_ymd(end, 1, 1);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    let write = |file: String, text: String, mode| {
        let path = folder.join(file);
        std::fs::write(&path, text).expect("a file can be written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("its mode can be set");
    };
    write(format!("{name}.pem"), certificate.pem(), 0o644);
    write(format!("{name}.key"), key.serialize_pem(), 0o600);
    write(format!("{name}-open.key"), key.serialize_pem(), 0o644);
}

/// What is said of a text that stands beside good, expired and open files: problems, or warnings.
fn told(text: &str) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder can be made");
    put(folder.path(), "good", 2099);
    put(folder.path(), "other", 2099);
    put(folder.path(), "old", 2021);
    let env: Env = [("TOKEN", TOKEN), ("SHORT", "abc")].into_iter().collect();
    let source = Source::new(folder.path().join("config.yaml"), env);
    let told = source.parse("config.yaml", text).map_or_else(|problems| problems, |config| config.warnings);
    let here = format!("{}/", folder.path().display());
    told.iter().map(|problem| problem.headline().to_string().replace(&here, "")).collect()
}

fn door(fields: &str) -> Vec<String> {
    told(&format!("server:\n  workers_listen: {{ {fields} }}\nworkers: []\n"))
}

#[test]
fn a_listener_for_other_machines_needs_a_certificate() {
    assert_eq!(door("listen: 127.0.0.1:7610"), [""; 0]);
    assert_eq!(told("server:\n  workers_listen: 127.0.0.1:7610\nworkers: []\n"), [""; 0]);
    assert_eq!(door("listen: 0.0.0.0:7610, tls: { cert: good.pem, key: ./good.key }"), [""; 0]);
    assert_eq!(
        door("listen: 0.0.0.0:7610"),
        ["config.yaml:2:29: server.workers_listen: 0.0.0.0:7610 lets other machines in, so it needs a \
          certificate: `workers_listen: { listen: \"0.0.0.0:7610\", tls: { cert: server.pem, key: server.key } }`"]
    );
    assert_eq!(
        door("lisen: 0.0.0.0:7610"),
        [
            "config.yaml:2:19: server.workers_listen.listen: is missing; it must be given",
            "config.yaml:2:21: server.workers_listen.lisen: there is no such field; did you mean `listen`?",
        ]
    );
}

#[test]
fn each_file_of_a_listener_is_judged_where_it_is_named() {
    let tls = |fields: &str| door(&format!("listen: \"[::]:7610\", tls: {{ {fields} }}"));
    assert_eq!(
        tls("cert: none.pem, key: none.key, client_ca: none"),
        [
            "config.yaml:2:55: server.workers_listen.tls.cert: cannot be read: No such file or directory (os error 2)",
            "config.yaml:2:70: server.workers_listen.tls.key: cannot be read: No such file or directory (os error 2)",
            "config.yaml:2:91: server.workers_listen.tls.client_ca: cannot be read: No such file or directory (os error 2)",
        ]
    );
    assert_eq!(
        tls("cert: good.pem, key: good-open.key"),
        [
            "config.yaml:2:70: server.workers_listen.tls.key: can be read by everybody on this machine (mode 644); \
         `chmod 600` it, and take a new key if others were here",
        ]
    );
    assert_eq!(
        tls("cert: good.pem, key: other.key"),
        ["config.yaml:2:70: server.workers_listen.tls.key: is not the key of the certificate in good.pem",]
    );
    assert_eq!(
        tls("cert: old.pem, key: old.key"),
        [
            "config.yaml:2:55: server.workers_listen.tls.cert: expired on 2021-01-01T00:00:00Z; put a new certificate there",
        ]
    );
    assert_eq!(
        tls("cert: good.pem"),
        ["config.yaml:2:47: server.workers_listen.tls.key: is missing; it must be given"]
    );
}

#[test]
fn a_token_stands_outside_of_the_file_and_cannot_be_guessed() {
    let token = |token: &str| told(&format!("workers:\n  - {{ name: a, token: {token} }}\n"));
    assert_eq!(token("\"${TOKEN}\""), [""; 0]);
    assert_eq!(
        token(TOKEN),
        [
            "config.yaml:2:23: workers[0].token: is written out, where everybody can read it who has the file; put it \
         in from outside, as \"${NAME}\" or \"${file:/path}\"",
        ]
    );
    assert_eq!(
        token("\"${SHORT}\""),
        [
            "config.yaml:2:23: workers[0].token: must have 16 to 4096 visible ASCII characters (`openssl rand -hex 32` \
         makes a good one)",
        ]
    );
    assert_eq!(
        token("\"${TOKEN}\", endpoint: \"ws://127.0.0.1:1\", launch: { command: [sh] }"),
        [
            "config.yaml:2:23: workers[0].token: has no use: a program that the server starts gets a fresh token each time",
        ]
    );
}

#[test]
fn with_a_listener_for_workers_all_that_dial_in_have_a_token() {
    let fleet = "workers:\n  - name: a\n  - { name: b, token: \"${TOKEN}\" }\n  - { name: c, endpoint: \"ws://127.0.0.1:1\" }\n\
                 pools:\n  - name: p\n    worker: { slots: 1 }\n    scaling: { provider: external }\n";
    assert_eq!(told(fleet), [""; 0], "on loopback they need none");
    let needs =
        "is missing; with server.workers_listen, every worker that dials in has one: token: \"${NAME}\"";
    assert_eq!(
        told(&format!("server: {{ workers_listen: \"127.0.0.1:7610\" }}\n{fleet}")),
        [
            format!("config.yaml:3:5: workers[0].token: {needs}"),
            format!("config.yaml:8:13: pools[0].worker.token: {needs}"),
        ]
    );
}

#[test]
fn who_is_dialled_under_tls_is_believed_by_files_that_make_sense() {
    let worker = |fields: &str| told(&format!("workers:\n  - {{ name: a, {fields} }}\n"));
    let secure = "endpoint: \"wss://10.0.0.1\", token: \"${TOKEN}\"";
    assert_eq!(worker(&format!("{secure}, tls: {{ ca: good.pem, cert: good.pem, key: good.key }}")), [""; 0]);
    assert_eq!(
        worker(&format!("{secure}, tls: {{ ca: old.pem, cert: good.pem }}")),
        [
            "config.yaml:2:74: workers[0].tls.ca: expired on 2021-01-01T00:00:00Z; put a new certificate there",
            "config.yaml:2:89: workers[0].tls.key: is missing; a certificate is shown with its key",
        ]
    );
    assert_eq!(
        worker("endpoint: \"ws://127.0.0.1:1\", tls: { ca: good.pem }"),
        ["config.yaml:2:51: workers[0].tls: has no use: the endpoint is ws://, without TLS; write wss://",]
    );
    assert_eq!(
        worker("tls: { ca: good.pem }"),
        [
            "config.yaml:2:21: workers[0].tls: has no use: this worker dials in, and server.workers_listen.tls is for that",
        ]
    );
    let leaves = |endpoint: &str| worker(&format!("endpoint: \"{endpoint}\", tls: {{ ca: good.pem }}"));
    assert_eq!(
        leaves("wss://10.0.0.1"),
        [
            "config.yaml:2:26: workers[0].endpoint: leaves this machine without a token, which workers ask for there; set `token`",
        ]
    );
    assert_eq!(
        worker("endpoint: \"ws://10.0.0.1:1\", token: \"${TOKEN}\""),
        ["config.yaml:2:26: workers[0].endpoint: leaves this machine unencrypted, the token too; use wss://",]
    );
}
