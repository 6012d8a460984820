//! Waits for conditions with a deadline, and reads the clock of the tests.

use std::fmt::Display;
use std::time::Duration;

use base::clock::Boottime;
use local_cluster::wait::{POLL_INTERVAL, retry};

/// Returns the current time, to measure how long something took.
#[expect(clippy::disallowed_methods, reason = "the harness is where a test's time enters")]
pub fn now() -> Boottime {
    Boottime::now()
}

/// Calls `probe` until it succeeds, and returns its value.
///
/// # Panics
///
/// `limit` has passed: the message has `what` and the last error of `probe`.
pub async fn eventually<T, E: Display>(
    what: impl Display,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let waited = retry(limit, async || probe().await.map_err(|reason| reason.to_string())).await;
    waited.unwrap_or_else(|timed_out| panic!("waited {limit:?} for {what}: {}", timed_out.reason))
}

/// Calls `probe` again and again for `span`: for what must hold all the time.
///
/// # Panics
///
/// `probe` fails.
pub async fn throughout<E: Display>(what: impl Display, span: Duration, mut probe: impl AsyncFnMut() -> Result<(), E>) {
    let start = now();
    while now().since(start) < span {
        if let Err(reason) = probe().await {
            panic!("{what} did not hold for {span:?}: {reason}");
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
