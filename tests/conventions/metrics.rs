//! The metric tables of the programs: `docs/metrics.md` is made from them, and every metric of the product has its row.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use daemon::telemetry::{LabelValues, MetricKind, MetricLabel, MetricRow, MetricUnit, SHARED_METRICS};

use crate::{PRODUCT, files, is_test, root};

/// The tables with their headings.
const TABLES: [(&str, &[MetricRow]); 4] = [
    ("All programs", SHARED_METRICS),
    ("stolon-keeper", keeper::metrics::TABLE),
    ("stolon-sentinel", sentinel::metrics::TABLE),
    ("stolon-proxy", proxy::metrics::TABLE),
];

const PAGE: &str = "docs/metrics.md";
/// Set to write the page instead of comparing it.
const UPDATE: &str = "UPDATE_DOCS";

const INTRODUCTION: &str = "# Metrics

Prometheus text at `/metrics` of `--metrics-listen-address` (design/cli.md 17.3). Every series with fixed labels exists from the
first scrape on; those whose labels are uids come and go. Histograms are in seconds. A Unix time is 0 before the first time.
This page is made from the tables in the code: `UPDATE_DOCS=1 cargo test -p stolon-tests --test conventions metrics`.
";

#[test]
fn the_page_of_metrics_is_made_from_the_tables() {
    let page = page();
    let path = root().join(PAGE);
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == page,
        "{PAGE} differs from the tables; write it with\n  {UPDATE}=1 cargo test -p stolon-tests --test conventions metrics"
    );
}

#[test]
fn names_are_unique_and_end_as_prometheus_expects() {
    let mut seen = BTreeMap::new();
    for (program, row) in rows() {
        assert_eq!(seen.insert(row.name, program), None, "{} has two rows", row.name);
        let is_total = row.name.ends_with("_total");
        assert_eq!(is_total, row.kind == MetricKind::Counter, "{}", row.name);
        assert!(!row.help.ends_with('.') && !row.help.is_empty(), "{}", row.name);
        // Of Go stolon.
        let has_old_name = row.name == "stolon_keeper_sleep_interval";
        let has_unit = match row.unit {
            MetricUnit::Seconds | MetricUnit::UnixTime => row.name.contains("_seconds"),
            MetricUnit::Bytes => row.name.contains("_bytes"),
            MetricUnit::Count | MetricUnit::Flag => true,
        };
        assert!(has_unit || has_old_name, "{} does not name its unit", row.name);
    }
}

/// A series that bypasses the tables would be in no documentation. The store's metrics are in the shared table.
#[test]
fn metrics_are_registered_through_the_tables_only() {
    const MACROS: [&str; 4] = ["counter!(", "gauge!(", "histogram!(", "describe_"];
    const ALLOWED: [&str; 2] = ["control/store/src/metrics.rs", "control/daemon/src/telemetry/table.rs"];
    for (path, text) in PRODUCT.iter().flat_map(|below| files(below, &["rs"])) {
        let is_checked = !is_test(&path) && !ALLOWED.contains(&path.as_str());
        for name in MACROS.iter().filter(|_| is_checked) {
            assert!(!text.contains(name), "{path} uses {name} instead of a row of a table");
        }
    }
}

fn rows() -> impl Iterator<Item = (&'static str, &'static MetricRow)> {
    let of = |(program, rows): (&'static str, &'static [MetricRow])| rows.iter().map(move |row| (program, row));
    TABLES.into_iter().flat_map(of)
}

fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    for (program, rows) in TABLES {
        let _ = write!(
            page,
            "\n## {program}\n\n| name | kind | labels | unit | meaning |\n|---|---|---|---|---|\n"
        );
        for row in rows {
            let (name, kind, unit) = (row.name, kind(row.kind), unit(row.unit));
            let labels: Vec<String> = row.labels.iter().map(label).collect();
            let (labels, help) = (labels.join("; "), row.help);
            let _ = writeln!(page, "| `{name}` | {kind} | {labels} | {unit} | {help} |");
        }
    }
    page
}

fn kind(kind: MetricKind) -> &'static str {
    match kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
        MetricKind::Histogram => "histogram",
    }
}

fn unit(unit: MetricUnit) -> &'static str {
    match unit {
        MetricUnit::Count => "",
        MetricUnit::Flag => "0 or 1",
        MetricUnit::Seconds => "seconds",
        MetricUnit::UnixTime => "Unix time",
        MetricUnit::Bytes => "bytes",
    }
}

fn label(label: &MetricLabel) -> String {
    match label.values {
        LabelValues::Fixed(values) => {
            let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
            format!("`{}` = {}", label.name, values.join(", "))
        }
        LabelValues::Varying(what) => format!("`{}`: {what}", label.name),
    }
}
