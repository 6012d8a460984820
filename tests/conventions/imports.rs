//! Which modules of a crate import from which: a scan of the source text, for `modules` and `layers`.

use std::collections::{BTreeMap, BTreeSet};

use crate::{files, is_test, product_part};

/// The path of a module in its crate: `["postgres", "sql"]`; empty for the root.
pub(crate) type Module = Vec<String>;

/// The modules of a crate with their code, without tests.
pub(crate) fn modules(source: &str) -> BTreeMap<Module, String> {
    let files = files(source, &["rs"]).into_iter().filter(|(path, _)| !is_test(path));
    let entry = |(path, text): (String, String)| {
        let path = path.strip_prefix(&format!("{source}/")).unwrap_or(&path).to_owned();
        (module(&path), code(product_part(&text)))
    };
    files.map(entry).collect()
}

/// Which other modules each module imports from, or names in a path.
pub(crate) fn imports(modules: &BTreeMap<Module, String>) -> BTreeMap<&Module, BTreeSet<Module>> {
    let of = |module: &Module, code: &String| {
        let targets = paths(code)
            .into_iter()
            .filter_map(|path| resolve(&path, module, modules));
        targets.filter(|target| target != module).collect()
    };
    modules
        .iter()
        .map(|(module, code)| (module, of(module, code)))
        .collect()
}

/// The modules of a crate that has these files.
pub(crate) fn modules_of(files: &[(&str, &str)]) -> BTreeMap<Module, String> {
    files.iter().map(|(path, text)| (module(path), code(text))).collect()
}

/// The module that a file is.
fn module(path: &str) -> Module {
    let path = path.strip_suffix(".rs").unwrap_or(path);
    let mut parts: Module = path.split('/').map(str::to_owned).collect();
    if parts
        .last()
        .is_some_and(|last| matches!(last.as_str(), "mod" | "lib" | "main"))
    {
        parts.pop();
    }
    parts
}

/// The text without comments.
fn code(text: &str) -> String {
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// Reads the paths that begin at the start of `text`, such as `crate::a::{b, c::D}`; returns what follows.
fn read_paths<'a>(mut text: &'a str, prefix: &[String], found: &mut Vec<Module>) -> &'a str {
    let mut path = prefix.to_vec();
    loop {
        text = text.trim_start();
        if let Some(mut list) = text.strip_prefix('{') {
            loop {
                list = read_paths(list, &path, found).trim_start();
                match list.strip_prefix(',') {
                    Some(rest) => list = rest,
                    None => return list.strip_prefix('}').unwrap_or(list),
                }
            }
        }
        let end = text
            .find(|c: char| !(c.is_alphanumeric() || c == '_'))
            .unwrap_or(text.len());
        if end > 0 {
            path.push(text[..end].to_owned());
        }
        text = &text[end..];
        match text.trim_start().strip_prefix("::") {
            Some(rest) => text = rest,
            None => {
                found.push(path);
                // `as Name`, or `*`
                let rest = text.trim_start();
                let rest = rest.strip_prefix('*').unwrap_or(rest);
                let Some(renamed) = rest.strip_prefix("as ") else {
                    return rest;
                };
                let end = renamed.find([',', '}', ';']).unwrap_or(renamed.len());
                return &renamed[end..];
            }
        }
    }
}

/// All paths in the code that begin with `crate`, `super` or `self`.
fn paths(code: &str) -> Vec<Module> {
    let mut found = Vec::new();
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(start) {
            let is_start = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == '$');
            if is_start {
                read_paths(&code[at..], &[], &mut found);
            }
        }
    }
    found
}

/// The module of the crate that a path, read in `from`, leads to.
fn resolve(path: &[String], from: &Module, modules: &BTreeMap<Module, String>) -> Option<Module> {
    let mut target = match path.first()?.as_str() {
        "crate" => Module::new(),
        _ => from.clone(),
    };
    for part in path {
        match part.as_str() {
            "crate" | "self" => {}
            "super" => drop(target.pop()),
            _ => {
                target.push(part.clone());
                if !modules.contains_key(&target) {
                    target.pop();
                    break;
                }
            }
        }
    }
    Some(target)
}
