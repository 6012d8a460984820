//! What pauses of the proxy and of the store may do: nothing (fencing 4.2, 4.3, 4.5).

use std::time::Duration;

use stolon_tests::process::Signal;
use stolon_tests::tcp_relay::{Direction, NetworkCondition, TcpRelay};
use stolon_tests::wait::{eventually, now, throughout};

use crate::rig::{CHECK_INTERVAL, LATE, Master, PATIENCE, Proxy, Rig, TIMEOUT, block_on};

/// A client that asks without pause until its connection ends, and then connects again; gives all answers at the end.
struct Asker {
    stop: tokio::sync::watch::Sender<bool>,
    task: tokio::task::JoinHandle<Vec<u8>>,
}

impl Asker {
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
                    let read = tokio::time::timeout(PATIENCE, socket.read(&mut answer)).await;
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
fn a_proxy_stopped_over_a_failover_gives_no_reply_of_the_old_master() {
    // many, on two threads: what wakes first when the proxy goes on is a matter of chance
    const CLIENTS: u64 = 100;
    block_on(async {
        let mut rig = Rig::with_short_lease().await;
        let (a, b) = (Master::start(b'A').await, Master::start(b'B').await);
        let mut proxy = Proxy::start(&rig, &rig.etcd.endpoint(), &["--relay-threads=2"]).await;
        rig.publish(Some(&a), &[&proxy]).await;
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(proxy.client_of(b'A').await);
        }
        // every client has a question under way that the master answers only later
        a.be_silent(true);
        let asked = a.asked();
        for client in &mut clients {
            tokio::io::AsyncWriteExt::write_all(&mut client.socket, b"?")
                .await
                .unwrap();
        }
        eventually("the questions to arrive", PATIENCE, async || {
            let more = a.asked() - asked;
            if more == CLIENTS { Ok(()) } else { Err(more) }
        })
        .await;
        proxy.process.signal(Signal::STOP);
        rig.fail_over(&proxy, &a, &b).await;
        a.be_silent(false); // the answers are in the proxy's socket when it wakes
        proxy.process.signal(Signal::CONT);
        for client in clients {
            assert_eq!(
                client.ended().await,
                b"",
                "an answer of the old master reached a client"
            );
        }
        proxy.client_of(b'B').await;
        a.has_open(0).await;
    });
}

// fencing 4.2, with the pause shorter than the lease: then nothing may break
#[test]
fn a_short_stop_of_the_proxy_drops_nothing() {
    block_on(async {
        let mut rig = Rig::with_short_lease().await;
        rig.timing(CHECK_INTERVAL, PATIENCE);
        let a = Master::start(b'A').await;
        let mut proxy = rig.proxy().await;
        rig.publish(Some(&a), &[&proxy]).await;
        let mut client = proxy.client_of(b'A').await;
        proxy.process.signal(Signal::STOP);
        tokio::time::sleep(Duration::from_secs(1)).await; // the length of the pause, not a wait for something
        proxy.process.signal(Signal::CONT);
        assert_eq!(client.ask().await.unwrap(), Some(b'A'));
    });
}

/// A failover while something is between the proxy and its store: no late reply, and clients reach the new master once
/// the weather is fair.
fn failover_in(weather: impl Fn(&TcpRelay) + 'static) {
    block_on(async move {
        let mut rig = Rig::with_short_lease().await;
        let (a, b) = (Master::start(b'A').await, Master::start(b'B').await);
        let relay = TcpRelay::to(&rig.etcd.address()).await;
        let proxy = Proxy::start(&rig, &relay.endpoint(), &["--store-timeout=1s"]).await;
        rig.publish(Some(&a), &[&proxy]).await;
        proxy.client_of(b'A').await;
        let askers: Vec<Asker> = (0..3).map(|_| Asker::start(&proxy)).collect();
        weather(&relay);
        rig.fail_over(&proxy, &a, &b).await;
        // whoever still gets answers of the old master now gets late ones
        tokio::time::sleep(TIMEOUT / 2).await;
        relay.enable();
        relay.set_both(NetworkCondition::Normal);
        proxy.client_of(b'B').await;
        for asker in askers {
            let answers = asker.answers().await;
            assert!(
                !answers.contains(&LATE),
                "an answer made after the failover reached a client"
            );
        }
        a.has_open(0).await;
    });
}

