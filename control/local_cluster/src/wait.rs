//! Waits for conditions, with a deadline.

use std::time::Duration;

/// Delay between two evaluations of a condition.
pub const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A condition that did not hold in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not within {} s: {reason}", limit.as_secs())]
pub struct TimedOut {
    /// The time that it had.
    pub limit: Duration,
    /// Why it did not hold when it was evaluated last.
    pub reason: String,
}

/// Calls `probe` until it succeeds, and returns its value.
///
/// # Errors
///
/// `limit` has passed: the error has the last one of `probe`.
pub async fn retry<T>(limit: Duration, mut probe: impl AsyncFnMut() -> Result<T, String>) -> Result<T, TimedOut> {
    let mut reason = "no response".to_owned();
    let attempts = async {
        loop {
            match probe().await {
                Ok(value) => return value,
                Err(error) => reason = error,
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    let outcome = tokio::time::timeout(limit, attempts).await;
    outcome.map_err(|_| TimedOut { limit, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_error_is_returned_at_the_deadline() {
        let limit = Duration::from_millis(100);
        let failed = retry::<()>(limit, async || Err("not yet".to_owned())).await;
        assert_eq!(failed.unwrap_err().to_string(), "not within 0 s: not yet");
        let failed = retry::<()>(limit, async || std::future::pending().await).await;
        assert_eq!(failed.unwrap_err().reason, "no response");
    }

    #[tokio::test]
    async fn the_first_value_is_returned() {
        let mut calls = 0;
        let value = retry(Duration::from_secs(60), async || {
            calls += 1;
            if calls == 3 {
                Ok(calls)
            } else {
                Err("not yet".to_owned())
            }
        });
        assert_eq!(value.await, Ok(3));
    }
}
