//! Where clients go, and when that changes (proxy P-1 to P-6).

use std::time::Duration;

use stolon_tests::wait::{eventually, now, throughout};

use crate::rig::{CHECK_INTERVAL, Master, PATIENCE, Proxy, Rig, STEADY_TIMEOUT, block_on};

#[test]
fn opens_once_the_master_is_named_and_says_what_the_walk_through_shows() {
    block_on(async {
        let mut rig = Rig::start().await;
        let master = Master::start(b'A').await;
        let mut proxy = rig.proxy().await;
        // proxy P-5: the first read opens the socket, whatever it finds; with the route closed clients are closed
        proxy
            .process
            .wait_for_log(
                "WARN no clusterdata available, closing connections to master cluster_name=main",
                PATIENCE,
            )
            .await;
        assert!(proxy.process.log().contains("stolonctl init, or see --cluster-name"));
        assert_eq!(proxy.connect().await.unwrap().ended().await, b"");
        proxy
            .metric_is("stolon_proxy_connections_refused_total{reason=\"route_closed\"}", 1.0)
            .await;

        let generation = rig.publish(Some(&master), &[&proxy]).await;
        let mut client = proxy.client_of(b'A').await;
        let info = rig.info(&proxy).await.unwrap();
        assert_eq!((info.generation, info.fenced, info.stopped), (generation, true, false));
        assert_eq!(info.uid.as_str(), proxy.uid);
        assert_eq!(client.ask().await.unwrap(), Some(b'A'));
        let log = proxy.process.log();
        let at = |text: &str| log.find(text).unwrap_or_else(|| panic!("{text:?} is not in the log"));
        let address = format!("address=127.0.0.1:{}", master.port);
        let lines = [
            format!("proxy id id={}", proxy.uid),
            "Starting proxying".to_owned(),
            format!("master address {address}"),
            format!("proxying to master address {address}"),
        ];
        assert!(lines.windows(2).all(|pair| at(&pair[0]) < at(&pair[1])), "{log}");
        assert_eq!(proxy.stop().await.0, 0);
    });
}

#[test]
fn a_change_is_followed_by_the_watch_long_before_the_next_check_in() {
    block_on(async {
        let mut rig = Rig::start().await;
        rig.timing(Duration::from_secs(600), Duration::from_secs(1800));
        let (a, b) = (Master::start(b'A').await, Master::start(b'B').await);
        let proxy = rig.proxy().await;
        rig.publish(Some(&a), &[&proxy]).await;
        let client = proxy.client_of(b'A').await;
        let generation = rig.publish(None, &[&proxy]).await;
        rig.acknowledged(&proxy, generation).await;
        assert_eq!(client.ended().await, b"");
        rig.publish(Some(&b), &[&proxy]).await;
        reached(&proxy, b'B').await;
    });
}

/// Connects without the pauses of `eventually` until this master answers.
async fn reached(proxy: &Proxy, name: u8) {
    let carried = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Ok(mut client) = proxy.connect().await
                && client.ask().await.is_ok_and(|answer| answer == Some(name))
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    carried.await.expect("the master is reached in time");
}

// proxy P-4: a few milliseconds from the commit to the first byte. A busy machine makes everything slow alike, so it is
// compared with what the change takes at least, each at its fastest: a write and a read of the store, and one answer.
#[test]
fn a_change_takes_no_longer_than_a_few_requests_to_the_store() {
    const ROUNDS: usize = 10;
    block_on(async {
        let mut rig = Rig::start().await;
        rig.timing(Duration::from_secs(600), Duration::from_secs(1800));
        let master = Master::start(b'A').await;
        let proxy = rig.proxy().await;
        let (mut change, mut least) = (Duration::MAX, Duration::MAX);
        for _ in 0..ROUNDS {
            let generation = rig.publish(None, &[&proxy]).await;
            rig.acknowledged(&proxy, generation).await;
            rig.publish(Some(&master), &[&proxy]).await;
            let start = now();
            reached(&proxy, b'A').await;
            change = change.min(now().since(start));

            let start = now();
            rig.store.put("another key", "value").await.unwrap();
            rig.store.get("another key").await.unwrap();
            reached(&proxy, b'A').await;
            least = least.min(now().since(start));
        }
        println!("{change:?} from the commit to the first byte; a write, a read and an answer: {least:?}");
        assert!(change < least * 8, "{change:?}, and no more than {least:?} is needed");
    });
}

