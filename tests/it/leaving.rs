//! A keeper that leaves while its server cannot stop: it is replaced no later than one that was killed.

use std::time::Duration;

use stolon_tests::cluster::{Cluster, LATER, Profile, check, words};
use stolon_tests::process::{self, Signal};
use stolon_tests::wait::{eventually, now};

/// Three keepers; the servers of the second one stand still, so that the master's WAL sender waits for them when it stops.
async fn with_a_hung_standby() -> Cluster {
    let cluster = Cluster::of(Profile::Fast).keepers(3).start().await;
    let sql = cluster.sql("proxy0").await;
    sql.run("create table rows (value int)").await.unwrap();
    for standby in ["keeper1", "keeper2"] {
        cluster.caught_up(standby, "keeper0").await;
    }
    let hung = cluster.postmaster("keeper1").unwrap();
    for pid in process::children(hung) {
        process::send(pid, Signal::STOP);
    }
    sql.run("insert into rows values (1)").await.unwrap();
    cluster
}

/// How long until proxies are sent to another master, and to which.
async fn replaced(cluster: &Cluster) -> (Duration, String) {
    let start = now();
    let keeper = eventually("another master to be published", LATER, async || {
        let keeper = cluster.proxied().await.map_err(words)?;
        check(keeper != "keeper0", || "keeper0 still is".to_owned())?;
        Ok::<_, String>(keeper)
    })
    .await;
    (now().since(start), keeper)
}

/// beyond: the timers of a failed master run from when it says that it leaves.
#[tokio::test]
async fn a_master_whose_shutdown_hangs_is_replaced_as_soon_as_one_that_was_killed() {
    let mut killed = with_a_hung_standby().await;
    killed.kill_keeper_and_postgres("keeper0");
    let (after_kill, elected) = replaced(&killed).await;
    assert_eq!(elected, "keeper2");
    drop(killed);

    let mut left = with_a_hung_standby().await;
    left.process("keeper0").signal(Signal::TERM);
    let (after_term, elected) = replaced(&left).await;
    assert_eq!(elected, "keeper2");
    eprintln!("published after SIGKILL: {after_kill:?}, after SIGTERM: {after_term:?}");
    assert!(
        after_term < after_kill.mul_f64(1.5),
        "SIGKILL {after_kill:?}, SIGTERM {after_term:?}"
    );
}
