//! docs/protocol.md is true: its frames are the wire's frames, and the worker that it prints
//! registers and runs tasks. The code is taken from the page, so it cannot drift from what is run.

use std::collections::BTreeSet;
use std::path::Path;

use rollcall_protocol::{FromServer, FromWorker};

/// The page itself.
fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/protocol.md");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The page's code blocks of a language, in order.
fn blocks(language: &str) -> Vec<String> {
    let page = page();
    let opening = format!("```{language}\n");
    let after = page.split(&opening).skip(1);
    after.map(|rest| rest.split_once("```").expect("a block that ends").0.to_owned()).collect()
}

#[test]
fn every_frame_on_the_page_is_a_frame_and_none_is_missing() {
    let mut shown = BTreeSet::new();
    for text in blocks("json") {
        let frame: serde_json::Value = serde_json::from_str(&text).expect("JSON on the page");
        let kind = frame["type"].as_str().expect("a type").to_owned();
        // `heartbeat`, `goodbye` and `error` go both ways; one of the two readers must take it all.
        let worker = FromWorker::decode(&text).map(|frame| (frame.kind(), frame.encode().unwrap()));
        let server = FromServer::decode(&text).map(|frame| (frame.kind(), frame.encode().unwrap()));
        let read = [worker.ok(), server.ok()];
        let whole = read.iter().flatten().any(|(name, written)| {
            let back: serde_json::Value = serde_json::from_str(written).expect("our own JSON");
            // Nothing on the page is a field that the wire does not know.
            let known = frame.as_object().expect("an object").keys().all(|key| back.get(key).is_some());
            *name == kind && known
        });
        assert!(whole, "not a frame of the wire: {text}");
        shown.insert(kind);
    }
    let wire = "accepted cancel drain error execute goodbye heartbeat output progress register registered \
                rejected result result_ack";
    assert_eq!(
        shown.iter().map(String::as_str).collect::<Vec<_>>(),
        wire.split_whitespace().collect::<Vec<_>>()
    );
}

#[test]
fn the_worker_on_the_page_fits_on_a_page() {
    let lines = blocks("python")[0].lines().count();
    assert!(lines < 100, "{lines} lines");
}