// proxy P-6, fencing F-1: what the data end has ended before the new generation is published
#[test]
fn connections_to_a_master_that_is_no_longer_named_end_before_that_is_acknowledged() {
    block_on(async {
        let mut rig = Rig::start().await;
        let (a, b) = (Master::start(b'A').await, Master::start(b'B').await);
        let proxy = rig.proxy().await;
        rig.publish(Some(&a), &[&proxy]).await;
        let (idle, mut busy) = (proxy.client_of(b'A').await, proxy.client_of(b'A').await);
        let asking = tokio::spawn(async move {
            let mut answers = Vec::new();
            while let Ok(Some(answer)) = busy.ask().await {
                answers.push(answer);
            }
            answers
        });
        rig.fail_over(&proxy, &a, &b).await;
        assert_eq!(idle.ended().await, b"");
        let answers = asking.await.unwrap();
        assert!(answers.iter().all(|answer| *answer == b'A'), "a late answer arrived");
        assert_eq!(proxy.client_of(b'B').await.ask().await.unwrap(), Some(b'B'));
        a.has_open(0).await;
    });
}

#[test]
fn a_direct_move_of_the_route_ends_the_old_connections_too() {
    block_on(async {
        let mut rig = Rig::start().await;
        let (a, b) = (Master::start(b'A').await, Master::start(b'B').await);
        let proxy = rig.proxy().await;
        rig.publish(Some(&a), &[&proxy]).await;
        let client = proxy.client_of(b'A').await;
        rig.publish(Some(&b), &[&proxy]).await;
        assert_eq!(client.ended().await, b"");
        proxy.client_of(b'B').await;
        proxy
            .metric_is("stolon_proxy_connections_ended_total{reason=\"route_change\"}", 1.0)
            .await;
    });
}

// proxy P-6
#[test]
fn an_unchanged_address_keeps_connections_through_every_other_change() {
    block_on(async {
        let mut rig = Rig::start().await;
        let master = Master::start(b'A').await;
        let (proxy, other) = (rig.proxy().await, rig.proxy().await);
        rig.publish(Some(&master), &[&proxy]).await;
        let mut client = proxy.client_of(b'A').await;
        let generation = rig.publish(Some(&master), &[&proxy, &other]).await;
        rig.acknowledged(&proxy, generation).await;
        rig.timing(CHECK_INTERVAL / 2, STEADY_TIMEOUT * 2);
        let generation = rig.publish(Some(&master), &[&proxy]).await;
        rig.acknowledged(&proxy, generation).await;
        assert_eq!(client.ask().await.unwrap(), Some(b'A'));
        // fencing F-2: a growing timeout is announced when it comes into force
        assert_eq!(announced(&rig, &proxy).await, STEADY_TIMEOUT * 2);
        // and a shrinking one a check-in after that
        rig.timing(CHECK_INTERVAL / 2, STEADY_TIMEOUT);
        let generation = rig.publish(Some(&master), &[&proxy]).await;
        rig.acknowledged(&proxy, generation).await;
        eventually("the smaller timeout to be announced", PATIENCE, async || {
            let announced = announced(&rig, &proxy).await;
            if announced == STEADY_TIMEOUT {
                Ok(())
            } else {
                Err(format!("{announced:?}"))
            }
        })
        .await;
        assert_eq!(client.ask().await.unwrap(), Some(b'A'));
    });
}

async fn announced(rig: &Rig, proxy: &Proxy) -> Duration {
    Duration::from_nanos(rig.info(proxy).await.unwrap().proxy_timeout as u64)
}

#[test]
fn a_proxy_that_is_not_enabled_announces_the_generation_and_carries_nothing() {
    block_on(async {
        let mut rig = Rig::start().await;
        let master = Master::start(b'A').await;
        let proxy = rig.proxy().await;
        let generation = rig.publish(Some(&master), &[]).await;
        rig.acknowledged(&proxy, generation).await;
        assert_eq!(proxy.connect().await.unwrap().ended().await, b"");
        let line = format!(
            "not proxying to master address since we aren't in the enabled proxies list address=127.0.0.1:{}",
            master.port
        );
        proxy.process.wait_for_log(&line, PATIENCE).await;
        rig.publish(Some(&master), &[&proxy]).await;
        proxy.client_of(b'A').await;
    });
}

#[test]
fn a_master_may_be_advertised_by_name_and_one_that_does_not_resolve_closes_the_route() {
    block_on(async {
        let mut rig = Rig::start().await;
        let mut master = Master::start(b'A').await;
        master.host = "localhost".to_owned();
        let proxy = rig.proxy().await;
        rig.publish(Some(&master), &[&proxy]).await;
        let mut client = proxy.client_of(b'A').await;
        let generation = rig.publish(Some(&master), &[&proxy]).await;
        rig.acknowledged(&proxy, generation).await;
        assert_eq!(client.ask().await.unwrap(), Some(b'A'));
        master.host = "no-such-host.invalid".to_owned(); // RFC 6761: never resolves
        rig.publish(Some(&master), &[&proxy]).await;
        assert_eq!(client.ended().await, b"");
        proxy
            .process
            .wait_for_log("cannot resolve the master's address", PATIENCE)
            .await;
        let log = proxy.process.log();
        let line = log.lines().find(|line| line.contains("cannot resolve")).unwrap();
        assert!(line.contains("address=no-such-host.invalid error="), "{line}");
        assert_eq!(proxy.connect().await.unwrap().ended().await, b"");
        master.host = String::new();
        rig.publish(Some(&master), &[&proxy]).await;
        proxy
            .process
            .wait_for_log("ERROR the master's address is empty", PATIENCE)
            .await;
        (master.host, master.port) = ("127.0.0.1".to_owned(), 0);
        rig.publish(Some(&master), &[&proxy]).await;
        proxy
            .process
            .wait_for_log("ERROR the master's port is empty or no number", PATIENCE)
            .await;
    });
}

