//! Shows how far a long step is: in the log every 30 s, and as a problem of kind `recovery`, which `stolonctl status`
//! shows. The progress itself is read by the steps.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base::Clock;
use base::clock::Boottime;
use tokio::time::sleep;
use tracing::info;

use crate::postgres::transfer::TransferProgress;
use crate::problems::{KeeperProblemKind, Problems};

/// Interval of showing a step. A step that takes less is not shown.
const INTERVAL: Duration = Duration::from_secs(2);
/// Interval of logging it.
const LOG_INTERVAL: Duration = Duration::from_secs(30);
/// Where the problem comes from.
const SOURCE: &str = "step progress";

/// Shows long steps, one at a time.
#[derive(Debug, Clone)]
pub struct StepProgress {
    problems: Arc<Problems>,
    clock: Clock,
}

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepState {
    pub transferred: Option<TransferProgress>,
    /// Since its start.
    pub elapsed: Duration,
}

impl StepState {
    /// Returns the percentage, at most 100, since the total is an estimate; `None` when it is not known.
    pub fn percent(&self) -> Option<u64> {
        let transferred = self.transferred?;
        let percent = transferred.done.saturating_mul(100).checked_div(transferred.total)?;
        Some(percent.min(100))
    }

    /// Returns the seconds left if it goes on as fast as so far; `None` when that is not known.
    pub fn seconds_left(&self) -> Option<u64> {
        let TransferProgress { done, total } = self.transferred?;
        let left = u128::from(total.checked_sub(done)?);
        let seconds = (u128::from(self.elapsed.as_secs()) * left).checked_div(u128::from(done))?;
        u64::try_from(seconds).ok()
    }
}

impl fmt::Display for StepState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: u64 = 1 << 20;
        if let Some(transferred) = self.transferred {
            let (done, total) = (transferred.done / MIB, transferred.total / MIB);
            match self.percent() {
                Some(percent) => write!(f, "{done} of about {total} MiB ({percent} %), ")?,
                None => write!(f, "{done} MiB, ")?,
            }
        }
        write!(f, "for {} s", self.elapsed.as_secs())?;
        match self.seconds_left() {
            Some(left) => write!(f, ", about {left} s left"),
            None => Ok(()),
        }
    }
}

impl StepProgress {
    pub fn new(problems: Arc<Problems>, clock: Clock) -> Self {
        Self { problems, clock }
    }

    /// Does `work`, and shows meanwhile how far it is, as `transferred` returns it. `step` is what is being done. Dropping
    /// the future ends both.
    pub async fn show<T>(
        &self,
        step: &'static str,
        transferred: impl Fn() -> Option<TransferProgress>,
        work: impl Future<Output = T>,
    ) -> T {
        let mut shown = ShownStep {
            progress: self,
            step,
            started: self.clock.now(),
            logged: None,
        };
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = sleep(INTERVAL) => shown.update(transferred()),
            }
        }
    }
}

/// A step that is shown until this is dropped.
struct ShownStep<'a> {
    progress: &'a StepProgress,
    step: &'static str,
    started: Boottime,
    logged: Option<Boottime>,
}

/// What an operator can do about a long step.
const REMEDY: &str = "wait; to abort a restore: `stolonctl init` with another spec; a copy: `stolonctl removekeeper`";

impl ShownStep<'_> {
    fn update(&mut self, transferred: Option<TransferProgress>) {
        let now = self.progress.clock.now();
        let state = StepState {
            transferred,
            elapsed: now.since(self.started),
        };
        let step = self.step;
        if self.logged.is_none_or(|logged| now.since(logged) >= LOG_INTERVAL) {
            self.logged = Some(now);
            let (bytes, total) = (
                transferred.map(|known| known.done),
                transferred.map(|known| known.total).filter(|total| *total > 0),
            );
            let (percent, left) = (state.percent(), state.seconds_left());
            let seconds = state.elapsed.as_secs();
            info!(
                step,
                bytes,
                total,
                percent,
                seconds,
                secondsLeft = left,
                "a long step is under way"
            );
        }
        let text = format!("{step}: {state}");
        let problem = KeeperProblemKind::Recovery.problem(&text, REMEDY);
        self.set(vec![problem]);
    }

    fn set(&self, problems: Vec<model::Problem>) {
        self.progress
            .problems
            .set_quietly(KeeperProblemKind::Recovery, SOURCE, problems);
    }
}

impl Drop for ShownStep<'_> {
    fn drop(&mut self) {
        self.set(Vec::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn state(transferred: Option<(u64, u64)>, seconds: u64) -> StepState {
        StepState {
            transferred: transferred.map(|(done, total)| TransferProgress { done, total }),
            elapsed: Duration::from_secs(seconds),
        }
    }

    #[test]
    fn a_state_reads_as_bytes_share_and_time_left_as_far_as_they_are_known() {
        let text = |transferred, seconds| state(transferred, seconds).to_string();
        assert_eq!(text(None, 7), "for 7 s");
        assert_eq!(
            text(Some((250 * MIB, 1000 * MIB)), 30),
            "250 of about 1000 MiB (25 %), for 30 s, about 90 s left"
        );
        assert_eq!(text(Some((0, 1000 * MIB)), 3), "0 of about 1000 MiB (0 %), for 3 s");
        // More than the estimate, or none.
        assert_eq!(
            text(Some((2000 * MIB, 1000 * MIB)), 9),
            "2000 of about 1000 MiB (100 %), for 9 s"
        );
        assert_eq!(text(Some((5 * MIB, 0)), 9), "5 MiB, for 9 s");
        assert_eq!(state(Some((1, u64::MAX)), u64::MAX).seconds_left(), None);
    }
}
