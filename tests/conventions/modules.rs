//! Modules of a crate import each other in one direction: no module reaches itself again through what it imports.

use std::collections::{BTreeMap, BTreeSet};

use crate::{CRATES, files, is_test, product_part};

/// The path of a module in its crate: `["postgres", "sql"]`; empty for the root.
type Module = Vec<String>;

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

/// A module and the modules below it form one unit towards each other: a parent exports what its children define.
fn is_related(one: &[String], other: &[String]) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// Which modules a module imports from.
fn imports(modules: &BTreeMap<Module, String>) -> BTreeMap<&Module, BTreeSet<Module>> {
    let of = |module: &Module, code: &String| {
        let targets = paths(code)
            .into_iter()
            .filter_map(|path| resolve(&path, module, modules));
        targets.filter(|target| !is_related(target, module)).collect()
    };
    modules
        .iter()
        .map(|(module, code)| (module, of(module, code)))
        .collect()
}

/// A circle through this module: the modules in the order of the imports.
fn circle(start: &Module, imports: &BTreeMap<&Module, BTreeSet<Module>>) -> Option<Vec<Module>> {
    let mut open = vec![vec![start.clone()]];
    let mut seen = BTreeSet::new();
    while let Some(path) = open.pop() {
        for next in &imports[path.last()?] {
            if next == start {
                return Some(path);
            }
            if seen.insert(next.clone()) {
                open.push([path.clone(), vec![next.clone()]].concat());
            }
        }
    }
    None
}

/// The modules of a crate with their code, without tests.
fn modules(source: &str) -> BTreeMap<Module, String> {
    let files = files(source, &["rs"]).into_iter().filter(|(path, _)| !is_test(path));
    let entry = |(path, text): (String, String)| {
        let path = path.strip_prefix(&format!("{source}/")).unwrap_or(&path).to_owned();
        (module(&path), code(product_part(&text)))
    };
    files.map(entry).collect()
}

fn circles(modules: &BTreeMap<Module, String>) -> BTreeSet<String> {
    let imports = imports(modules);
    let circle = |module: &&Module| circle(module, &imports);
    let named = |mut circle: Vec<Module>| {
        circle.sort();
        circle
            .iter()
            .map(|module| module.join("/"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    imports.keys().filter_map(circle).map(named).collect()
}

#[test]
fn no_modules_import_each_other_in_a_circle() {
    let mut found = Vec::new();
    for source in CRATES {
        let circles = circles(&modules(&format!("{source}/src")));
        found.extend(circles.into_iter().map(|circle| format!("{source}: {circle}")));
    }
    assert!(
        found.is_empty(),
        "modules that import each other:\n{}",
        found.join("\n")
    );
}

#[test]
fn circles_are_found() {
    let of = |files: &[(&str, &str)]| {
        let entry = |(path, text): &(&str, &str)| (module(path), code(text));
        circles(&files.iter().map(entry).collect())
            .into_iter()
            .collect::<Vec<_>>()
    };
    let lib = ("lib.rs", "mod a; mod b; mod c; pub use a::A;");
    let (a, c) = (("a.rs", "use crate::{b::{self as other, B}, c::C};"), ("c.rs", ""));
    assert_eq!(of(&[lib, a, ("b.rs", "use std::fmt; // crate::a"), c]), [""; 0]);
    assert_eq!(of(&[lib, a, ("b.rs", "fn f() { super::c::g() }"), c]), [""; 0]);
    assert_eq!(of(&[lib, a, ("b.rs", "fn f() { crate::a::g() }"), c]), ["a, b"]);
    let d = ("c/d.rs", "use super::super::a::{A};");
    assert_eq!(of(&[lib, a, ("b.rs", ""), ("c/mod.rs", "use self::d::D;"), d]), [""; 0]);
    let back = ("a.rs", "use crate::c::d::D;");
    assert_eq!(of(&[lib, back, ("c/mod.rs", ""), d]), ["a, c/d"]);
}
