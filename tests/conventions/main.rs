//! Conventions of the source tree that neither the compiler nor the linter holds.

mod imports;
mod layers;
mod metrics;
mod modules;
mod names;
mod sizes;
mod tags;

use std::fs;
use std::path::{Path, PathBuf};

/// The root of the repository.
fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the crate lies in the repository").to_owned()
}

/// The files below a directory that have one of the extensions, with their paths from the root and their texts; without
/// build output.
fn files(below: &str, extensions: &[&str]) -> Vec<(String, String)> {
    let root = root();
    let mut found = Vec::new();
    let mut open = vec![root.join(below)];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).unwrap_or_else(|err| panic!("{}: {err}", directory.display())) {
            let path = entry.expect("a directory is read").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    open.push(path);
                }
            } else if extensions
                .iter()
                .any(|extension| name.ends_with(&format!(".{extension}")))
            {
                let text = fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
                let relative = path.strip_prefix(&root).expect("it lies below the root");
                found.push((relative.display().to_string(), text));
            }
        }
    }
    found.sort();
    found
}

/// The crates whose code is the product.
const PRODUCT: [&str; 4] = ["control", "keeper", "proxy", "ctl"];

/// Whether a file of a crate is a test: an integration test, a benchmark, or a module of unit tests.
fn is_test(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("/tests.rs") || path.contains("/benches/")
}

/// All crates.
const CRATES: [&str; 13] = [
    "control/base",
    "control/model",
    "control/plan",
    "control/store",
    "control/daemon",
    "control/sentinel",
    "control/local_cluster",
    "keeper",
    "proxy",
    "ctl",
    "dist",
    "benches",
    "tests",
];

/// The text of a file up to its unit tests.
fn product_part(text: &str) -> &str {
    match text.find("#[cfg(test)]\nmod tests {") {
        Some(end) => &text[..end],
        None => text,
    }
}
