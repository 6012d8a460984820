//! PostgreSQL's configuration files, which operators paste into a cluster spec.

use std::collections::BTreeMap;

/// Returns all parameters of the text of a `postgresql.conf` with their values, also those that are commented out.
pub fn parameters(text: &str) -> BTreeMap<String, String> {
    text.lines().filter_map(parameter).collect()
}

fn parameter(line: &str) -> Option<(String, String)> {
    let (name, rest) = line.trim_start_matches('#').split_once('=')?;
    let name = name.trim_end();
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    if name.is_empty() || !name.chars().all(is_name) {
        return None; // prose
    }
    let rest = rest.trim_start();
    let value = match rest.strip_prefix('\'') {
        Some(quoted) => quoted.split('\'').next()?,
        None => rest.split(|c: char| c.is_whitespace() || c == '#').next()?,
    };
    Some((name.to_owned(), value.to_owned()))
}
