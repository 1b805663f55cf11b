//! Fleets that span clouds: who may dial in, certificates that come and go, and networks that fail.

mod certificates;
mod identity;
mod networks;

use std::path::Path;

use crate::support::authority::Authority;

/// The token of `ann`, long enough not to be guessed.
const OF_ANN: &str = "ann-0123456789abcdef0123456789abcdef";
/// The token of the pool `gpu`.
const OF_GPU: &str = "gpu-0123456789abcdef0123456789abcdef";

/// What the configuration finds in its environment.
const TOKENS: [(&str, &str); 2] = [("OF_ANN", OF_ANN), ("OF_GPU", OF_GPU)];

/// Times that a busy machine keeps, and in which a story does not grow old.
const TIMES: &str = "
heartbeat: { interval: 400ms, suspect_after: 1s, timeout: 2s, lease: 4s }
reconnect: { initial_backoff: 20ms, max_backoff: 200ms }
";

/// Workers that dial in: `ann`, and a pool `gpu` whose instances others make.
const FLEET: &str = r#"
workers:
  - { name: ann, slots: 4, capabilities: [once, again], token: "${OF_ANN}" }
pools:
  - name: gpu
    worker: { slots: 1, capabilities: [gpu.run], token: "${OF_GPU}" }
    scaling: { min: 2, max: 4, provider: external }
"#;

/// A server's part: a listener for workers under TLS, at this address, that asks for certificates or
/// does not.
fn listens(address: &str, authority: &Authority, names: &[&str], asks: bool) -> String {
    let pair = authority.issue("server", names);
    let shown = |path: &Path| path.display().to_string();
    let asked = if asks { format!(", client_ca: {}", shown(&authority.ca())) } else { String::new() };
    format!(
        "server: {{ workers_listen: {{ listen: \"{address}\", tls: {{ cert: {}, key: {}{asked} }} }} }}\n",
        shown(&pair.cert),
        shown(&pair.key)
    )
}
