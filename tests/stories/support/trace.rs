//! Reads what strace writes with `-f -y -xx`: the system calls of all threads, in order.

use std::collections::BTreeMap;

/// A call that succeeded.
#[derive(Debug)]
pub(crate) struct Call {
    /// Its name.
    pub(crate) name: String,
    /// The file or socket that its first argument stands for.
    pub(crate) file: String,
    /// Its first text, as far as it was traced, as [`hex`] writes it.
    pub(crate) data: String,
    /// The line where it began.
    pub(crate) began: usize,
    /// The line where it had ended.
    pub(crate) ended: usize,
}

/// The calls of a trace that succeeded, in the order of their ends.
pub(crate) fn calls(trace: &str) -> Vec<Call> {
    let mut begun: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
    let mut calls = Vec::new();
    for (at, line) in trace.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(start) = rest.strip_suffix("<unfinished ...>") {
            begun.insert(thread, (at, start));
            continue;
        }
        let (began, start) = match rest.starts_with("<... ") {
            true => begun.remove(thread).unwrap_or((at, "")),
            false => (at, rest),
        };
        let result = rest.rsplit_once(" = ").map_or("-1", |(_, result)| result);
        let Some((name, arguments)) = start.split_once('(') else { continue };
        if result.starts_with('-') || result.starts_with('?') {
            continue;
        }
        let file = arguments.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
        calls.push(Call {
            name: name.to_owned(),
            file: file.map(|(file, _)| text(file)).unwrap_or_default(),
            data: arguments.split('"').nth(1).unwrap_or_default().to_owned(),
            began,
            ended: at,
        });
    }
    calls
}

/// Bytes as strace writes them: `\x48\x69`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()
}

/// What [`hex`] has written, as text.
pub(crate) fn text(hex: &str) -> String {
    let bytes: Vec<u8> = hex.split("\\x").filter_map(|digits| u8::from_str_radix(digits, 16).ok()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
