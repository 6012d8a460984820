//! Two processes with the same keeper uid: a copied unit file, a container started twice.

use std::time::Duration;

use model::{KeeperInfo, Role, from_slice};
use stolon_tests::cluster::{Cluster, Profile, check};
use stolon_tests::deadlines::{LONG_TIMEOUT, SHORT_TIMEOUT};
use stolon_tests::process::Signal;
use stolon_tests::wait::{eventually, now, throughout};

const DUPLICATE_LOG: &str = "another process runs with our uid, doing nothing until it ends";

/// Adds a second keeper with this uid, with its own directory and port, without starting it; returns its name.
fn prepare_duplicate(cluster: &mut Cluster, uid: &str) -> String {
    let second = cluster.prepare_keeper();
    let program = cluster.program(&second);
    program.options.retain(|option| !option.starts_with("--uid="));
    program.options.push(format!("--uid={uid}"));
    second
}

/// Returns the boot uuid in the published keeper info.
async fn published_boot_uuid(cluster: &Cluster, uid: &str) -> String {
    let key = cluster.store.keys().keeper_info(uid);
    let entry = cluster.store.get(&key).await.unwrap().expect("it publishes");
    from_slice::<KeeperInfo>(&entry.value).unwrap().boot_uuid.to_string()
}

/// The running process continues, also after a store outage; the second one logs why it waits.
#[tokio::test]
async fn a_second_keeper_with_the_same_uid_waits_and_logs_why() {
    let mut cluster = Cluster::builder(Profile::Fast).start().await;
    let second = prepare_duplicate(&mut cluster, "keeper0");
    let (server, boot) = (
        cluster.postmaster("keeper0").unwrap(),
        published_boot_uuid(&cluster, "keeper0").await,
    );
    cluster.start(&second);
    cluster
        .process(&second)
        .wait_for_log("another process holds our liveness key", SHORT_TIMEOUT)
        .await;
    cluster.process(&second).wait_for_log(DUPLICATE_LOG, LONG_TIMEOUT).await;
    let log = cluster.process(&second).log();
    let key = cluster.store.keys().liveness_key("keeper0");
    let line = log.lines().find(|line| line.contains(DUPLICATE_LOG)).unwrap();
    assert!(
        line.contains(&key) && line.contains(&boot) && line.contains("--uid"),
        "{line}"
    );

    throughout("the running process", Duration::from_secs(5), async || {
        check(cluster.postmaster("keeper0") == Some(server), || {
            "another server".to_owned()
        })?;
        check(published_boot_uuid(&cluster, "keeper0").await == boot, || {
            "another process publishes".to_owned()
        })
    })
    .await;
    assert_eq!(cluster.master().await.unwrap(), "keeper0");
    assert!(!cluster.pgdata(&second).exists(), "it has touched nothing");
    cluster.wait_proxy_serves("proxy0").await;

    // A waiting process exits at once, without effect on the other one.
    assert_eq!(cluster.stop(&second, Signal::TERM).await, 0);
    assert_eq!(published_boot_uuid(&cluster, "keeper0").await, boot);
    cluster.start(&second);
    cluster
        .process(&second)
        .wait_for_log("another process holds our liveness key", SHORT_TIMEOUT)
        .await;

    // The store is away for longer than the key's lease: the running process takes the key again.
    cluster.etcd.stop().await;
    cluster
        .process("keeper0")
        .wait_for_log("could not publish the keeper info", LONG_TIMEOUT)
        .await;
    throughout("its server", Duration::from_secs(4), async || {
        check(cluster.postmaster("keeper0") == Some(server), || "stopped".to_owned())
    })
    .await;
    cluster.restart_etcd().await;
    cluster.wait_healthy("keeper0", &Role::Master).await;
    assert_eq!(published_boot_uuid(&cluster, "keeper0").await, boot);
    assert_eq!(cluster.postmaster("keeper0"), Some(server));
}

/// A keeper that is killed and started again on its own directory does not wait for its own key.
#[tokio::test]
async fn a_restart_on_the_same_directory_does_not_wait() {
    let mut cluster = Cluster::builder(Profile::Fast)
        .with("failInterval", "60s")
        .start()
        .await;
    for signal in [Signal::INT, Signal::KILL] {
        let before = published_boot_uuid(&cluster, "keeper0").await;
        let log_length = cluster.process("keeper0").log().len();
        cluster.process("keeper0").signal(signal);
        cluster.process("keeper0").exit_status(LONG_TIMEOUT).await;
        let start = now();
        cluster.start("keeper0");
        eventually("the key of the new process", LONG_TIMEOUT, async || {
            let key = cluster.store.keys().liveness_key("keeper0");
            let entry = cluster.store.get(&key).await.unwrap();
            let value = entry.map(|entry| String::from_utf8_lossy(&entry.value).into_owned());
            check(value.as_ref().is_some_and(|value| *value != before), || {
                format!("{value:?}")
            })
        })
        .await;
        println!("{signal:?}: the key was taken after {:?}", now().since(start));
        cluster.wait_healthy("keeper0", &Role::Master).await;
        let log = cluster.process("keeper0").log();
        assert!(!log[log_length..].contains("another process"), "{signal:?}");
    }
}

/// Of two keepers that start at the same moment exactly one runs.
#[tokio::test]
async fn of_two_keepers_started_at_once_exactly_one_runs() {
    let mut cluster = Cluster::builder(Profile::Fast).keepers(1).start().await;
    let first = cluster.prepare_keeper();
    let second = prepare_duplicate(&mut cluster, &first.clone());
    cluster.start(&first);
    cluster.start(&second);
    let names = [first.clone(), second.clone()];
    let waiting = eventually("one of the two to wait", LONG_TIMEOUT, async || {
        let mut waiting_names = Vec::new();
        for name in &names {
            if cluster.process(name).log().contains(DUPLICATE_LOG) {
                waiting_names.push(name.clone());
            }
        }
        waiting_names.pop().ok_or("none")
    })
    .await;
    let running = names.iter().find(|name| **name != waiting).unwrap().clone();
    eventually("the data of the other one", LONG_TIMEOUT, async || {
        check(cluster.pgdata(&running).exists(), || "none".to_owned())
    })
    .await;
    assert!(!cluster.pgdata(&waiting).exists());
    assert!(!cluster.process(&running).log().contains(DUPLICATE_LOG));
}
