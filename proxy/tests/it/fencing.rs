//! Pauses of the proxy and of the store must have no effect on correctness (fencing 4.2, 4.3, 4.5).

use std::time::Duration;

use stolon_tests::deadlines::SHORT_TIMEOUT;
use stolon_tests::process::Signal;
use stolon_tests::tcp_relay::{Direction, NetworkCondition, TcpRelay};
use stolon_tests::wait::{eventually, now, throughout};
use store::{LeaseId, Txn};

use crate::harness::{CHECK_INTERVAL, LATE, Master, Proxy, ProxyHarness, SHORT_LEASE, run_test};

/// A client that sends questions until its connection ends, and then reconnects. Returns all responses at the end.
struct ContinuousClient {
    stop: tokio::sync::watch::Sender<bool>,
    task: tokio::task::JoinHandle<Vec<u8>>,
}

impl ContinuousClient {
    fn start(proxy: &Proxy) -> Self {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let port = proxy.port.number();
        let task = tokio::spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let mut answers = Vec::new();
            while !*stopped.borrow() {
                let Ok(mut socket) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await else {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                };
                let mut answer = [0];
                while !*stopped.borrow() && socket.write_all(b"?").await.is_ok() {
                    let read = tokio::time::timeout(SHORT_TIMEOUT, socket.read(&mut answer)).await;
                    let Ok(Ok(1)) = read else { break };
                    answers.push(answer[0]);
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            answers
        });
        Self { stop, task }
    }

    async fn answers(self) -> Vec<u8> {
        self.stop.send_replace(true);
        self.task.await.unwrap()
    }
}

// fencing 4.2
#[test]
fn a_proxy_paused_during_a_failover_forwards_no_answer_of_the_old_master() {
    // Many clients on two threads, because the order in which they are woken is random.
    const CLIENTS: u64 = 100;
    run_test(async {
        let mut harness = ProxyHarness::with_short_lease().await;
        let (a, b) = (Master::start(b'A').await, Master::start(b'B').await);
        let mut proxy = Proxy::start(&harness, &harness.etcd.endpoint(), &["--relay-threads=2"]).await;
        harness.publish(Some(&a), &[&proxy]).await;
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(proxy.wait_connected_to(b'A').await);
        }
        // Every client has a question in transit that the master answers later.
        a.hold_answers(true);
        let asked = a.questions();
        for client in &mut clients {
            tokio::io::AsyncWriteExt::write_all(&mut client.socket, b"?")
                .await
                .unwrap();
        }
        eventually("the questions to arrive", SHORT_TIMEOUT, async || {
            let more = a.questions() - asked;
            if more == CLIENTS { Ok(()) } else { Err(more) }
        })
        .await;
        proxy.process.signal(Signal::STOP);
        harness.fail_over(&proxy, &a, &b).await;
        a.hold_answers(false); // the responses are in the proxy's sockets when it continues
        proxy.process.signal(Signal::CONT);
        for client in clients {
            assert_eq!(
                client.read_to_end().await,
                b"",
                "a response of the old master reached a client"
            );
        }
        proxy.wait_connected_to(b'B').await;
        a.wait_for_connections(0).await;
    });
}

// fencing 4.2, with a pause shorter than the lease: nothing may break
#[test]
fn a_short_pause_of_the_proxy_drops_nothing() {
    run_test(async {
        let mut harness = ProxyHarness::with_short_lease().await;
        harness.set_timing(CHECK_INTERVAL, SHORT_TIMEOUT);
        let (_master, mut proxy) = harness.forwarding().await;
        let mut client = proxy.wait_connected_to(b'A').await;
        proxy.process.signal(Signal::STOP);
        tokio::time::sleep(Duration::from_secs(1)).await; // the length of the pause, not a wait for something
        proxy.process.signal(Signal::CONT);
        assert_eq!(client.ask().await.unwrap(), Some(b'A'));
    });
}

/// Runs a failover while the network between the proxy and its store is disturbed: no late response may arrive, and
/// clients must reach the new master once the network is restored.
fn failover_under(disturb: impl Fn(&TcpRelay) + 'static) {
    run_test(async move {
        let mut harness = ProxyHarness::with_short_lease().await;
        let (a, b) = (Master::start(b'A').await, Master::start(b'B').await);
        let relay = TcpRelay::to(&harness.etcd.address()).await;
        let proxy = Proxy::start(&harness, &relay.endpoint(), &["--store-timeout=1s"]).await;
        harness.publish(Some(&a), &[&proxy]).await;
        proxy.wait_connected_to(b'A').await;
        let continuous_clients: Vec<ContinuousClient> = (0..3).map(|_| ContinuousClient::start(&proxy)).collect();
        disturb(&relay);
        harness.fail_over(&proxy, &a, &b).await;
        // A client that still reaches the old master gets late responses now.
        tokio::time::sleep(SHORT_LEASE / 2).await;
        relay.enable();
        relay.set_both(NetworkCondition::Normal);
        proxy.wait_connected_to(b'B').await;
        for client_task in continuous_clients {
            let answers = client_task.answers().await;
            assert!(
                !answers.contains(&LATE),
                "a response made after the failover reached a client"
            );
        }
        a.wait_for_connections(0).await;
    });
}

