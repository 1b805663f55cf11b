//! The reference page of every metric, written from the catalogue so that it cannot drift from it.

use std::fmt::Write;

use super::catalogue::{FAMILIES, Family, Kind, Values};

/// The text of `docs/metrics.md`.
pub fn reference_page() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         This page is written from `src/telemetry/catalogue.rs`; `UPDATE_DOCS=1 cargo test -p rollcall reference` \
         writes it anew.\n\n\
         `/metrics` has everything but the series of single workers, which are on `/metrics/workers` \
         (scrape that one less often). Both are text 0.0.4. A label's values come from the configuration, \
         or from the words listed here, never from what a client sends; beyond 200 capabilities or pools the rest is \
         counted under `other`. A worker of no pool counts under `pool=\"static\"`, \
         and the server's own probes under `capability=\"_probe\"`. Series are there at 0 from the \
         moment that the configuration names them, and vanish with it.\n",
    );
    let mut section = "";
    for family in FAMILIES {
        if family.section != section {
            section = family.section;
            write!(page, "\n## {section}\n\n| Name | Type | Labels | Meaning |\n|---|---|---|---|\n")
                .expect("a string takes every write");
        }
        page.push_str(&row(family));
    }
    page
}

fn row(family: &Family) -> String {
    let labels: Vec<String> = family
        .labels
        .iter()
        .map(|label| match label.values {
            Values::Words(words) => format!("`{}`: {}", label.name, words().join(", ")),
            Values::Topology | Values::Program => format!("`{}`", label.name),
        })
        .collect();
    let buckets = match family.kind {
        Kind::Histogram(bounds) => {
            let bounds: Vec<String> = bounds.iter().map(f64::to_string).collect();
            format!(" Buckets: {}.", bounds.join(" "))
        }
        Kind::Counter | Kind::Gauge => String::new(),
    };
    format!(
        "| `{}` | {} | {} | {}{buckets} |\n",
        family.name,
        family.kind.as_str(),
        labels.join("; "),
        family.help
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_page_is_the_catalogue() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/docs")).expect("docs/");
            std::fs::write(path, reference_page()).expect(path);
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            written == reference_page(),
            "docs/metrics.md is not what the catalogue says; write it anew with \
             `UPDATE_DOCS=1 cargo test -p rollcall reference`"
        );
    }
}
