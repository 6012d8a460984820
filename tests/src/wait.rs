//! Waits for conditions with a deadline, and reads the clock of the tests.

use std::fmt::Display;
use std::time::Duration;

use base::clock::Boottime;

/// The pause between two evaluations of a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(25);

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
    let start = now();
    loop {
        let reason = match tokio::time::timeout(limit, probe()).await {
            Ok(Ok(value)) => return value,
            Ok(Err(reason)) => reason.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        assert!(now().since(start) < limit, "waited {limit:?} for {what}: {reason}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
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
