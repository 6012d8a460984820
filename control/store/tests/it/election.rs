//! Elections on a real etcd (store 6, corner cases 9 to 15).

use std::time::Duration;

use stolon_tests::deadlines::SHORT_TIMEOUT;
use stolon_tests::{
    etcd::Etcd,
    tcp_relay::{Direction, NetworkCondition, TcpRelay},
    wait::{eventually, now, throughout},
};
use store::{
    LeaseId, Store, Txn, TxnOutcome,
    election::{ElectedSentinel, Election, Leader, Leadership, elected_sentinel},
};
use tokio::{sync::watch, time::timeout};

use crate::{run_etcdctl, store, store_with_timeout, until};

async fn leads(election: &Election) -> Leader {
    let mut state = election.state();
    let state = timeout(SHORT_TIMEOUT, state.wait_for(|state| state.leader().is_some()))
        .await
        .expect("it wins in time");
    state
        .expect("the election goes on")
        .leader()
        .expect("it was waited for")
        .clone()
}

async fn deposed(state: &mut watch::Receiver<Leadership>, leader: &Leader) {
    let lost = timeout(SHORT_TIMEOUT, state.wait_for(|state| state.leader() != Some(leader))).await;
    lost.expect("it loses in time").expect("the election goes on");
}

async fn elected(store: &Store) -> Option<ElectedSentinel> {
    elected_sentinel(store.list(&store.keys().election()).await.unwrap())
}

async fn candidates(store: &Store) -> usize {
    store.list(&store.keys().election()).await.unwrap().len()
}

fn is_leader(election: &Election) -> bool {
    election.state().borrow().leader().is_some()
}

/// Enters the election as Go stolon does: a lease of 20 s, its hexadecimal id as the key's name.
async fn reference_candidate(store: &Store, uid: &str) -> LeaseId {
    let lease = store.grant(Duration::from_secs(20)).await.unwrap().lease;
    let key = store.keys().candidate(lease);
    let entered = store
        .commit(Txn::new().if_absent(&key).put_leased(&key, uid, lease))
        .await
        .unwrap();
    assert!(entered.committed().is_some());
    lease
}

#[tokio::test]
async fn a_lone_candidate_leads_in_the_layout_of_go_stolon() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    assert_eq!(elected(&store).await, None);
    let election = Election::start(store.clone(), "12ab34cd");
    let leader = leads(&election).await;
    assert_eq!(leader.count, 1);
    assert!(leader.lease_end() > now());

    let entry = store.get(&leader.key).await.unwrap().unwrap();
    assert_eq!(entry.value, b"12ab34cd");
    assert_eq!(entry.create_revision, leader.create_revision);
    assert_eq!(leader.key, store.keys().candidate(entry.lease.unwrap()));
    let ElectedSentinel { uid, key, .. } = elected(&store).await.unwrap();
    assert_eq!((uid.as_str(), key), ("12ab34cd", leader.key.clone()));
    // renewals move the end of the lease and wake no receiver
    let (end, mut state) = (leader.lease_end(), election.state());
    state.mark_unchanged();
    until("a renewal", async || leader.lease_end() > end).await;
    assert!(!state.has_changed().unwrap());
}

#[tokio::test]
async fn an_orderly_stop_hands_over_at_once() {
    // corner case 9, store E-8
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let first = Election::start(store.clone(), "aaaaaaaa");
    let old = leads(&first).await;
    let second = Election::start(store.clone(), "bbbbbbbb");
    until("a second candidate", async || candidates(&store).await == 2).await;
    let end = old.lease_end();
    first.stop().await;
    // revoked, not expired: no candidate waits for the end of the lease
    assert_eq!(store.get(&old.key).await.unwrap(), None);
    leads(&second).await;
    assert!(now() < end, "the lease has ended meanwhile");
}

#[tokio::test]
async fn a_candidate_that_leaves_deletes_its_key() {
    // store E-9
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let first = Election::start(store.clone(), "aaaaaaaa");
    leads(&first).await;
    let second = Election::start(store.clone(), "bbbbbbbb");
    until("a second candidate", async || candidates(&store).await == 2).await;
    second.stop().await;
    assert_eq!(candidates(&store).await, 1);
    assert!(is_leader(&first));
}

#[tokio::test]
async fn a_leader_that_goes_silent_is_replaced_within_its_lease() {
    // corner case 9: what kill -9 looks like from outside
    let etcd = Etcd::start().await;
    let relay = TcpRelay::to(&etcd.address()).await;
    let direct = store(&etcd.endpoint());
    let first = Election::start(store(&relay.endpoint()), "aaaaaaaa");
    let old = leads(&first).await;
    let second = Election::start(direct.clone(), "bbbbbbbb");
    until("a second candidate", async || candidates(&direct).await == 2).await;
    let mut state = first.state();
    relay.disable();
    deposed(&mut state, &old).await;
    assert_eq!(old.lease_end().as_nanos(), 0);
    // the old leader stepped down before the new one could win (store E-13)
    assert!(!is_leader(&second));
    leads(&second).await;
    relay.enable();
}

