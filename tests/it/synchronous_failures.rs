//! Failures under synchronous replication, with a sentinel that decides: no acknowledged row is ever missing on a master.

use model::Role;
use serde_json::json;
use stolon_tests::cluster::{Cluster, Profile, check, db_of, error_text};
use stolon_tests::deadlines::LONG_TIMEOUT;
use stolon_tests::spec::{update, wait_query_returns};
use stolon_tests::synchronous::{check_sets, standbys, wait_in_sync, wait_sets};
use stolon_tests::wait::{eventually, throughout};
use stolon_tests::wal_receiver::SuspendedReceiver;
use stolon_tests::writers::{Writers, lost_rows};

/// Three keepers, one synchronous standby, and clients that commit all the time.
struct SynchronousCluster {
    cluster: Cluster,
    writers: Writers,
    /// The keeper of the synchronous standby.
    member: String,
    /// The keeper of the other standby.
    other: String,
}

impl SynchronousCluster {
    async fn start() -> Self {
        let cluster = Cluster::builder(Profile::Fast).keepers(3).proxies(1);
        let cluster = cluster.synchronous(Some((1, 1))).start().await;
        // A master ends the connection of a suspended WAL receiver after this time.
        update(&cluster, &json!({"pgParameters": {"wal_sender_timeout": "0"}})).await;
        wait_query_returns(&cluster, "keeper0", "show wal_sender_timeout", "0").await;
        let writers = Writers::through(&cluster, "proxy0", 2).await;
        let (member, other) = standbys(&cluster).await;
        for standby in [&member, &other] {
            cluster.wait_caught_up(standby, "keeper0").await;
        }
        Self {
            cluster,
            writers,
            member,
            other,
        }
    }

    /// Returns how many rows that have been acknowledged up to now a server lacks.
    async fn lost_on(&self, name: &str) -> i64 {
        let sql = self.cluster.connect(name).await;
        lost_rows(&sql, &self.writers.stats()).await.unwrap()
    }

    /// Waits until the other standby is listed, too, and PostgreSQL shows it as in sync; it does not count as that.
    async fn wait_other_is_shown_in_sync(&self) {
        let (member, other) = (self.member.as_str(), self.other.as_str());
        wait_sets(&self.cluster, &[member, other], &[member]).await;
        let shown = format!(
            "select sync_state from pg_stat_replication where application_name = 'stolon_{}'",
            self.cluster.db_uid(other).await
        );
        wait_query_returns(&self.cluster, "keeper0", &shown, "sync").await;
        // The master's keeper has reported what it finds with these names.
        self.cluster.wait_healthy("keeper0", &Role::Master).await;
    }

    /// Returns an error unless nobody is elected in place of `keeper0`.
    async fn check_nobody_is_elected(&self) -> Result<(), String> {
        let data = self.cluster.data().await.map_err(error_text)?;
        let master = data
            .master_uid()
            .and_then(|uid| data.dbs().get(uid))
            .ok_or("no master")?;
        let keeper = master.spec.keeper_uid.as_str();
        check(keeper == "keeper0", || format!("{keeper} is elected"))?;
        check_sets(&data, &[&self.member, &self.other], &[&self.member]).map(drop)
    }
}

/// The set grows since its maximum is raised.
#[tokio::test]
async fn a_standby_that_was_added_without_the_acknowledged_rows_is_not_elected() {
    let mut sync = SynchronousCluster::start().await;
    let receiver = SuspendedReceiver::of(&sync.cluster, &sync.other).await;
    sync.writers.wait_each_client_commits(10).await;
    update(&sync.cluster, &json!({"maxSynchronousStandbys": 2})).await;
    sync.wait_other_is_shown_in_sync().await;
    sync.cluster.kill_keeper_and_postgres(&sync.member);
    sync.cluster.wait_counts_as_failed(&sync.member).await;
    the_master_fails_and_only_the_member_is_elected(sync, receiver).await;
}

/// The set grows since its member fails.
#[tokio::test]
async fn a_standby_that_takes_a_members_place_without_the_acknowledged_rows_is_not_elected() {
    let mut sync = SynchronousCluster::start().await;
    let receiver = SuspendedReceiver::of(&sync.cluster, &sync.other).await;
    sync.writers.wait_each_client_commits(10).await;
    sync.cluster.kill_keeper_and_postgres(&sync.member);
    sync.wait_other_is_shown_in_sync().await;
    the_master_fails_and_only_the_member_is_elected(sync, receiver).await;
}

