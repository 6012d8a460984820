//! No file and no function of the product grows beyond what can be read at once.

use crate::{PRODUCT, files, is_test, product_part};

/// Lines of a file, without its unit tests.
const FILE_MAX: usize = 500;
/// Lines of a function.
const FUNCTION_MAX: usize = 70;
/// Lines of the three daemons' `main.rs`.
const MAIN_MAX: usize = 60;

/// The functions of a formatted file with their lines.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let name = |line: &str| {
        let line = line.trim_start();
        let (before, after) = line.split_once("fn ")?;
        let is_definition = before
            .split_whitespace()
            .all(|word| word.starts_with("pub") || word.ends_with(')') || matches!(word, "const" | "async" | "unsafe"));
        let name: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        (is_definition && !name.is_empty()).then_some(name)
    };
    let length = |start: usize| {
        let indent = lines[start].len() - lines[start].trim_start().len();
        let is_end = |line: &&str| {
            let is_there = line.len() - line.trim_start().len() == indent;
            is_there && (line.ends_with('}') || line.ends_with("};") || line.ends_with(';'))
        };
        let end = lines[start..].iter().position(is_end);
        end.unwrap_or(lines.len() - 1 - start) + 1
    };
    let found = lines.iter().enumerate();
    found
        .filter_map(|(start, line)| Some((name(line)?, length(start))))
        .collect()
}

#[test]
fn files_functions_and_mains_stay_short() {
    let mut found = Vec::new();
    for (path, text) in PRODUCT.iter().flat_map(|part| files(part, &["rs"])) {
        if is_test(&path) {
            continue;
        }
        let text = product_part(&text);
        let lines = text.lines().count();
        if lines > FILE_MAX {
            found.push(format!("{path}: {lines} lines"));
        }
        if path.ends_with("/main.rs") && lines > MAIN_MAX {
            found.push(format!("{path}: {lines} lines, a main has {MAIN_MAX}"));
        }
        let long = functions(text).into_iter().filter(|(_, lines)| *lines > FUNCTION_MAX);
        found.extend(long.map(|(name, lines)| format!("{path}: {name} has {lines} lines")));
    }
    assert!(found.is_empty(), "too long:\n{}", found.join("\n"));
}

#[test]
fn functions_are_measured_to_their_closing_brace() {
    let text = "pub fn one() {}\n\nimpl A {\n    async fn two(\n        a: u8,\n    ) -> u8 {\n        a\n    }\n}\n\ntrait B {\n    \
                fn three();\n}\n// a fn that\nlet f = |fn_pointer: fn (u8)| {\n";
    let measured = functions(text);
    let measured: Vec<(&str, usize)> = measured.iter().map(|(name, lines)| (name.as_str(), *lines)).collect();
    assert_eq!(measured, [("one", 1), ("two", 5), ("three", 1)]);
}
