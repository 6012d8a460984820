//! Every rule that code or documentation cites ("sentinel N-14", "cli 18.10 to 18.12") has its text in `docs/design/`.

use std::collections::{BTreeMap, BTreeSet};

use crate::{files, root};

/// The documents of `docs/design/`, by the name with which they are cited.
const DOCUMENTS: [&str; 9] = [
    "cli",
    "data-model",
    "extensions",
    "fencing",
    "keeper",
    "proxy",
    "sentinel",
    "store",
    "synchronous",
];

/// Documents that are not in the repository: nothing may cite them.
const ELSEWHERE: [&str; 3] = ["beyond", "design", "style"];

/// A rule's number: `N-14`, `X-2.9`, `R24`, `8.2`, `17`; what ends a sentence or a list is cut off.
fn number(word: &str) -> Option<&str> {
    let word = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
    let letters = word.find(|c: char| !c.is_ascii_uppercase()).unwrap_or(word.len());
    let rest = &word[letters..];
    let digits = rest.strip_prefix('-').filter(|_| letters > 0).unwrap_or(rest);
    let is_number = digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.chars().all(|c| c.is_ascii_digit() || c == '.')
        // No section has a number of three digits: "proxy 25432" is a port.
        && letters <= 3
        && (digits.contains('.') || digits.len() <= 2);
    is_number.then_some(word)
}

/// The rules that a text cites: (document, number). A list ("O-1, O-5 and O-7") and the ends of a range belong together.
fn cited(text: &str) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let words: Vec<&str> = text
        .split_whitespace()
        .filter(|word| !matches!(*word, "///" | "//!" | "//"))
        .collect();
    let mut at = 0;
    while at < words.len() {
        let name = words[at].trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
        let document = DOCUMENTS
            .into_iter()
            .chain(ELSEWHERE)
            .find(|document| *document == name);
        at += 1;
        let Some(document) = document else { continue };
        while let Some(number) = words.get(at).and_then(|word| number(word)) {
            found.push((document, number.to_owned()));
            let ends_list = !words[at].ends_with(',');
            let ends_here = words[at].contains(')');
            at += 1;
            match words.get(at) {
                Some(&("and" | "to" | "or"))
                    if !ends_here && words.get(at + 1).is_some_and(|word| self::number(word).is_some()) =>
                {
                    at += 1
                }
                _ if ends_list => break,
                _ => {}
            }
        }
    }
    found
}

/// The comments of Rust code, joined where they go on in the next line.
fn comments(code: &str) -> String {
    code.lines()
        .filter_map(|line| line.find("//").map(|at| &line[at..]))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The numbers that begin a heading, an item or a row of a table of the document.
fn defined(document: &str) -> BTreeSet<String> {
    let path = root().join("docs/design").join(format!("{document}.md"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
    let mut found = BTreeSet::new();
    for line in text.lines() {
        let line = line.trim_start_matches([' ', '#', '-', '|', '*']);
        let mut words = line.split([' ', '*', '|', ':', ',']).filter(|word| !word.is_empty());
        let Some(first) = words.next().and_then(number) else {
            continue;
        };
        found.insert(first.to_owned());
        // "## 1. Orderly shutdown (X-1)"
        let name = line.split_once('(').and_then(|(_, name)| number(name));
        found.extend(name.map(str::to_owned));
        // "T8.17 to T8.20", "S-1 to S-4"
        if words.next() == Some("to")
            && let Some(last) = words.next().and_then(number)
        {
            let split = |number: &str| {
                let at = number.rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| at + 1);
                Some((number[..at].to_owned(), number[at..].parse::<u32>().ok()?))
            };
            if let (Some((prefix, from)), Some((_, to))) = (split(first), split(last)) {
                found.extend((from..=to).map(|n| format!("{prefix}{n}")));
            }
        }
    }
    found
}

#[test]
fn every_rule_that_is_cited_has_its_text_in_docs_design() {
    let rules: BTreeMap<&str, BTreeSet<String>> = DOCUMENTS.map(|document| (document, defined(document))).into();
    let code = ["control", "keeper", "proxy", "ctl", "tests", "benches"]
        .map(|part| files(part, &["rs"]))
        .concat();
    let code = code.into_iter().map(|(path, text)| (path, comments(&text)));
    let docs = files("docs", &["md"]);
    let mut count = 0;
    let mut missing = BTreeSet::new();
    for (path, text) in code
        .chain(docs)
        .filter(|(path, _)| !path.starts_with("tests/conventions/"))
    {
        for (document, number) in cited(&text) {
            count += 1;
            if !rules.get(document).is_some_and(|rules| rules.contains(&number)) {
                missing.insert(format!("{path}: {document} {number}"));
            }
        }
    }
    assert!(count > 500, "citations were found: {count}");
    let missing: Vec<String> = missing.into_iter().collect();
    assert!(
        missing.is_empty(),
        "no such rule in docs/design:\n{}",
        missing.join("\n")
    );
}

#[test]
fn every_invariant_that_is_named_has_its_sentence() {
    let rules = defined("sentinel");
    let missing: BTreeSet<String> = files("control", &["rs"])
        .into_iter()
        .flat_map(|(path, text)| {
            let names = text.split("INV-").skip(1).map(|rest| {
                let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
                format!("INV-{digits}")
            });
            names.map(|name| (path.clone(), name)).collect::<Vec<_>>()
        })
        .filter(|(_, name)| !rules.contains(name))
        .map(|(path, name)| format!("{path}: {name}"))
        .collect();
    let missing: Vec<String> = missing.into_iter().collect();
    assert!(
        missing.is_empty(),
        "no such invariant in docs/design/sentinel.md:\n{}",
        missing.join("\n")
    );
}

#[test]
fn citations_are_read_from_text() {
    let check = |text: &str, expected: &[(&str, &str)]| {
        let found = cited(text);
        let found: Vec<(&str, &str)> = found
            .iter()
            .map(|(document, number)| (*document, number.as_str()))
            .collect();
        assert_eq!(found, expected, "{text}");
    };
    check(
        "/// A stale report must not win (sentinel C-10).",
        &[("sentinel", "C-10")],
    );
    check(
        "(cli O-1, O-5 and O-7), see",
        &[("cli", "O-1"), ("cli", "O-5"), ("cli", "O-7")],
    );
    check("cli 18.10 to 18.12: also", &[("cli", "18.10"), ("cli", "18.12")]);
    check(
        "extensions X-1.1,\n/// X-1.4.",
        &[("extensions", "X-1.1"), ("extensions", "X-1.4")],
    );
    check("(data-model 4.1, field 20)", &[("data-model", "4.1")]);
    check("keeper R10; sentinel 17", &[("keeper", "R10"), ("sentinel", "17")]);
    check("see design D-6", &[("design", "D-6")]);
    check("--port of the proxy 25432", &[]);
    check("the keeper and the proxy of 3 hosts", &[]);
}