/// The member of the set has failed, the other standby has been added with its WAL receiver suspended. Rule: synchronous
/// SY-1, SY-3.
async fn the_master_fails_and_only_the_member_is_elected(mut sync: SynchronousCluster, receiver: SuspendedReceiver) {
    let sentinel = sync.cluster.process("sentinel0").log().len();
    sync.cluster.kill_keeper_and_postgres("keeper0");
    // What the master has sent is not read any more: the standby is up, and lacks rows.
    receiver.end();
    sync.cluster.wait_counts_as_failed("keeper0").await;
    assert!(sync.lost_on(&sync.other).await > 0, "it has nothing to lose");
    let span = 3 * Profile::Fast.fail_interval();
    throughout("nobody in the failed master's place", span, async || {
        sync.check_nobody_is_elected().await
    })
    .await;
    let process = sync.cluster.process("sentinel0");
    process
        .wait_for_log_after(sentinel, "no eligible masters", LONG_TIMEOUT)
        .await;
    wait_query_returns(&sync.cluster, &sync.other, "select pg_is_in_recovery()", "t").await;

    sync.cluster.start(&sync.member);
    let elected = sync.cluster.wait_other_master_elected("keeper0", LONG_TIMEOUT).await;
    assert_eq!(elected, sync.member);
    sync.cluster.wait_proxy_serves("proxy0").await;
    assert_eq!(sync.lost_on("proxy0").await, 0, "acknowledged rows are lost");
    // Commits wait for the other standby now, which follows.
    sync.writers.wait_each_client_commits(10).await;
    assert_eq!(sync.lost_on("proxy0").await, 0, "acknowledged rows are lost");
    sync.cluster.wait_healthy(&sync.other, &Role::Standby).await;
    sync.cluster.wait_caught_up(&sync.other, &sync.member).await;
    let log = sync.cluster.process("sentinel0").log();
    let db = sync.cluster.db_uid(&sync.member).await;
    let mut elections = log
        .lines()
        .filter(|line| line.contains("electing db as the new master"));
    assert!(elections.all(|line| line.contains(&db)), "{log}");
}

/// Rule: synchronous SY-5, sentinel S-5 to S-7, S-10.
#[tokio::test]
async fn a_member_that_fails_is_replaced_and_the_set_follows_its_maximum() {
    let mut sync = SynchronousCluster::start().await;
    let (first, second) = (sync.member.clone(), sync.other.clone());
    wait_in_sync(&sync.cluster, &[&first]).await;

    sync.cluster.kill_keeper_and_postgres(&first);
    sync.writers.wait_each_client_commits(10).await;
    wait_in_sync(&sync.cluster, &[&second]).await;
    sync.cluster.start(&first);
    sync.cluster.wait_healthy(&first, &Role::Standby).await;
    sync.cluster.wait_caught_up(&first, "keeper0").await;

    // An operator knows of a failure before failInterval is over.
    update(&sync.cluster, &json!({"failInterval": "1h"})).await;
    sync.cluster.kill_keeper_and_postgres(&second);
    wait_position_is_later(&sync.cluster, &first, &second).await;
    let (status, output) = sync.cluster.stolonctl(&["failkeeper", &second]).await;
    assert_eq!((status, output.as_str()), (0, ""));
    sync.writers.wait_each_client_commits(10).await;
    wait_in_sync(&sync.cluster, &[&first]).await;
    sync.cluster.start(&second);
    sync.cluster.wait_healthy(&second, &Role::Standby).await;

    update(&sync.cluster, &json!({"maxSynchronousStandbys": 2})).await;
    wait_in_sync(&sync.cluster, &[&first, &second]).await;
    sync.writers.wait_each_client_commits(10).await;
    let acknowledged = sync.writers.stats();
    for standby in [&first, &second] {
        // A commit waits until its WAL is flushed there, not until it is replayed.
        sync.cluster.wait_caught_up(standby, "keeper0").await;
        let sql = sync.cluster.connect(standby).await;
        assert_eq!(lost_rows(&sql, &acknowledged).await.unwrap(), 0, "{standby} lacks rows");
    }
    update(&sync.cluster, &json!({"maxSynchronousStandbys": 1})).await;
    let (left, _) = standbys(&sync.cluster).await;
    wait_in_sync(&sync.cluster, &[&left]).await;
    sync.writers.wait_each_client_commits(10).await;
    assert_eq!(sync.lost_on("proxy0").await, 0, "acknowledged rows are lost");
    assert_eq!(sync.cluster.master().await.unwrap(), "keeper0");
}

/// Waits until a standby is known to have received more than another one: of too many members the least advanced one
/// leaves the set.
async fn wait_position_is_later(cluster: &Cluster, keeper: &str, than: &str) {
    eventually(format!("{keeper} to be ahead of {than}"), LONG_TIMEOUT, async || {
        let data = cluster.data().await.map_err(error_text)?;
        let position = |keeper: &str| {
            let db = db_of(&data, keeper).map_err(error_text)?.1;
            Ok::<_, String>(db.status.xlog_pos)
        };
        let (position, than) = (position(keeper)?, position(than)?);
        check(position > than, || format!("{position:?}, {than:?}"))
    })
    .await;
}
