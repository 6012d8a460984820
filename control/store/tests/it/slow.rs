//! A slow store: the choice of endpoint, watches and elections.

use std::time::Duration;

use stolon_tests::deadlines::SHORT_TIMEOUT;
use stolon_tests::{
    etcd::Etcd,
    tcp_relay::{Direction, NetworkCondition, TcpRelay},
    wait::{eventually, now, throughout},
};
use store::{
    KeyRange, Store, Txn,
    election::{Election, Leader},
};

use crate::{store, until};

const LATE: Duration = Duration::from_secs(3);

/// One etcd behind several endpoints, each of which can be slow.
async fn endpoints(etcd: &Etcd, count: usize) -> (Vec<TcpRelay>, Store) {
    let mut relays = Vec::new();
    for _ in 0..count {
        relays.push(TcpRelay::to(&etcd.address()).await);
    }
    let endpoints: Vec<String> = relays.iter().map(TcpRelay::endpoint).collect();
    let store = store(&endpoints.join(","));
    until("all to be connected", async || {
        store.get("key").await.unwrap();
        relays.iter().all(|relay| relay.delivered(Direction::ToClient) > 0)
    })
    .await;
    (relays, store)
}

#[tokio::test]
async fn no_read_and_no_renewal_waits_for_an_endpoint_that_has_become_slow() {
    let etcd = Etcd::start().await;
    let (relays, store) = endpoints(&etcd, 3).await;
    let lease = store.grant(Duration::from_secs(60)).await.unwrap().lease;
    relays[1].set(Direction::ToClient, NetworkCondition::Delay(LATE));
    for _ in 0..12 {
        let begun = now();
        store.get("key").await.unwrap();
        assert!(store.renew(lease).await.unwrap());
        assert!(now().since(begun) < LATE, "{:?}", now().since(begun));
    }
}

#[tokio::test]
async fn writes_avoid_a_slow_endpoint_once_it_is_known() {
    let etcd = Etcd::start().await;
    let (relays, store) = endpoints(&etcd, 3).await;
    relays[2].set(Direction::ToClient, NetworkCondition::Delay(LATE));
    // requests sent there show it, at the latest a probe
    until("the slow one to be known", async || {
        let begun = now();
        store.put("key", "value").await.unwrap();
        store.get("key").await.unwrap();
        now().since(begun) >= Duration::from_millis(300)
    })
    .await;
    for n in 0..12 {
        let begun = now();
        store.put("key", n.to_string()).await.unwrap();
        assert!(now().since(begun) < LATE, "{:?}", now().since(begun));
    }
}

#[tokio::test]
async fn an_endpoint_that_is_fast_again_is_used_again() {
    let etcd = Etcd::start().await;
    let (relays, store) = endpoints(&etcd, 2).await;
    relays[0].set(Direction::ToClient, NetworkCondition::Delay(Duration::from_millis(600)));
    until("the slow one to be known", async || {
        let begun = now();
        store.get("key").await.unwrap();
        now().since(begun) >= Duration::from_millis(300)
    })
    .await;
    relays[0].set(Direction::ToClient, NetworkCondition::Normal);
    relays[1].set(Direction::ToClient, NetworkCondition::Delay(Duration::from_millis(600)));
    eventually("requests over the one that was slow", SHORT_TIMEOUT, async || {
        let before = relays[0].received(Direction::ToServer);
        for _ in 0..5 {
            store.get("key").await.unwrap();
        }
        // five requests are more than probes and hedged requests
        if relays[0].received(Direction::ToServer) > before + 5 * 30 {
            Ok(())
        } else {
            Err("not yet")
        }
    })
    .await;
}

#[tokio::test]
async fn a_watch_moves_away_from_an_endpoint_that_has_become_slow() {
    let etcd = Etcd::start().await;
    let (relays, store) = endpoints(&etcd, 2).await;
    let watch = store.watch(vec![KeyRange::Key("watched".to_owned())], None);
    watch.changed().await; // it is established
    let direct = crate::store(&etcd.endpoint());
    let over_second = async |n: u32| {
        let before = relays[1].delivered(Direction::ToClient);
        direct.put("watched", n.to_string()).await.unwrap();
        watch.changed().await;
        relays[1].delivered(Direction::ToClient) > before
    };
    // its endpoint becomes slow
    let slow = usize::from(over_second(0).await);
    relays[slow].set(Direction::ToClient, NetworkCondition::Delay(LATE));
    let begun = now();
    let mut n = 1;
    eventually("the watch to be quick again", SHORT_TIMEOUT, async || {
        n += 1;
        let put = now();
        direct.put("watched", n.to_string()).await.unwrap();
        watch.changed().await;
        if now().since(put) < LATE / 2 {
            Ok(())
        } else {
            Err(format!("{:?}", now().since(put)))
        }
    })
    .await;
    eprintln!("the watch moved within {:?}", now().since(begun));
}

