//! Dashboards and rules: what can be checked without a cluster. That their queries return series is shown in `it`.

#![allow(clippy::unwrap_used, reason = "a test fails at what it does not expect")]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use stolon_tests::grafana::{self, Dashboard};
use stolon_tests::prometheus::HOW_TO_INSTALL;
use stolon_tests::promql::{histogram_of, is_recorded, metric_names};

/// The dashboards that the packaged programs contain.
const DASHBOARDS: [&str; 3] = ["cluster.json", "proxy.json", "replication.json"];

#[test]
fn the_dashboards_fit_grafanas_schema() {
    let dashboards = Dashboard::read_all();
    let names: Vec<&str> = dashboards.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, DASHBOARDS);
    for (name, dashboard) in &dashboards {
        assert_eq!(dashboard.faults(), [""; 0], "{name}");
        let variables: Vec<&str> = dashboard
            .templating
            .list
            .iter()
            .map(|variable| variable.name.as_str())
            .collect();
        assert!(
            variables.starts_with(&["datasource", "cluster"]),
            "{name}: {variables:?}"
        );
        for (panel, query) in dashboard.queries() {
            // "up" has no cluster: a program that does not answer does not name it.
            let of_cluster = query.contains(r#"stolon_cluster_identifier{cluster_name="$cluster""#);
            assert!(
                of_cluster || query.contains("up{"),
                "{name}, {panel}: not of the chosen cluster"
            );
        }
    }
    let uids: BTreeSet<&str> = dashboards.iter().map(|(_, dashboard)| dashboard.uid.as_str()).collect();
    assert_eq!(uids.len(), dashboards.len(), "{uids:?}");
}

#[test]
fn the_schema_refuses_what_grafana_would_not_show() {
    let text = fs::read_to_string(grafana::directory().join("replication.json")).unwrap();
    assert!(serde_json::from_str::<Dashboard>(&text.replace("gridPos", "gridPosition")).is_err());
    let faults = |from: &str, to: &str| {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        serde_json::from_str::<Dashboard>(&changed).unwrap().faults().join("; ")
    };
    for (from, to, fault) in [
        ("\"unit\": \"bytes\"", "\"unit\": \"byte\"", "an unknown unit"),
        ("\"type\": \"stat\"", "\"type\": \"my-plugin\"", "an unknown type"),
        ("\"id\": 3,", "\"id\": 2,", "id 2 twice"),
        ("\"w\": 4,", "\"w\": 6,", "overlaps another panel"),
        (
            "\"color\": \"green\", \"value\": null",
            "\"color\": \"green\", \"value\": 7",
            "the first threshold has a value",
        ),
    ] {
        let found = faults(from, to);
        assert!(found.contains(fault), "{from}: {found}");
    }
}

#[test]
fn every_metric_that_is_named_exists() {
    let documented = read("docs/metrics.md");
    let recording = rule("recording.yml");
    let recorded: BTreeSet<&str> = values_of(&recording, "- record: ").collect();
    let exists = |name: &str| {
        let is_documented = |name: &str| documented.contains(&format!("`{name}`"));
        match name {
            name if is_recorded(name) => recorded.contains(name),
            name => is_documented(name) || histogram_of(name).is_some_and(is_documented),
        }
    };
    let mut texts: Vec<(String, String)> = DASHBOARDS
        .iter()
        .map(|name| {
            (
                (*name).to_owned(),
                fs::read_to_string(grafana::directory().join(name)).unwrap(),
            )
        })
        .collect();
    for name in ["recording.yml", "alerts.yml", "tests/alerts.yml"] {
        texts.push((name.to_owned(), rule(name)));
    }
    texts.push(("dashboards/README.md".to_owned(), read("dashboards/README.md")));
    for (file, text) in &texts {
        let unknown: Vec<&str> = metric_names(text).into_iter().filter(|name| !exists(name)).collect();
        assert!(
            unknown.is_empty(),
            "{file} names metrics that no program exports: {unknown:?}"
        );
    }
    for (file, text) in pages() {
        let of_program = |name: &&str| PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && !name.ends_with('_');
        let unknown: Vec<&str> = metric_names(&text)
            .into_iter()
            .filter(of_program)
            .filter(|name| !exists(name))
            .collect();
        assert!(
            unknown.is_empty(),
            "{file} names metrics that no program exports: {unknown:?}"
        );
    }
    let named: BTreeSet<&str> = texts.iter().flat_map(|(_, text)| metric_names(text)).collect();
    assert!(named.len() > 60, "{named:?}");
}