// fencing 4.3
#[test]
fn a_failover_while_the_proxy_is_cut_off_from_the_store_is_safe() {
    failover_in(TcpRelay::disable);
}

#[test]
fn a_failover_while_the_store_does_not_answer_the_proxy_is_safe() {
    failover_in(|relay| relay.set_both(NetworkCondition::Hold));
}

#[test]
fn a_failover_while_the_store_needs_nine_tenths_of_the_timeout_is_safe() {
    failover_in(|relay| relay.set_both(NetworkCondition::Delay(Duration::from_millis(450))));
}

#[test]
fn a_failover_while_the_store_needs_more_than_the_timeout_is_safe() {
    failover_in(|relay| relay.set_both(NetworkCondition::Delay(Duration::from_millis(550))));
}

// fencing F-2: an answer counts from the sending of its own copy, so one that takes two thirds of the timeout renews the lease
#[test]
fn answers_slower_than_half_of_the_timeout_keep_the_route_open_and_slower_ones_than_the_timeout_do_not() {
    const LEASE: Duration = Duration::from_secs(6);
    let (slow, too_slow) = (LEASE * 2 / 3, LEASE * 4 / 3);
    block_on(async move {
        let mut rig = Rig::with_short_lease().await;
        rig.timing(CHECK_INTERVAL, LEASE);
        let a = Master::start(b'A').await;
        let relay = TcpRelay::to(&rig.etcd.address()).await;
        let proxy = Proxy::start(&rig, &relay.endpoint(), &[]).await;
        rig.publish(Some(&a), &[&proxy]).await;
        let mut client = proxy.client_of(b'A').await;
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
        assert_eq!(client.ended().await, b"");
        let lasted = now().since(start);
        assert!(lasted < too_slow, "closed after {lasted:?}, not with the lease");
    });
}

// fencing 4.3, F-4, and proxy P-4: closed by the lease although a request hangs; open again when the store answers
#[test]
fn a_frozen_store_closes_at_the_lease_and_carries_again_when_it_is_back() {
    block_on(async {
        let mut rig = Rig::with_short_lease().await;
        let a = Master::start(b'A').await;
        let proxy = rig.proxy().await;
        rig.publish(Some(&a), &[&proxy]).await;
        let client = proxy.client_of(b'A').await;
        let start = now();
        let left = proxy.metric("stolon_proxy_lease_left_seconds").await.unwrap();
        rig.etcd.freeze().await;
        assert_eq!(client.ended().await, b"");
        let lasted = now().since(start).as_secs_f64();
        assert!(
            lasted >= left,
            "closed after {lasted} s with {left} s of the lease left"
        );
        proxy.process.wait_for_log("Stopping listening", PATIENCE).await;
        assert!(proxy.connect().await.is_err(), "nobody listens");
        rig.etcd.thaw();
        proxy.client_of(b'A').await;
    });
}

// proxy section 3
#[test]
fn what_a_lease_end_took_is_measured_without_the_outage_around_it() {
    block_on(async {
        let mut rig = Rig::with_short_lease().await;
        let a = Master::start(b'A').await;
        let proxy = rig.proxy().await;
        rig.publish(Some(&a), &[&proxy]).await;
        let client = proxy.client_of(b'A').await;
        rig.etcd.freeze().await;
        assert_eq!(client.ended().await, b"");
        let measured = async || {
            let stop = proxy.metric("stolon_proxy_last_stop_seconds").await.unwrap();
            (stop, proxy.metric("stolon_proxy_last_drop_seconds").await.unwrap())
        };
        let during = eventually("both times to be told", PATIENCE, async || {
            let measured = measured().await;
            if measured.0 > 0.0 && measured.1 > 0.0 {
                Ok(measured)
            } else {
                Err(format!("{measured:?}"))
            }
        })
        .await;
        rig.etcd.thaw();
        proxy.client_of(b'A').await;
        assert_eq!(measured().await, during, "nothing has been dropped since");
    });
}