#[tokio::test]
async fn a_leader_whose_lease_is_revoked_campaigns_again_with_a_new_key() {
    // corner case 10
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let election = Election::start(store.clone(), "aaaaaaaa");
    let old = leads(&election).await;
    let lease = store.get(&old.key).await.unwrap().unwrap().lease.unwrap();
    store.revoke(lease).await.unwrap();
    deposed(&mut election.state(), &old).await;
    let new = leads(&election).await;
    assert_ne!(new.key, old.key);
    assert_eq!(new.count, 2);
}

#[tokio::test]
async fn a_leader_notices_that_its_key_was_deleted() {
    // corner case 11
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let election = Election::start(store.clone(), "aaaaaaaa");
    let old = leads(&election).await;
    store.commit(Txn::new().delete(&old.key)).await.unwrap();
    deposed(&mut election.state(), &old).await;
    assert_ne!(leads(&election).await.key, old.key);
}

#[tokio::test]
async fn a_waiting_candidate_without_a_lease_never_leads_without_a_key() {
    // corner case 12, store E-12.2
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let predecessor = reference_candidate(&store, "00000000").await;
    let election = Election::start(store.clone(), "aaaaaaaa");
    let own = eventually("the candidate's key", SHORT_TIMEOUT, async || {
        let found = store.list(&store.keys().election()).await.unwrap();
        found
            .into_iter()
            .find(|entry| entry.value == b"aaaaaaaa")
            .ok_or("not yet")
    })
    .await;
    store.revoke(own.lease.unwrap()).await.unwrap();
    store.revoke(predecessor).await.unwrap();
    let leader = leads(&election).await;
    assert_ne!(leader.key, own.key);
    assert_eq!(
        store.get(&leader.key).await.unwrap().unwrap().create_revision,
        leader.create_revision
    );
}

#[tokio::test]
async fn a_candidate_waits_for_all_that_are_older() {
    // corner cases 9 and 13, with candidates of Go stolon
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let first = reference_candidate(&store, "11111111").await;
    let middle = reference_candidate(&store, "22222222").await;
    let election = Election::start(store.clone(), "aaaaaaaa");
    until("three candidates", async || candidates(&store).await == 3).await;
    store.revoke(middle).await.unwrap();
    throughout("the first candidate's leadership", Duration::from_secs(1), async || {
        if is_leader(&election) {
            Err("this process leads")
        } else {
            Ok(())
        }
    })
    .await;
    assert_eq!(elected(&store).await.unwrap().uid, "11111111");
    store.revoke(first).await.unwrap();
    leads(&election).await;
}

#[tokio::test]
async fn a_candidate_survives_a_compaction() {
    // corner case 15, store E-10
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let first = reference_candidate(&store, "11111111").await;
    let election = Election::start(store.clone(), "aaaaaaaa");
    until("two candidates", async || candidates(&store).await == 2).await;
    let mut last = store.put("x", "0").await.unwrap();
    for _ in 0..5 {
        last = store.put("x", "1").await.unwrap();
    }
    run_etcdctl(&etcd, &["compact", &last.to_string()]);
    store.revoke(first).await.unwrap();
    leads(&election).await;
    assert_eq!(candidates(&store).await, 1);
}

#[tokio::test]
async fn one_leads_after_a_store_outage_longer_than_any_lease() {
    // corner case 14
    let mut etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let elections = ["aaaaaaaa", "bbbbbbbb"].map(|uid| Election::start(store.clone(), uid));
    until("a leader", async || elections.iter().any(is_leader)).await;
    etcd.stop().await;
    until("no leader", async || !elections.iter().any(is_leader)).await;
    etcd.restart().await;
    until("a leader", async || elections.iter().any(is_leader)).await;
    throughout("one leader", Duration::from_secs(1), async || {
        let leaders = elections.iter().filter(|election| is_leader(election)).count();
        if leaders == 1 {
            Ok(())
        } else {
            Err(format!("{leaders} lead"))
        }
    })
    .await;
}

#[tokio::test]
async fn the_write_of_a_deposed_leader_is_refused() {
    // fencing F-7, store C-9: the leader is held between its read and its write
    let etcd = Etcd::start().await;
    let relay = TcpRelay::to(&etcd.address()).await;
    let direct = store(&etcd.endpoint());
    let key = direct.keys().cluster_data();
    let read = direct.put(&key, "data").await.unwrap();
    let first = Election::start(store(&relay.endpoint()), "aaaaaaaa");
    let leader = leads(&first).await;
    let second = Election::start(direct.clone(), "bbbbbbbb");
    until("a second candidate", async || candidates(&direct).await == 2).await;
    // a separate store, so that the write waits for its response however long the next election takes
    let patient = store_with_timeout(&relay.endpoint(), SHORT_TIMEOUT * 4);
    patient.get(&key).await.unwrap();
    relay.hold_from(Direction::ToServer, b"late");
    let write = leader.guard(Txn::new().if_unchanged(&key, read).put(&key, "late"));
    let late = tokio::spawn(async move { patient.commit(write).await });
    until("the write to be held", async || relay.is_held(Direction::ToServer)).await;
    leads(&second).await;
    assert!(!late.is_finished(), "nothing has answered the write yet");
    relay.set(Direction::ToServer, NetworkCondition::Normal);
    let refused = timeout(SHORT_TIMEOUT, late).await.expect("a response in time").unwrap();
    assert_eq!(refused.unwrap(), TxnOutcome::Conflict);
    assert_eq!(direct.get(&key).await.unwrap().unwrap().value, b"data");
}
