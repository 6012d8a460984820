//! Modules of a crate import each other in one direction: no module reaches itself again through what it imports.

use std::collections::{BTreeMap, BTreeSet};

use crate::CRATES;
use crate::imports::{Module, imports, modules, modules_of};

/// A module and the modules below it form one unit towards each other: a parent exports what its children define.
fn is_related(one: &[String], other: &[String]) -> bool {
    one.starts_with(other) || other.starts_with(one)
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

fn circles(modules: &BTreeMap<Module, String>) -> BTreeSet<String> {
    let mut imports = imports(modules);
    for (module, targets) in &mut imports {
        targets.retain(|target| !is_related(target, module));
    }
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
    let of = |files: &[(&str, &str)]| circles(&modules_of(files)).into_iter().collect::<Vec<_>>();
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
