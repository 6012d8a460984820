//! The order of the modules of `control/plan`: each imports only from modules before it, so that there are no circles,
//! and a view never depends on a decision.

use std::collections::{BTreeMap, BTreeSet};

use crate::imports::{Module, imports, modules, modules_of};

/// The modules in their order. The crate root comes last and may import from all of them.
const LAYERS: [&str; 46] = [
    // values
    "failover_refusal",
    "switchover_reason",
    "note",
    "entropy",
    "plan_error",
    "condition",
    "election_backoff",
    // what was read, and its history
    "observation",
    "outage",
    "switchover_view",
    "history",
    "memory",
    // read-only views, and judgements on them
    "routine",
    "report",
    "proxy_view",
    "classify",
    "view",
    "in_sync",
    // the draft, and what decides
    "draft",
    "health",
    "proxies",
    "synchronous",
    "elect/usable",
    "elect/eligible",
    "elect/choose",
    "elect/requested",
    "elect/install",
    "elect/ordered",
    "elect",
    "switchover/target",
    "switchover/step",
    "switchover",
    "standbys",
    "initialise",
    "propagate",
    // the check of what was decided
    "check/violations",
    "check/transition",
    "check/document",
    "check/proxy_section",
    "check/requested",
    "check/switchover",
    "check/election",
    "check/synchronous",
    "check/dbs",
    "check/keepers",
    "check",
];

/// What contradicts the order, in the words of a failure.
fn violations(modules: &BTreeMap<Module, String>) -> Vec<String> {
    let place = |module: &Module| LAYERS.iter().position(|layer| *layer == module.join("/"));
    let imports = imports(modules);
    let of = |(module, targets): (&&Module, &BTreeSet<Module>)| {
        let name = module.join("/");
        let Some(own) = place(module) else {
            return vec![format!("{name} has no place in the order")];
        };
        let late = targets.iter().filter(|target| place(target).is_none_or(|at| at > own));
        late.map(|target| {
            format!(
                "{name} imports from {:?}, which does not come before it",
                target.join("/")
            )
        })
        .collect()
    };
    let below_root = imports.iter().filter(|(module, _)| !module.is_empty());
    below_root.flat_map(of).collect()
}

#[test]
fn each_module_of_the_plan_imports_only_from_modules_before_it() {
    let modules = modules("control/plan/src");
    assert_eq!(
        modules.len(),
        LAYERS.len() + 1,
        "every module has its place in the order"
    );
    let found = violations(&modules);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn violations_of_the_order_are_found() {
    let files = LAYERS.map(|layer| (format!("{layer}.rs"), String::new()));
    let of = |name: &str, text: &str| {
        let mut files: Vec<(&str, &str)> = files
            .iter()
            .map(|(path, text)| (path.as_str(), text.as_str()))
            .collect();
        files.extend([("lib.rs", "use crate::check::check;"), (name, text)]);
        violations(&modules_of(&files)).join("; ")
    };
    let late = |name: &str, target: &str| format!("{name} imports from {target:?}, which does not come before it");
    assert_eq!(of("memory.rs", "use crate::view::PlanView;"), late("memory", "view"));
    assert_eq!(of("view.rs", "fn f() { crate::draft::g() }"), late("view", "draft"));
    assert_eq!(
        of("elect/usable.rs", "use crate::elect::choose::choose;"),
        late("elect/usable", "elect/choose")
    );
    assert_eq!(
        of("elect/usable.rs", "use super::Other;"),
        late("elect/usable", "elect")
    );
    assert_eq!(of("initialise.rs", "use crate::Plan;"), late("initialise", ""));
    assert_eq!(of("outage.rs", "use crate::{note, view};"), late("outage", "view"));
    assert_eq!(of("unknown.rs", ""), "unknown has no place in the order");
    assert_eq!(of("view.rs", "use crate::memory::Memory;\n// crate::draft\n"), "");
    assert_eq!(of("elect.rs", "use crate::elect::choose::choose;"), "");
}
