//! Exhaustive models of the protocols: who may be master, when a route opens, what an orderly shutdown may lose.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only functions with #[test] for tests, not their helpers"
)]

mod fencing_model;
mod info_model;
mod shutdown_model;
mod sync_model;
