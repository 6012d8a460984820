//! The order of the modules: each file imports only from files before it, so that there are no circles, and a view never
//! depends on a decision.

use std::fs;
use std::path::Path;

/// The files in their order, without `.rs`. The crate root comes last and may import all of them.
const LAYERS: [&str; 32] = [
    // values
    "note",
    "entropy",
    "plan_error",
    "condition",
    "election_backoff",
    // what was read, and its history
    "observation",
    "outage",
    "history",
    "memory",
    // read-only views, and judgements on them
    "report",
    "proxy_view",
    "classify",
    "view",
    // the draft, and what decides
    "draft",
    "health",
    "proxies",
    "elect/usable",
    "elect/eligible",
    "elect/choose",
    "elect/install",
    "elect",
    "standbys",
    "initialise",
    "propagate",
    // the check of what was decided
    "check/violations",
    "check/transition",
    "check/document",
    "check/proxy_section",
    "check/election",
    "check/dbs",
    "check/keepers",
    "check",
];

/// Returns the imports of a file from files that do not come before it.
fn violations(layer: &str, text: &str) -> Vec<String> {
    let Some(own) = LAYERS.iter().position(|known| *known == layer) else {
        return vec![format!("{layer}.rs has no place in the order")];
    };
    let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let code: String = product
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    let mut found = Vec::new();
    if code.contains("super::") {
        found.push(format!(
            "{layer}.rs imports from super: name the module from the crate root"
        ));
    }
    for after in code.split("crate::").skip(1) {
        let path: String = after
            .chars()
            .take_while(|c| c.is_alphanumeric() || matches!(c, '_' | ':'))
            .collect();
        // The longest file that the path names.
        let file = |known: &&&str| format!("{path}::").starts_with(&format!("{}::", known.replace('/', "::")));
        let imported = LAYERS.iter().filter(file).max_by_key(|known| known.len());
        let is_before = |imported: &&&str| LAYERS[..own].contains(imported);
        if imported.filter(is_before).is_none() {
            found.push(format!(
                "{layer}.rs imports crate::{path}, which does not come before it"
            ));
        }
    }
    found
}

/// Adds the product files below a directory, by their place in the crate.
fn collect(directory: &Path, prefix: &str, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" {
            collect(&path, &format!("{prefix}{name}/"), found);
        } else if path.is_file() && !["lib", "tests"].contains(&name.as_str()) {
            found.push((format!("{prefix}{name}"), fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn each_file_imports_only_from_files_before_it() {
    let mut files = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut files);
    assert_eq!(files.len(), LAYERS.len(), "every file has its place in the order");
    let found: Vec<String> = files.iter().flat_map(|(layer, text)| violations(layer, text)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_scan_sees_a_violation() {
    let sees = |layer, text, part: &str| {
        let found = violations(layer, text).join("; ");
        assert!(found.contains(part), "{layer}: {text}: {found:?}");
    };
    sees(
        "memory",
        "use crate::view::PlanView;",
        "memory.rs imports crate::view::PlanView",
    );
    sees(
        "view",
        "fn f() { crate::draft::g() }",
        "view.rs imports crate::draft::g",
    );
    sees(
        "elect/usable",
        "use crate::elect::choose::choose;",
        "imports crate::elect::choose",
    );
    sees(
        "elect/usable",
        "use crate::elect::Other;",
        "imports crate::elect::Other",
    );
    sees("initialise", "use crate::Plan;", "imports crate::Plan");
    sees("draft", "use crate::{note, view};", "imports crate::");
    sees("check/dbs", "use super::Violations;", "imports from super");
    sees("unknown", "", "no place");
    assert_eq!(
        violations("view", "use crate::memory::Memory;\n// crate::draft\n"),
        [""; 0]
    );
    assert_eq!(violations("elect", "use crate::elect::choose::choose;"), [""; 0]);
}
