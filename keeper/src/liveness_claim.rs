//! Takes the liveness key at the start of a keeper, so that exactly one of several processes with the same uid acts: a
//! unit file may have been copied, or a container started twice. Before that, data, info and server are not touched.

use std::time::Duration;

use base::clock::Boottime;
use base::{Chain, Clock};
use model::{BootUuid, LIVENESS_TTL};
use store::StoreError;
use tokio::time::sleep;
use tracing::{error, info, warn};

use crate::liveness::LivenessKey;

/// Interval of reading the key while another process holds it.
const POLL_DELAY: Duration = Duration::from_millis(200);
/// After this time a key is known to be renewed: its process is alive.
const ALIVE_AFTER: Duration = Duration::from_secs(6);
/// Longer than the key of a dead process persists, however busy the store is.
const _: () = assert!(ALIVE_AFTER.as_secs() >= 2 * LIVENESS_TTL.as_secs());

/// A live process may lose its key while the store is unavailable; its next renewal restores it. This is the time to
/// wait for that.
const GONE_AFTER: Duration = Duration::from_secs(6);
/// Interval of logging that another process is waited for.
const LOG_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// What is known from waiting for the key.
#[derive(Debug, Default)]
pub struct LivenessClaim {
    /// The other process that was last found to hold the key, and since when it has been found.
    holder: Option<(BootUuid, Boottime)>,
    /// It has renewed the key.
    is_holder_alive: bool,
    /// Since when the key has been found absent.
    absent_since: Option<Boottime>,
    /// When waiting was last logged.
    logged: Option<Boottime>,
}

/// What to do with a key as it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClaimStep {
    Take,
    Wait,
}

impl LivenessClaim {
    /// Whether another process holds the key, as far as the store has answered.
    pub fn is_held(&self) -> bool {
        self.holder.is_some()
    }

    /// Waits until this process holds the key. `predecessors` are processes that have ended. If the store denies access
    /// to the key, returns without it.
    pub async fn take(&mut self, liveness_key: &mut LivenessKey, predecessors: &[BootUuid], clock: &Clock) {
        let mut is_failing = false;
        loop {
            match self.try_once(liveness_key, predecessors, clock.now()).await {
                Ok(true) => return,
                Ok(false) => is_failing = false,
                Err(refused @ StoreError::Refused { .. }) => {
                    let key = liveness_key.key();
                    warn!(key, error = %Chain(&refused), "could not take the liveness key, going on without it");
                    return;
                }
                Err(error) => {
                    self.absent_since = None;
                    if !std::mem::replace(&mut is_failing, true) {
                        warn!(error = %Chain(&error), "could not take the liveness key, trying again");
                    }
                }
            }
            sleep(POLL_DELAY).await;
        }
    }

    async fn try_once(
        &mut self,
        liveness_key: &mut LivenessKey,
        predecessors: &[BootUuid],
        now: Boottime,
    ) -> Result<bool, StoreError> {
        let found = liveness_key.read().await?;
        let holder = found.as_ref().map(|found| &found.boot);
        // This process may hold it already, when the response to an earlier attempt was lost.
        if holder.is_some_and(|boot| predecessors.contains(boot) || liveness_key.is_ours(boot)) {
            return liveness_key.take(found.as_ref()).await;
        }
        match self.decide(holder, now) {
            ClaimStep::Take => {
                let taken = liveness_key.take(found.as_ref()).await?;
                if taken && self.is_held() {
                    info!(key = liveness_key.key(), "the other process has ended, going on");
                }
                Ok(taken)
            }
            ClaimStep::Wait => {
                self.log(liveness_key.key(), now);
                Ok(false)
            }
        }
    }

    fn decide(&mut self, holder: Option<&BootUuid>, now: Boottime) -> ClaimStep {
        let Some(boot) = holder else {
            let since = *self.absent_since.get_or_insert(now);
            // The key of a holder that never renewed it has just expired; one that did may be cut off from the store
            // for a moment.
            let is_gone = !self.is_holder_alive || now.since(since) >= GONE_AFTER;
            return if is_gone { ClaimStep::Take } else { ClaimStep::Wait };
        };
        self.absent_since = None;
        match &self.holder {
            Some((known, since)) if known == boot => {
                if now.since(*since) >= ALIVE_AFTER {
                    self.is_holder_alive = true;
                }
            }
            _ => {
                self.holder = Some((boot.clone(), now));
                self.logged = None;
            }
        }
        ClaimStep::Wait
    }

    fn log(&mut self, key: &str, now: Boottime) {
        let Some((boot, _)) = &self.holder else { return };
        if self.logged.is_some_and(|logged| now.since(logged) < LOG_AGAIN_AFTER) {
            return;
        }
        if self.logged.is_none() && !self.is_holder_alive {
            info!(key, bootUUID = %boot, "another process holds our liveness key, waiting for it to end");
            // Log again as soon as the holder is known to be alive.
            self.logged = Some(now.before(LOG_AGAIN_AFTER.saturating_sub(ALIVE_AFTER)));
            return;
        }
        error!(
            key,
            bootUUID = %boot,
            "another process runs with our uid, doing nothing until it ends: stop one of the two, or give this one a --uid \
             and a --data-dir of its own"
        );
        self.logged = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Boottime {
        Boottime::from_nanos(millis * 1_000_000)
    }

    fn boot(name: &str) -> BootUuid {
        BootUuid::from(name)
    }

    #[test]
    fn a_free_key_is_taken_immediately_and_a_held_one_after_it_has_expired() {
        assert_eq!(LivenessClaim::default().decide(None, at(0)), ClaimStep::Take);
        let mut claim = LivenessClaim::default();
        assert_eq!(claim.decide(Some(&boot("a")), at(0)), ClaimStep::Wait);
        assert_eq!(claim.decide(Some(&boot("a")), at(2900)), ClaimStep::Wait);
        assert_eq!(claim.decide(None, at(3100)), ClaimStep::Take, "its process had ended");
    }

    #[test]
    fn the_key_of_a_live_process_is_not_taken_during_a_short_absence() {
        let mut claim = LivenessClaim::default();
        for millis in (0..=6000).step_by(200) {
            assert_eq!(claim.decide(Some(&boot("a")), at(millis)), ClaimStep::Wait);
        }
        assert_eq!(claim.decide(None, at(7000)), ClaimStep::Wait);
        assert_eq!(claim.decide(Some(&boot("a")), at(8000)), ClaimStep::Wait);
        assert_eq!(claim.decide(None, at(9000)), ClaimStep::Wait);
        assert_eq!(claim.decide(None, at(14_900)), ClaimStep::Wait);
        assert_eq!(claim.decide(None, at(15_000)), ClaimStep::Take);
    }

    #[test]
    fn each_holder_counts_from_its_first_observation() {
        let mut claim = LivenessClaim::default();
        for (millis, holder) in [(0, "a"), (3000, "b"), (6500, "b")] {
            assert_eq!(claim.decide(Some(&boot(holder)), at(millis)), ClaimStep::Wait);
        }
        assert_eq!(claim.decide(None, at(7000)), ClaimStep::Take, "no renewal was observed");
    }
}
