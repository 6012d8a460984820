//! Counts of things in a line for people.

/// Returns a count with its noun, such as `1 client` or `2 clients`.
pub fn counted(count: usize, one: &str, many: &str) -> String {
    let noun = if count == 1 { one } else { many };
    format!("{count} {noun}")
}