#[tokio::test]
async fn a_busy_watch_moves_away_from_a_slow_endpoint_too() {
    let etcd = Etcd::start().await;
    let (relays, store) = endpoints(&etcd, 2).await;
    let watch = store.watch(vec![KeyRange::Prefix("watched/".to_owned())], None);
    watch.changed().await; // it is established
    let direct = crate::store(&etcd.endpoint());
    let before = relays[1].delivered(Direction::ToClient);
    direct.put("watched/key", "first").await.unwrap();
    watch.changed().await;
    let slow = usize::from(relays[1].delivered(Direction::ToClient) > before);
    relays[slow].set(Direction::ToClient, NetworkCondition::Delay(LATE));
    let busy = async {
        loop {
            direct.put("watched/other", "busy").await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let mut n = 0;
    let quick = eventually("the watch to be quick again", LATE * 5, async || {
        n += 1;
        let (put, value) = (now(), n.to_string().into_bytes());
        direct.put("watched/key", value.clone()).await.unwrap();
        loop {
            let changes = watch.changed().await;
            let entry = changes.keys.get("watched/key").and_then(|change| change.entry.as_ref());
            if entry.is_some_and(|entry| entry.value == value) || changes.gap {
                break;
            }
        }
        let took = now().since(put);
        if took < LATE / 2 {
            Ok(())
        } else {
            Err(format!("{took:?}"))
        }
    });
    tokio::select! {
        () = busy => {}
        _ = quick => {}
    }
}

/// On the silent connection only probes are sent: requests avoid it.
#[tokio::test]
async fn an_unused_silent_connection_is_re_established() {
    let etcd = Etcd::start().await;
    let (relays, store) = endpoints(&etcd, 2).await;
    relays[0].set_both(NetworkCondition::Hold);
    let accepted = relays[0].accepted();
    until("a new connection", async || {
        store.get("key").await.unwrap();
        relays[0].accepted() > accepted
    })
    .await;
}

async fn leads(election: &Election) -> Leader {
    let mut state = election.state();
    let state = tokio::time::timeout(SHORT_TIMEOUT, state.wait_for(|state| state.leader().is_some())).await;
    let state = state.expect("it wins in time").expect("the election goes on");
    state.leader().expect("it was waited for").clone()
}

/// Returns whether the leader could now send a write that depends on a read of this latency (fencing F-7).
fn may_write(leader: &Leader, latency: Duration) -> bool {
    leader.lease_end().since(now()) > latency
}

async fn is_kept(latencies: &[Duration]) {
    let etcd = Etcd::start().await;
    let relay = TcpRelay::to(&etcd.address()).await;
    let slow = store(&relay.endpoint());
    let election = Election::start(slow.clone(), "aaaaaaaa");
    let leader = leads(&election).await;
    for latency in latencies.iter().copied() {
        relay.set(Direction::ToClient, NetworkCondition::Delay(latency));
        let keeps = async || match election.state().borrow().leader() {
            Some(now) if *now == leader => Ok(()),
            other => Err(format!("{other:?}")),
        };
        // several TTLs long; the session has moved to another lease by then
        throughout("leadership", Duration::from_secs(16), keeps).await;
        until("writes to be possible", async || may_write(&leader, latency)).await;
        throughout("writes to be possible", Duration::from_secs(6), async || {
            keeps().await?;
            if may_write(&leader, latency) {
                Ok(())
            } else {
                Err("too little is left of the lease".to_owned())
            }
        })
        .await;
        // and the key is still the one that writes depend on
        let write = leader.guard(Txn::new().put("key", "value"));
        assert!(slow.commit(write).await.unwrap().committed().is_some());
    }
    relay.set(Direction::ToClient, NetworkCondition::Normal);
    election.stop().await;
    let direct = store(&etcd.endpoint());
    until("the key to go", async || {
        direct.get(&leader.key).await.unwrap().is_none()
    })
    .await;
}

#[tokio::test]
async fn leadership_is_kept_when_every_response_takes_more_than_a_second() {
    is_kept(&[Duration::from_millis(1400)]).await;
}

#[tokio::test]
async fn leadership_is_kept_when_every_response_takes_three_seconds() {
    is_kept(&[LATE]).await;
}

/// With these latencies there is never half a second without a renewal sent or confirmed.
#[tokio::test]
async fn leadership_is_kept_and_writes_are_possible_at_any_latency() {
    let (two, three) = ([Duration::from_millis(2100)], [Duration::from_millis(2900)]);
    tokio::join!(is_kept(&two), is_kept(&three));
}

/// Whatever the session was doing, none of its keys delays other candidates (store E-8).
#[tokio::test]
async fn no_key_is_left_behind_by_a_candidate_that_stops_while_it_moves_to_another_lease() {
    let etcd = Etcd::start().await;
    let relay = TcpRelay::to(&etcd.address()).await;
    let direct = store(&etcd.endpoint());
    let election = Election::start(store(&relay.endpoint()), "aaaaaaaa");
    let leader = leads(&election).await;
    let lease = async || direct.get(&leader.key).await.unwrap().and_then(|entry| entry.lease);
    let first = lease().await.expect("the key has a lease");
    relay.set(Direction::ToClient, NetworkCondition::Delay(LATE));
    // the response to the put arrives seconds after it was applied
    until("the key to have another lease", async || {
        lease().await.is_some_and(|lease| lease != first)
    })
    .await;
    election.stop().await;
    // long before the new lease expires
    eventually("the key to go", Duration::from_secs(5), async || {
        lease()
            .await
            .map_or(Ok(()), |lease| Err(format!("it has lease {lease}")))
    })
    .await;
}

#[tokio::test]
async fn a_candidate_wins_on_a_store_that_was_slow_from_the_start() {
    let etcd = Etcd::start().await;
    let relay = TcpRelay::to(&etcd.address()).await;
    relay.set(Direction::ToClient, NetworkCondition::Delay(LATE));
    let election = Election::start(store(&relay.endpoint()), "aaaaaaaa");
    let leader = leads(&election).await;
    until("writes to be possible", async || may_write(&leader, LATE)).await;
    throughout("leadership", Duration::from_secs(10), async || {
        let state = election.state();
        let leads = state.borrow().leader() == Some(&leader);
        if leads { Ok(()) } else { Err("lost") }
    })
    .await;
}
