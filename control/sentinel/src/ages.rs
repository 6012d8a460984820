//! Ages of the keeper infos found at a sentinel's start, from the remaining time of their leases (sentinel E-6). What
//! follows from an age is left to `plan`.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::JoinSet;
use tracing::debug;

use base::Chain;
use model::KeeperUid;
use store::{LeaseId, LeaseTtl, StoreError};

/// Maximum number of leases queried; infos above it count as new.
const QUERIES_MAX: usize = 256;

/// Returns the minimum age of an info whose lease has this remaining time, which etcd truncates to whole seconds.
pub(super) fn age_from_lease(lease: LeaseTtl) -> Duration {
    let left = lease.remaining.saturating_add(Duration::from_secs(1));
    lease.granted.saturating_sub(left)
}

/// Queries all ages concurrently: on a slow store the first round of a new leader takes one round trip longer, whatever
/// the number of keepers. Returns the ages that were received.
pub(super) async fn query_ages<F, Fut>(leases: &BTreeMap<KeeperUid, LeaseId>, query: F) -> Vec<(KeeperUid, Duration)>
where
    F: Fn(LeaseId) -> Fut,
    Fut: Future<Output = Result<Option<Duration>, StoreError>> + Send + 'static,
{
    let mut queries = JoinSet::new();
    for (uid, lease) in leases.iter().take(QUERIES_MAX) {
        let (uid, answer) = (uid.clone(), query(*lease));
        queries.spawn(async move { (uid, answer.await) });
    }
    let mut ages = Vec::new();
    while let Some(answer) = queries.join_next().await {
        match answer {
            Ok((uid, Ok(Some(age)))) => ages.push((uid, age)),
            Ok((_, Ok(None))) => {} // the info is gone
            Ok((_, Err(error))) => debug!(error = %Chain(&error), "could not query the age of a keeper info"),
            Err(error) => debug!(%error, "the task that queries the age of a keeper info failed"),
        }
    }
    ages
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Barrier;
    use tokio::time::timeout;

    use super::*;

    fn leases(count: i64) -> BTreeMap<KeeperUid, LeaseId> {
        let lease = |number| (KeeperUid::from(format!("k{number:03}")), LeaseId(number));
        (1..=count).map(lease).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn all_queries_are_sent_before_the_first_response_and_their_number_is_bounded() {
        for (count, queried) in [(7, 7), (300, QUERIES_MAX)] {
            let all = Arc::new(Barrier::new(queried));
            let answer = |lease: LeaseId| {
                let all = Arc::clone(&all);
                async move {
                    all.wait().await;
                    Ok(Some(Duration::from_secs(u64::try_from(lease.0).unwrap())))
                }
            };
            let ages = timeout(Duration::from_secs(3600), query_ages(&leases(count), answer)).await;
            let mut ages = ages.expect("no query waits for the response to another");
            ages.sort();
            assert_eq!(ages.len(), queried);
            assert_eq!(ages[6], (KeeperUid::from("k007"), Duration::from_secs(7)));
        }
    }

    #[tokio::test]
    async fn an_expired_lease_has_no_age() {
        let answer = |lease: LeaseId| async move { Ok((lease.0 != 2).then_some(Duration::ZERO)) };
        let mut ages = query_ages(&leases(3), answer).await;
        ages.sort();
        let uids: Vec<_> = ages.iter().map(|(uid, _)| uid.as_str()).collect();
        assert_eq!(uids, ["k001", "k003"]);
    }

    #[test]
    fn an_age_is_a_lower_bound() {
        let lease = |granted, remaining| LeaseTtl {
            granted: Duration::from_secs(granted),
            remaining: Duration::from_secs(remaining),
        };
        assert_eq!(
            age_from_lease(lease(20, 12)),
            Duration::from_secs(7),
            "what is left may be almost 13 s"
        );
        assert_eq!(age_from_lease(lease(20, 20)), Duration::ZERO);
    }
}