// proxy P-15
#[test]
fn a_master_address_that_is_its_own_closes_the_route_with_an_error() {
    block_on(async {
        let mut rig = Rig::start().await;
        let mut master = Master::start(b'A').await;
        let proxy = Proxy::start(&rig, &rig.etcd.endpoint(), &["--listen-address=0.0.0.0"]).await;
        master.port = proxy.port.number();
        rig.publish(Some(&master), &[&proxy]).await;
        proxy
            .process
            .wait_for_log(
                "ERROR the master's address is our own, closing connections to master",
                PATIENCE,
            )
            .await;
        assert_eq!(proxy.connect().await.unwrap().ended().await, b"");
        assert!(rig.info(&proxy).await.is_none());
    });
}

// proxy P-3: garbage neither opens nor moves a route, nor closes it before its lease ends
#[test]
fn garbage_in_the_store_leaves_the_route_until_the_lease_ends() {
    block_on(async {
        let mut rig = Rig::with_short_lease().await;
        let master = Master::start(b'A').await;
        let proxy = rig.proxy().await;
        rig.publish(Some(&master), &[&proxy]).await;
        let mut client = proxy.client_of(b'A').await;
        rig.write_raw(b"{\"formatVersion\":1,\"proxy\":7}").await;
        proxy.process.wait_for_log("ERROR could not check in", PATIENCE).await;
        assert_eq!(client.ask().await.unwrap(), Some(b'A'));
        assert_eq!(client.ended().await, b"");
        let fired = "WARN check timeout timer fired timeout=3s connections=1";
        proxy.process.wait_for_log(fired, PATIENCE).await;
        let log = proxy.process.log();
        let remedy = "the route ends with its lease key=stolon/cluster/main/clusterdata error=";
        assert_eq!(log.matches(remedy).count(), 1, "{log}");
        assert_eq!(log.matches("repair it with etcdctl").count(), 1, "{log}");
        proxy.process.wait_for_log("Stopping listening", PATIENCE).await;
        assert!(proxy.connect().await.is_err(), "nobody listens");
        rig.write().await;
        proxy.client_of(b'A').await;
    });
}

#[test]
fn another_format_version_closes_at_once_and_is_left_alone() {
    block_on(async {
        let mut rig = Rig::with_short_lease().await;
        let master = Master::start(b'A').await;
        let proxy = rig.proxy().await;
        rig.publish(Some(&master), &[&proxy]).await;
        let client = proxy.client_of(b'A').await;
        rig.sentinel.data.format_version = 2;
        let revision = rig.write().await;
        assert_eq!(client.ended().await, b"");
        proxy.process.wait_for_log("cannot use the clusterdata", PATIENCE).await;
        let published = rig.info(&proxy).await.unwrap().info_uid;
        proxy.process.wait_for_log("Stopping listening", PATIENCE).await;
        let key = rig.store.keys().cluster_data();
        assert_eq!(
            rig.store.get(&key).await.unwrap().unwrap().mod_revision,
            revision,
            "somebody wrote over it"
        );
        let later = rig.info(&proxy).await.map(|info| info.info_uid);
        assert!(
            later.is_none_or(|later| later == published),
            "data that may not be used were acknowledged"
        );
        rig.sentinel.data.format_version = 1;
        rig.write().await;
        proxy.client_of(b'A').await;
    });
}

#[test]
fn without_stop_listening_the_socket_stays_when_the_lease_ends() {
    block_on(async {
        let mut rig = Rig::with_short_lease().await;
        let master = Master::start(b'A').await;
        let proxy = Proxy::start(&rig, &rig.etcd.endpoint(), &["--stop-listening=false"]).await;
        rig.publish(Some(&master), &[&proxy]).await;
        let client = proxy.client_of(b'A').await;
        rig.etcd.kill();
        assert_eq!(client.ended().await, b"");
        proxy.process.wait_for_log("check timeout timer fired", PATIENCE).await;
        throughout("the socket listens", Duration::from_millis(500), async || {
            let client = proxy.connect().await.map_err(|err| err.to_string())?;
            if client.ended().await.is_empty() {
                Ok(())
            } else {
                Err("carried".to_owned())
            }
        })
        .await;
        rig.etcd.restart().await;
        proxy.client_of(b'A').await;
    });
}