// fencing 4.3
#[test]
fn a_failover_while_the_proxy_is_cut_off_from_the_store_is_safe() {
    failover_under(TcpRelay::disable);
}

#[test]
fn a_failover_while_the_store_does_not_answer_the_proxy_is_safe() {
    failover_under(|relay| relay.set_both(NetworkCondition::Hold));
}

#[test]
fn a_failover_while_the_store_needs_nine_tenths_of_the_timeout_is_safe() {
    failover_under(|relay| relay.set_both(NetworkCondition::Delay(Duration::from_millis(450))));
}

#[test]
fn a_failover_while_the_store_needs_more_than_the_timeout_is_safe() {
    failover_under(|relay| relay.set_both(NetworkCondition::Delay(Duration::from_millis(550))));
}

// fencing F-2: a lease begins when the answered request was sent, so a response after two thirds of the timeout renews it
#[test]
fn answers_slower_than_half_of_the_timeout_keep_the_route_open_and_slower_ones_than_the_timeout_do_not() {
    const LEASE: Duration = Duration::from_secs(6);
    let (slow, too_slow) = (LEASE * 2 / 3, LEASE * 4 / 3);
    run_test(async move {
        let mut harness = ProxyHarness::with_short_lease().await;
        harness.set_timing(CHECK_INTERVAL, LEASE);
        let a = Master::start(b'A').await;
        let relay = TcpRelay::to(&harness.etcd.address()).await;
        let proxy = Proxy::start(&harness, &relay.endpoint(), &[]).await;
        harness.publish(Some(&a), &[&proxy]).await;
        let mut client = proxy.wait_connected_to(b'A').await;
        relay.set(Direction::ToClient, NetworkCondition::Delay(slow));
        let mut asked = 0;
        throughout("the route", LEASE * 3, async || {
            asked += 1;
            match client.ask().await {
                Ok(Some(b'A')) => Ok(()),
                other => Err(format!("{other:?} after {asked} questions")),
            }
        })
        .await;
        relay.set(Direction::ToClient, NetworkCondition::Delay(too_slow));
        let start = now();
        assert_eq!(client.read_to_end().await, b"");
        let lasted = now().since(start);
        assert!(lasted < too_slow, "closed after {lasted:?}, not with the lease");
    });
}

// fencing F-2: the store refuses a request once the info is attached to a later lease, so the proxy takes one later still
#[test]
fn an_info_that_another_program_attached_to_a_later_lease_is_published_under_one_later_still() {
    run_test(async {
        let mut harness = ProxyHarness::with_short_lease().await;
        let (_master, proxy) = harness.forwarding().await;
        proxy.wait_connected_to(b'A').await;
        let (store, key) = (&harness.store, harness.store.keys().proxy_info(&proxy.uid));
        let later = LeaseId(i64::MAX / 4 * 3);
        store.grant_as(later, SHORT_TIMEOUT * 10).await.unwrap();
        let info = store.get(&key).await.unwrap().unwrap().value;
        store.commit(Txn::new().put_leased(&key, info, later)).await.unwrap();
        eventually("the proxy to take a later lease", SHORT_TIMEOUT, async || {
            let lease = store.get(&key).await.unwrap().and_then(|info| info.lease);
            if lease > Some(later) {
                Ok(())
            } else {
                Err(format!("{lease:?}"))
            }
        })
        .await;
        proxy.wait_connected_to(b'A').await;
    });
}

// fencing 4.3, F-4, and proxy P-4: closed at the end of the lease although a request hangs; open again when the store
// answers
#[test]
fn a_frozen_store_closes_the_route_at_the_lease_end_and_reopens_it_later() {
    run_test(async {
        let mut harness = ProxyHarness::with_short_lease().await;
        let (_master, proxy) = harness.forwarding().await;
        let client = proxy.wait_connected_to(b'A').await;
        let start = now();
        let left = proxy.metric("stolon_proxy_lease_left_seconds").await.unwrap();
        harness.etcd.freeze().await;
        assert_eq!(client.read_to_end().await, b"");
        let lasted = now().since(start).as_secs_f64();
        assert!(
            lasted >= left,
            "closed after {lasted} s with {left} s of the lease left"
        );
        proxy.process.wait_for_log("Stopping listening", SHORT_TIMEOUT).await;
        assert!(proxy.connect().await.is_err(), "there is no listener");
        harness.etcd.thaw();
        proxy.wait_connected_to(b'A').await;
    });
}

