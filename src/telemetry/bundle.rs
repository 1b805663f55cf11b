//! The files that watch a server (scrape configuration, rules, runbooks, boards), as they were when
//! this program was built: so their names are those that it serves.

/// Each file's path in the repository, and its text; sorted.
const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/bundle.rs"));

/// Where the files say that the server is.
const SERVER: &str = "http://127.0.0.1:7600";
/// Where they say that Grafana is.
const GRAFANA: &str = "http://127.0.0.1:3000";

/// Where the parts of the watching are, as whoever reads an alert reaches them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    server: String,
    grafana: String,
}

impl Default for Places {
    fn default() -> Self {
        Self { server: SERVER.into(), grafana: GRAFANA.into() }
    }
}

impl Places {
    /// A server at `server` (`http://host:port`, or https) and a Grafana at `grafana`, which may have
    /// a path.
    ///
    /// # Errors
    /// A sentence that says which of the two is no such URL.
    pub fn new(server: &str, grafana: &str) -> Result<Self, String> {
        let (server, grafana) = (server.trim_end_matches('/'), grafana.trim_end_matches('/'));
        if !is_base(server) || address(server).contains('/') {
            return Err(format!("{server:?} is no URL of a server, such as http://rollcall.internal:7600"));
        }
        if !is_base(grafana) {
            return Err(format!("{grafana:?} is no URL of a Grafana, such as https://grafana.internal"));
        }
        Ok(Self { server: server.into(), grafana: grafana.into() })
    }
}

/// Whether it is a URL that can stand in every one of the files without quoting.
fn is_base(url: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_:/[]~".contains(c);
    ["http://", "https://"].iter().any(|scheme| url.starts_with(scheme))
        && !address(url).is_empty()
        && address(url).chars().all(plain)
}

/// A URL without its scheme.
fn address(url: &str) -> &str {
    url.split_once("://").map_or("", |(_, address)| address)
}

/// Every file with the path that it belongs at, for a server and a Grafana at these places.
pub fn files(places: &Places) -> impl Iterator<Item = (&'static str, String)> {
    FILES.iter().map(|(path, text)| (*path, placed(path, text, places)))
}

/// The runbook of that alert.
pub fn runbook(alert: &str) -> Option<&'static str> {
    let path = format!("monitoring/runbooks/{alert}.md");
    FILES.iter().find(|(known, _)| *known == path).map(|(_, text)| *text)
}

/// A file's text for these places. What runs in the same compose project stays where it is.
fn placed(path: &str, text: &str, places: &Places) -> String {
    if path == "monitoring/compose.yaml" || *places == Places::default() {
        return text.to_owned();
    }
    let text = text.replace(SERVER, &places.server).replace(GRAFANA, &places.grafana);
    if path != "monitoring/prometheus.yml" {
        return text;
    }
    let text = text.replace(address(SERVER), address(&places.server));
    if !places.server.starts_with("https") {
        return text;
    }
    text.replace("    metrics_path:", "    scheme: https\n    metrics_path:")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prometheus_yml(places: &Places) -> String {
        files(places).find(|(path, _)| *path == "monitoring/prometheus.yml").expect("it is there").1
    }

    #[test]
    fn the_files_are_those_of_the_repository() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        for (path, text) in files(&Places::default()) {
            assert_eq!(std::fs::read_to_string(root.join(path)).expect(path), text, "{path}");
        }
        for part in
            ["monitoring/rules/", "monitoring/runbooks/", "grafana/dashboards/", "grafana/provisioning/"]
        {
            assert!(FILES.iter().any(|(path, _)| path.starts_with(part)), "{part}");
        }
    }

    #[test]
    fn a_server_elsewhere_is_scraped_and_linked_to_there() {
        let places =
            Places::new("https://rollcall.example:7600/", "https://example.org/grafana").expect("two URLs");
        let config = prometheus_yml(&places);
        assert_eq!(config.matches("targets: [rollcall.example:7600]").count(), 2, "{config}");
        assert_eq!(config.matches("    scheme: https\n").count(), 2, "{config}");
        assert!(config.contains("- url: https://rollcall.example:7600/v1/sd/prometheus"), "{config}");
        let rules =
            files(&places).find(|(path, _)| path.ends_with("rules/rollcall.yaml")).expect("it is there").1;
        assert!(rules.contains("https://rollcall.example:7600/runbooks/RollcallDown"));
        assert!(rules.contains("https://example.org/grafana/d/rollcall-overview"));
        for (path, text) in files(&places) {
            let own = path.ends_with("compose.yaml");
            assert!(own || !text.contains("127.0.0.1:7600") && !text.contains("127.0.0.1:3000"), "{path}");
        }
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for bad in
            ["", "rollcall:7600", "ftp://rollcall", "http://", "http://a b", "http://a/'\n", "http://a/path"]
        {
            assert!(Places::new(bad, GRAFANA).is_err(), "{bad:?}");
        }
        assert!(Places::new(SERVER, "http://a'b").is_err());
    }

    #[test]
    fn an_alert_has_its_runbook_and_no_other_name_has() {
        assert!(runbook("RollcallDown").is_some_and(|text| text.starts_with("# RollcallDown\n")));
        for none in ["", "RollcallDow", "../runbooks/RollcallDown", "rollcalldown"] {
            assert_eq!(runbook(none), None, "{none:?}");
        }
    }
}
