use std::cell::Cell;

use model::{GoDuration, Phase, to_compact};
use stolon_tests::etcd::Etcd;
use stolon_tests::store_client;
use stolon_tests::tcp_relay::{Direction, NetworkCondition, TcpRelay};

use super::*;

const DATA: &str = r#"{"formatVersion":1,"cluster":{"spec":{"initMode":"new"}}}"#;

/// An etcd with a cluster, and a second program that writes to it.
struct WriteRace {
    etcd: Etcd,
    store: Store,
}

fn connect(etcd: &Etcd) -> Store {
    connect_for(&etcd.endpoint(), Duration::from_secs(60)) // enough for ten attempts on a busy machine
}

fn connect_for(endpoint: &str, timeout: Duration) -> Store {
    store_client::connect_with_timeout(endpoint, "c", timeout)
}

impl WriteRace {
    async fn start() -> Self {
        let etcd = Etcd::start().await;
        let store = connect(&etcd);
        store.put(&store.keys().cluster_data(), DATA).await.unwrap();
        Self { etcd, store }
    }

    /// Changes the phase as another program would, between a read and the write that follows it.
    fn write_from_elsewhere(&self, phase: &str) {
        std::thread::scope(|scope| {
            let write = async {
                let store = connect(&self.etcd);
                let (mut checked, _) = read(&store).await.unwrap();
                checked.data.cluster.as_mut().unwrap().status.phase = phase.into();
                store
                    .put(&store.keys().cluster_data(), to_compact(&checked.data))
                    .await
                    .unwrap();
            };
            let run = || {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap()
                    .block_on(write)
            };
            scope.spawn(run).join().unwrap();
        });
    }

    /// Runs a change that loses the first `losses` races. Returns its result and the number of attempts.
    async fn change(&self, limits: WriteLimits, losses: u32) -> (anyhow::Result<()>, u32) {
        let tries = Cell::new(0);
        let outcome = change(&self.store, &Clock::system(), limits, |checked| {
            tries.set(tries.get() + 1);
            if tries.get() <= losses {
                self.write_from_elsewhere(&format!("phase{}", tries.get()));
            }
            checked.stored_spec_mut().sleep_interval = Some(GoDuration::from_secs(9));
            Ok(())
        })
        .await;
        (outcome, tries.get())
    }

    async fn stored(&self) -> (Option<GoDuration>, Phase) {
        let (checked, _) = read(&self.store).await.unwrap();
        let cluster = checked.cluster();
        (
            cluster.spec.as_ref().unwrap().sleep_interval,
            cluster.status.phase.clone(),
        )
    }
}

#[tokio::test]
async fn a_conflict_is_retried_and_both_changes_remain() {
    // cli 18.13, cli 18.15, store 10.7
    for limits in [WriteLimits::EachRequest, WriteLimits::WholeCommand] {
        let race = WriteRace::start().await;
        let (outcome, tries) = race.change(limits, 1).await;
        outcome.unwrap();
        assert_eq!(tries, 2);
        assert_eq!(race.stored().await, (Some(GoDuration::from_secs(9)), "phase1".into()));
    }
}

#[tokio::test]
async fn the_last_conflict_is_an_error_and_changes_nothing() {
    // cli 18.13: three for update; cli 18.15: ten for failkeeper and removekeeper
    for (limits, times) in [(WriteLimits::EachRequest, 3), (WriteLimits::WholeCommand, 10)] {
        let race = WriteRace::start().await;
        let (outcome, tries) = race.change(limits, u32::MAX).await;
        assert_eq!(tries, times);
        assert!(
            outcome
                .unwrap_err()
                .to_string()
                .contains(&format!("gave up after {times} attempts"))
        );
        assert_eq!(race.stored().await, (None, format!("phase{times}").as_str().into()));
        let race = WriteRace::start().await;
        let (outcome, tries) = race.change(limits, times - 1).await;
        outcome.unwrap();
        assert_eq!(tries, times);
    }
}

#[tokio::test]
async fn a_change_that_is_refused_writes_nothing() {
    let race = WriteRace::start().await;
    let before = race.store.get(&race.store.keys().cluster_data()).await.unwrap();
    let clock = Clock::system();
    let outcome = change(&race.store, &clock, WriteLimits::EachRequest, |checked| {
        checked.data.cluster = None;
        bail!("no")
    });
    assert_eq!(outcome.await.unwrap_err().to_string(), "no");
    assert_eq!(race.store.get(&race.store.keys().cluster_data()).await.unwrap(), before);
}

#[tokio::test]
async fn a_store_that_stops_answering_is_reported_by_the_request_that_timed_out() {
    // cli 10.3: the timeout of the command and that of its request end together; which one fires first must not matter
    let race = WriteRace::start().await;
    let relay = TcpRelay::to(&race.etcd.address()).await;
    let store = connect_for(&relay.endpoint(), Duration::from_secs(3));
    let clock = Clock::system();
    let outcome = change(&store, &clock, WriteLimits::WholeCommand, |_| {
        relay.set(Direction::ToServer, NetworkCondition::Hold);
        Ok(())
    });
    let error = format!("{:#}", outcome.await.unwrap_err());
    assert!(
        error.contains("write stolon/cluster/c/clusterdata: no response from the store"),
        "{error}"
    );
}
