//! Ends a measurement at a signal in such a way that everything that it has started ends, too.

use std::future::Future;

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};

/// Runs a measurement to its end. At SIGINT, SIGTERM or SIGHUP it is dropped, which stops its programs and restores what
/// it has changed on this machine.
///
/// # Errors
///
/// The measurement's; or a signal has ended it.
pub async fn until_signal<T>(measurement: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut hang_up = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
    tokio::select! {
        done = measurement => done,
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
        _ = hang_up.recv() => bail!("the terminal was closed"),
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    struct SetOnDrop<'a>(&'a mut bool);

    impl Drop for SetOnDrop<'_> {
        fn drop(&mut self) {
            *self.0 = true;
        }
    }

    #[tokio::test]
    async fn a_signal_drops_the_measurement() {
        let mut is_dropped = false;
        let guard = SetOnDrop(&mut is_dropped);
        let outcome = until_signal(async move {
            let _guard = guard;
            // Handled: the listeners are installed before the measurement is polled.
            kill_process(getpid(), Signal::HUP).context("send SIGHUP")?;
            pending::<anyhow::Result<()>>().await
        });
        let outcome = outcome.await;
        assert_eq!(outcome.unwrap_err().to_string(), "the terminal was closed");
        assert!(is_dropped);
    }
}
