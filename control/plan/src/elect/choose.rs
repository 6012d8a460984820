//! Which candidate is the best (sentinel C-13). Which dbs are candidates is left to `eligible`.

use crate::elect::eligible::Candidate;

/// Returns the most advanced candidate, by uid among equals (sentinel C-13). A candidate with a stale report, or one
/// that its own keeper reports unhealthy, is chosen only when there is no better one.
pub(crate) fn choose(candidates: Vec<Candidate>) -> Option<Candidate> {
    candidates.into_iter().min_by(|a, b| {
        a.quality
            .cmp(&b.quality)
            .then_with(|| b.at.cmp(&a.at))
            .then_with(|| a.db.cmp(&b.db))
    })
}