// proxy section 3
#[test]
fn the_time_to_disconnect_at_a_lease_end_excludes_the_outage() {
    run_test(async {
        let mut harness = ProxyHarness::with_short_lease().await;
        let (_master, proxy) = harness.forwarding().await;
        let client = proxy.wait_connected_to(b'A').await;
        harness.etcd.freeze().await;
        assert_eq!(client.read_to_end().await, b"");
        let measured = async || {
            let stop = proxy.metric("stolon_proxy_last_stop_seconds").await.unwrap();
            (stop, proxy.metric("stolon_proxy_last_drop_seconds").await.unwrap())
        };
        let during = eventually("both times to be measured", SHORT_TIMEOUT, async || {
            let measured = measured().await;
            if measured.0 > 0.0 && measured.1 > 0.0 {
                Ok(measured)
            } else {
                Err(format!("{measured:?}"))
            }
        })
        .await;
        harness.etcd.thaw();
        proxy.wait_connected_to(b'A').await;
        assert_eq!(measured().await, during, "no connection has been dropped since");
    });
}

// the store is unreachable for proxyTimeout − proxyCheckInterval − 1 s: no connection is dropped
#[test]
fn an_outage_shorter_than_the_lease_drops_no_connection() {
    run_test(async {
        let mut harness = ProxyHarness::with_short_lease().await;
        harness.set_timing(CHECK_INTERVAL, SHORT_TIMEOUT * 2);
        let (_master, proxy) = harness.forwarding().await;
        let (mut client, mut idle) = (proxy.wait_connected_to(b'A').await, proxy.wait_connected_to(b'A').await);
        harness.etcd.kill();
        proxy.process.wait_for_log("could not check in", SHORT_TIMEOUT).await;
        assert_eq!(client.ask().await.unwrap(), Some(b'A'));
        harness.etcd.restart().await;
        proxy.process.wait_for_log("checking in again", SHORT_TIMEOUT).await;
        assert_eq!(client.ask().await.unwrap(), Some(b'A'));
        assert_eq!(idle.ask().await.unwrap(), Some(b'A'));
        assert!(!proxy.process.log().contains("check timeout timer fired"));
    });
}

// unreachable for longer: closed at the end of the lease, and open soon after etcd answers
#[test]
fn an_outage_longer_than_the_lease_ends_soon_after_the_store_answers() {
    run_test(async {
        let mut harness = ProxyHarness::with_short_lease().await;
        harness.set_timing(SHORT_LEASE * 2, SHORT_LEASE * 3);
        let (_master, proxy) = harness.forwarding().await;
        let client = proxy.wait_connected_to(b'A').await;
        let gone = now();
        harness.etcd.kill();
        assert_eq!(client.read_to_end().await, b"");
        proxy
            .process
            .wait_for_log("check timeout timer fired", SHORT_TIMEOUT)
            .await;
        harness.etcd.restart().await;
        let back = now();
        proxy.wait_connected_to(b'A').await;
        // Waiting for the next check interval, or for as long as the store was unreachable, would take longer.
        let (away, took) = (back.since(gone), now().since(back));
        assert!(
            took < away / 2,
            "carries {took:?} after the return of a store that was away for {away:?}"
        );
    });
}

// fencing 4.5
#[test]
fn a_proxy_paused_between_read_and_write_writes_nothing_after_a_failover() {
    run_test(async {
        let mut harness = ProxyHarness::with_short_lease().await;
        let (a, b) = (Master::start(b'A').await, Master::start(b'B').await);
        let pause = harness.dir.path().join("pause");
        let proxy = Proxy::start_with(&harness, &harness.etcd.endpoint(), &[], |command| {
            command.env("STOLON_TEST_PAUSE_RELAY", &pause);
        })
        .await;
        harness.publish(Some(&a), &[&proxy]).await;
        let mut client = proxy.wait_connected_to(b'A').await;
        a.hold_answers(true);
        let asked = a.questions();
        tokio::io::AsyncWriteExt::write_all(&mut client.socket, b"?")
            .await
            .unwrap();
        eventually("the question to arrive", SHORT_TIMEOUT, async || {
            if a.questions() > asked { Ok(()) } else { Err("not yet") }
        })
        .await;
        std::fs::write(&pause, "").unwrap();
        a.hold_answers(false);
        let paused = harness.dir.path().join("pause.paused");
        eventually("the relay to pause with the response", SHORT_TIMEOUT, async || {
            if paused.exists() {
                Ok(())
            } else {
                Err("it is not paused")
            }
        })
        .await;
        // The control loop closes the gate and acknowledges without waiting for the relay.
        let generation = harness.publish(None, &[&proxy]).await;
        harness.acknowledged(&proxy, generation).await;
        harness.publish(Some(&b), &[&proxy]).await;
        std::fs::remove_file(&pause).unwrap();
        assert_eq!(
            client.read_to_end().await,
            b"",
            "bytes read before the pause were written after it"
        );
        proxy.wait_connected_to(b'B').await;
    });
}
