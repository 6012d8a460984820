//! Tests of the keeper's instance handling with a real PostgreSQL.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod bench;
mod failures;
mod health;
mod life;
mod pair;
mod store;
mod synchronous;
