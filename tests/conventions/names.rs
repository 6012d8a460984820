//! A public type name exists once in the workspace, so that a name means one thing wherever it is read.

use std::collections::{BTreeMap, BTreeSet};

use crate::{PRODUCT, files, is_test};

/// Names that every program or subcommand may have.
const ALLOWED: [&str; 4] = ["Args", "Config", "Metrics", "Error"];

/// What `use std::prelude` and the primitive macros bring in, as far as it looks like a type.
const PRELUDE: [&str; 34] = [
    "AsMut",
    "AsRef",
    "Box",
    "Clone",
    "Copy",
    "Default",
    "DoubleEndedIterator",
    "Drop",
    "Eq",
    "Err",
    "ExactSizeIterator",
    "Extend",
    "Fn",
    "FnMut",
    "FnOnce",
    "From",
    "FromIterator",
    "Future",
    "Hash",
    "Into",
    "IntoFuture",
    "IntoIterator",
    "Iterator",
    "None",
    "Ok",
    "Option",
    "Ord",
    "PartialEq",
    "PartialOrd",
    "Result",
    "Send",
    "Some",
    "String",
    "Vec",
];

/// A type that a file defines.
struct Definition {
    name: String,
    path: String,
    is_public: bool,
}

/// The types that a line defines: `pub(crate) struct Name<T> {`.
fn defined(line: &str) -> Option<(String, bool)> {
    let mut words = line.split_whitespace();
    let mut word = words.next()?;
    let is_public = word.starts_with("pub");
    if is_public {
        // `pub(in crate::plan)` is two words.
        while !(word == "pub" || word.ends_with(')')) {
            word = words.next()?;
        }
        word = words.next()?;
    }
    if word == "unsafe" {
        word = words.next()?;
    }
    if !matches!(word, "struct" | "enum" | "trait" | "union" | "type") {
        return None;
    }
    let rest = words.next()?;
    let end = rest
        .find(|c: char| !(c.is_alphanumeric() || c == '_'))
        .unwrap_or(rest.len());
    let name = &rest[..end];
    name.starts_with(char::is_uppercase)
        .then(|| (name.to_owned(), is_public))
}

/// All types of the product; those that an `impl` or a function has inside are private to it and do not count.
fn definitions() -> Vec<Definition> {
    let mut found = Vec::new();
    for (path, text) in PRODUCT.iter().flat_map(|part| files(part, &["rs"])) {
        if is_test(&path) {
            continue;
        }
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        for line in code.lines().filter(|line| !line.starts_with(char::is_whitespace)) {
            if let Some((name, is_public)) = defined(line) {
                found.push(Definition {
                    name,
                    path: path.clone(),
                    is_public,
                });
            }
        }
    }
    assert!(found.len() > 300, "types of the product were found: {}", found.len());
    found
}

#[test]
fn a_public_type_name_exists_once_in_the_workspace() {
    let mut paths: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for definition in definitions() {
        if definition.is_public && !ALLOWED.contains(&definition.name.as_str()) {
            paths.entry(definition.name).or_default().insert(definition.path);
        }
    }
    let twice: Vec<String> = paths
        .into_iter()
        .filter(|(_, paths)| paths.len() > 1)
        .map(|(name, paths)| format!("{name}: {}", paths.into_iter().collect::<Vec<_>>().join(", ")))
        .collect();
    assert!(twice.is_empty(), "rename all but one of:\n{}", twice.join("\n"));
}

#[test]
fn no_type_shadows_the_prelude() {
    let shadows: Vec<String> = definitions()
        .into_iter()
        .filter(|definition| PRELUDE.contains(&definition.name.as_str()))
        .map(|definition| format!("{}: {}", definition.path, definition.name))
        .collect();
    assert!(shadows.is_empty(), "rename:\n{}", shadows.join("\n"));
}

#[test]
fn definitions_are_read_from_lines() {
    for (line, name, is_public) in [
        ("pub struct Plan {", "Plan", true),
        ("pub(crate) enum Step<'a> {", "Step", true),
        ("pub(in crate::plan) struct Draft;", "Draft", true),
        ("struct Plain(u8);", "Plain", false),
        ("pub unsafe trait Raw {", "Raw", true),
        ("pub type Reports = BTreeMap<KeeperUid, Report>;", "Reports", true),
    ] {
        assert_eq!(defined(line), Some((name.to_owned(), is_public)), "{line}");
    }
    for line in ["pub fn plan() {", "impl Plan {", "use a::Plan;", "}", ""] {
        assert_eq!(defined(line), None, "{line}");
    }
}
