//! Two processes with one keeper uid: a copied unit file, a container started twice.

use std::time::Duration;

use control::model::{KeeperInfo, Role, from_slice};
use stolon_tests::cluster::{Cluster, LONG_TIMEOUT, Profile, SHORT_TIMEOUT, check};
use stolon_tests::process::Signal;
use stolon_tests::wait::{eventually, now, throughout};

const DOUBLE: &str = "another process runs with our uid, doing nothing until it ends";

/// A second process with the uid of `uid`, with a directory and a port of its own; not started yet. Gives its name.
fn double_of(cluster: &mut Cluster, uid: &str) -> String {
    let second = cluster.prepare_keeper();
    let slot = cluster.program(&second);
    slot.options.retain(|option| !option.starts_with("--uid="));
    slot.options.push(format!("--uid={uid}"));
    second
}

/// The process that the info in the store is of.
async fn boot_in_store(cluster: &Cluster, uid: &str) -> String {
    let key = cluster.store.keys().keeper_info(uid);
    let entry = cluster.store.get(&key).await.unwrap().expect("it publishes");
    from_slice::<KeeperInfo>(&entry.value).unwrap().boot_uuid.to_string()
}

/// The running one goes on, undisturbed; the other one logs why it waits, and takes over when the first one ends.
#[tokio::test]
async fn a_second_keeper_with_the_same_uid_waits_and_says_why() {
    let mut cluster = Cluster::builder(Profile::Fast).start().await;
    let second = double_of(&mut cluster, "keeper0");
    let (server, boot) = (
        cluster.postmaster("keeper0").unwrap(),
        boot_in_store(&cluster, "keeper0").await,
    );
    cluster.start(&second);
    cluster
        .process(&second)
        .wait_for_log("another process holds our liveness key", SHORT_TIMEOUT)
        .await;
    cluster.process(&second).wait_for_log(DOUBLE, LONG_TIMEOUT).await;
    let log = cluster.process(&second).log();
    let key = cluster.store.keys().alive("keeper0");
    let line = log.lines().find(|line| line.contains(DOUBLE)).unwrap();
    assert!(
        line.contains(&key) && line.contains(&boot) && line.contains("--uid"),
        "{line}"
    );

    throughout("the running one", Duration::from_secs(5), async || {
        check(cluster.postmaster("keeper0") == Some(server), || {
            "another server".to_owned()
        })?;
        check(boot_in_store(&cluster, "keeper0").await == boot, || {
            "another process publishes".to_owned()
        })
    })
    .await;
    assert_eq!(cluster.master().await.unwrap(), "keeper0");
    assert!(!cluster.pgdata(&second).exists(), "it has touched nothing");
    cluster.wait_serving("proxy0").await;

    // one that waits ends at once, and takes nothing with it
    assert_eq!(cluster.stop(&second, Signal::TERM).await, 0);
    assert_eq!(boot_in_store(&cluster, "keeper0").await, boot);
    cluster.start(&second);
    cluster
        .process(&second)
        .wait_for_log("another process holds our liveness key", SHORT_TIMEOUT)
        .await;

    // the store away for longer than the key lives: the running one keeps its place
    cluster.etcd.stop().await;
    cluster
        .process("keeper0")
        .wait_for_log("could not publish the keeper info", LONG_TIMEOUT)
        .await;
    throughout("its server", Duration::from_secs(4), async || {
        check(cluster.postmaster("keeper0") == Some(server), || "gone".to_owned())
    })
    .await;
    cluster.restart_etcd().await;
    cluster.wait_healthy("keeper0", &Role::Master).await;
    assert_eq!(boot_in_store(&cluster, "keeper0").await, boot);
    assert_eq!(cluster.postmaster("keeper0"), Some(server));
}

/// A keeper that is killed and started again on its own directory does not wait for its own key.
#[tokio::test]
async fn a_restart_on_the_same_directory_waits_for_nobody() {
    let mut cluster = Cluster::builder(Profile::Fast)
        .with("failInterval", "60s")
        .start()
        .await;
    for signal in [Signal::INT, Signal::KILL] {
        let before = boot_in_store(&cluster, "keeper0").await;
        let said = cluster.process("keeper0").log().len();
        cluster.process("keeper0").signal(signal);
        cluster.process("keeper0").exit_status(LONG_TIMEOUT).await;
        let start = now();
        cluster.start("keeper0");
        eventually("the key of the new process", LONG_TIMEOUT, async || {
            let key = cluster.store.keys().alive("keeper0");
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
        assert!(!log[said..].contains("another process"), "{signal:?}");
    }
}

/// Of two that start at the same moment exactly one goes on.
#[tokio::test]
async fn of_two_that_start_at_once_one_goes_on() {
    let mut cluster = Cluster::builder(Profile::Fast).keepers(1).start().await;
    let first = cluster.prepare_keeper();
    let second = double_of(&mut cluster, &first.clone());
    cluster.start(&first);
    cluster.start(&second);
    let names = [first.clone(), second.clone()];
    let waiting = eventually("one of the two to wait", LONG_TIMEOUT, async || {
        let mut waits = Vec::new();
        for name in &names {
            if cluster.process(name).log().contains(DOUBLE) {
                waits.push(name.clone());
            }
        }
        waits.pop().ok_or("none")
    })
    .await;
    let going = names.iter().find(|name| **name != waiting).unwrap().clone();
    eventually("the data of the other one", LONG_TIMEOUT, async || {
        check(cluster.pgdata(&going).exists(), || "none".to_owned())
    })
    .await;
    assert!(!cluster.pgdata(&waiting).exists());
    assert!(!cluster.process(&going).log().contains(DOUBLE));
}
