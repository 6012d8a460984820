//! Series whose labels vary, such as one per standby: the recorder never removes a series, so these are kept here, as
//! they are written. What is measured is left to the programs.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The text of each such metric, by name.
static TEXTS: Mutex<BTreeMap<&'static str, String>> = Mutex::new(BTreeMap::new());

/// Replaces the help text, type and samples of a metric.
pub(super) fn replace(name: &'static str, text: String) {
    let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    texts.insert(name, text);
}

/// Returns all of them in the Prometheus text format. A metric without a sample has its help text and type.
pub(super) fn text() -> String {
    let texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    texts.values().map(String::as_str).collect()
}