/// What the names of metrics begin with in pages, where other words begin with `stolon_`, too: names of slots.
const PREFIXES: [&str; 5] = [
    "stolon_keeper_",
    "stolon_sentinel_",
    "stolon_proxy_",
    "stolon_store_",
    "process_",
];

/// All pages of the documentation, with their paths.
fn pages() -> Vec<(String, String)> {
    let mut paths: Vec<String> = ["README.md", "CHANGELOG.md"].map(str::to_owned).into();
    for dir in ["docs", "docs/design"] {
        let entries = fs::read_dir(grafana::directory().join("..").join(dir)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        paths.extend(
            names
                .filter(|name| name.ends_with(".md"))
                .map(|name| format!("{dir}/{name}")),
        );
    }
    assert!(paths.len() > 10, "{paths:?}");
    paths.into_iter().map(|path| (path.clone(), read(&path))).collect()
}

#[test]
fn every_alert_has_its_section_in_the_runbook() {
    let runbook = read("docs/runbook.md");
    let sections: Vec<&str> = values_of(&runbook, "### ").collect();
    let text = rule("alerts.yml");
    let alerts: Vec<&str> = values_of(&text, "- alert: ").collect();
    assert_eq!(sections, alerts, "the same, in the same order");
    for rule in text.split("- alert: ").skip(1) {
        let name = rule.lines().next().unwrap();
        let link = format!("runbook_url: docs/runbook.md#{}", name.to_lowercase());
        assert!(rule.contains(&link), "{name} has no {link}");
        for field in ["expr:", "labels: {severity: ", "summary:", "description:"] {
            assert!(rule.contains(field), "{name} has no {field}");
        }
    }
}

#[test]
fn every_alert_is_tested_firing_and_quiet() {
    let text = rule("alerts.yml");
    let tests = rule("tests/alerts.yml");
    for alert in values_of(&text, "- alert: ") {
        let firing = format!("labels: 'ALERTS{{alertname=\"{alert}\",alertstate=\"firing\",");
        assert!(tests.contains(&firing), "{alert} never fires in the tests");
        let quiet = format!("{{alertname: {alert}, eval_time: 35m, exp_alerts: []}}");
        assert!(tests.contains(&quiet), "{alert} is not quiet in health");
    }
}

#[test]
fn promtool_accepts_the_rules_and_their_tests_pass() {
    let rules = grafana::directory().join("rules");
    promtool(
        &["check", "rules"],
        &[rules.join("recording.yml"), rules.join("alerts.yml")],
    );
    promtool(&["test", "rules"], &[rules.join("tests/alerts.yml")]);
}

fn promtool(arguments: &[&str], files: &[PathBuf]) {
    let run = Command::new("promtool").args(arguments).args(files).output();
    let run = run.unwrap_or_else(|error| panic!("promtool: {error}; {HOW_TO_INSTALL}"));
    let output = String::from_utf8_lossy(&[run.stdout, run.stderr].concat()).into_owned();
    assert!(run.status.success(), "promtool {arguments:?}: {output}");
}

fn rule(name: &str) -> String {
    fs::read_to_string(grafana::directory().join("rules").join(name)).unwrap()
}

fn read(path: &str) -> String {
    let text = fs::read_to_string(grafana::directory().join("..").join(path));
    text.unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What follows this at the beginning of a line.
fn values_of<'a>(text: &'a str, start: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines()
        .filter_map(move |line| line.trim_start().strip_prefix(start))
}
