//! Names of metrics in PromQL expressions.

use std::collections::BTreeSet;

/// What a histogram's name is followed by in its series.
const HISTOGRAM_SUFFIXES: [&str; 3] = ["_bucket", "_sum", "_count"];

/// Returns the names of our metrics, of `process_` metrics and of recorded series that a text contains.
pub fn metric_names(text: &str) -> BTreeSet<&str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
    text.split(|c| !is_name(c))
        .filter(|word| word.starts_with("stolon_") || word.starts_with("process_") || is_recorded(word))
        .collect()
}

/// Whether a name is one of a recorded series of ours.
pub fn is_recorded(name: &str) -> bool {
    name.starts_with("cluster:stolon_") || name.starts_with("instance:stolon_")
}

/// Returns the name of the histogram that a series with this name belongs to, if it can be one.
pub fn histogram_of(name: &str) -> Option<&str> {
    HISTOGRAM_SUFFIXES
        .into_iter()
        .find_map(|suffix| name.strip_suffix(suffix))
}