// the store away for proxyTimeout − proxyCheckInterval − 1 s: not one dropped connection
#[test]
fn an_outage_shorter_than_the_lease_drops_no_connection() {
    block_on(async {
        let mut rig = Rig::with_short_lease().await;
        rig.timing(CHECK_INTERVAL, PATIENCE * 2);
        let a = Master::start(b'A').await;
        let proxy = rig.proxy().await;
        rig.publish(Some(&a), &[&proxy]).await;
        let (mut client, mut idle) = (proxy.client_of(b'A').await, proxy.client_of(b'A').await);
        rig.etcd.kill();
        proxy.process.wait_for_log("could not check in", PATIENCE).await;
        assert_eq!(client.ask().await.unwrap(), Some(b'A'));
        rig.etcd.restart().await;
        proxy.process.wait_for_log("checking in again", PATIENCE).await;
        assert_eq!(client.ask().await.unwrap(), Some(b'A'));
        assert_eq!(idle.ask().await.unwrap(), Some(b'A'));
        assert!(!proxy.process.log().contains("check timeout timer fired"));
    });
}

// a longer one: closed at the lease end, and carrying again soon after etcd answers
#[test]
fn an_outage_longer_than_the_lease_ends_soon_after_the_store_answers() {
    block_on(async {
        let mut rig = Rig::with_short_lease().await;
        rig.timing(TIMEOUT * 2, TIMEOUT * 3);
        let a = Master::start(b'A').await;
        let proxy = rig.proxy().await;
        rig.publish(Some(&a), &[&proxy]).await;
        let client = proxy.client_of(b'A').await;
        let gone = now();
        rig.etcd.kill();
        assert_eq!(client.ended().await, b"");
        proxy.process.wait_for_log("check timeout timer fired", PATIENCE).await;
        rig.etcd.restart().await;
        let back = now();
        proxy.client_of(b'A').await;
        // whoever waits for the next check interval, or for as long as the store was away, takes longer
        let (away, took) = (back.since(gone), now().since(back));
        assert!(
            took < away / 2,
            "carries {took:?} after the return of a store that was away for {away:?}"
        );
    });
}

// fencing 4.5
#[test]
fn a_proxy_paused_between_taking_and_giving_gives_nothing_after_a_failover() {
    block_on(async {
        let mut rig = Rig::with_short_lease().await;
        let (a, b) = (Master::start(b'A').await, Master::start(b'B').await);
        let pause = rig.dir.path().join("pause");
        let proxy = Proxy::start_with(&rig, &rig.etcd.endpoint(), &[], |command| {
            command.env("STOLON_TEST_PAUSE_RELAY", &pause);
        })
        .await;
        rig.publish(Some(&a), &[&proxy]).await;
        let mut client = proxy.client_of(b'A').await;
        a.be_silent(true);
        let asked = a.asked();
        tokio::io::AsyncWriteExt::write_all(&mut client.socket, b"?")
            .await
            .unwrap();
        eventually("the question to arrive", PATIENCE, async || {
            if a.asked() > asked { Ok(()) } else { Err("not yet") }
        })
        .await;
        std::fs::write(&pause, "").unwrap();
        a.be_silent(false);
        let paused = rig.dir.path().join("pause.paused");
        eventually("the relay to pause with the answer", PATIENCE, async || {
            if paused.exists() { Ok(()) } else { Err("it runs") }
        })
        .await;
        // the control loop goes on, closes the gate and acknowledges: it does not wait for the relay
        let generation = rig.publish(None, &[&proxy]).await;
        rig.acknowledged(&proxy, generation).await;
        rig.publish(Some(&b), &[&proxy]).await;
        std::fs::remove_file(&pause).unwrap();
        assert_eq!(
            client.ended().await,
            b"",
            "what was taken before the pause was given after it"
        );
        proxy.client_of(b'B').await;
    });
}
