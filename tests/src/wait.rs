//! Waiting for a condition with a deadline; the one clock of the tests.

use std::fmt::Display;
use std::time::Duration;

use control::clock::Boottime;

/// How long a condition sleeps between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(25);

/// Now, for measuring how long something took.
#[expect(clippy::disallowed_methods, reason = "the harness is where a test's time enters")]
pub fn now() -> Boottime {
    Boottime::now()
}

/// Looks again and again until `probe` gives a value, and gives that.
///
/// # Panics
///
/// When `limit` has passed: with `what` was awaited and the last reason why it was not so.
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

/// Looks again and again for `span`, and panics as soon as `probe` errs: for what must not happen meanwhile.
///
/// # Panics
///
/// At the first error of `probe`.
pub async fn throughout<E: Display>(what: impl Display, span: Duration, mut probe: impl AsyncFnMut() -> Result<(), E>) {
    let start = now();
    while now().since(start) < span {
        if let Err(reason) = probe().await {
            panic!("{what} did not hold for {span:?}: {reason}");
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
