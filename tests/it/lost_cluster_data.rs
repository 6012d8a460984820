//! Cluster data are lost while the sentinel has an initial spec: no database may be discarded.

use std::time::Duration;

use model::{ClusterUid, Role, from_slice, to_compact};
use stolon_tests::cluster::{Cluster, Profile, check};
use stolon_tests::deadlines::{LONG_TIMEOUT, SHORT_TIMEOUT};
use stolon_tests::process::Signal;
use stolon_tests::wait::{eventually, throughout};
use store::Txn;

/// Starts two keepers with a row in the database, and a sentinel with `--initial-cluster-spec`; returns the cluster's
/// uid.
async fn cluster() -> (Cluster, String) {
    let mut cluster = Cluster::builder(Profile::Fast).start().await;
    let spec = cluster.dir().path().join("initial.json");
    std::fs::write(&spec, Profile::Fast.spec().to_string()).unwrap();
    cluster.stop("sentinel0", Signal::TERM).await;
    let option = format!("--initial-cluster-spec={}", spec.display());
    cluster.program("sentinel0").options.push(option);
    cluster.start("sentinel0");
    cluster.wait_proxy_serves("proxy0").await;
    let sql = cluster.connect("proxy0").await;
    sql.run("create table kept as select 1 as value").await.unwrap();
    cluster.wait_caught_up("keeper1", "keeper0").await;
    let uid = cluster.data().await.unwrap().cluster.unwrap().uid.to_string();
    (cluster, uid)
}

async fn remove(cluster: &Cluster, key: &str) {
    cluster.store.commit(Txn::new().delete(key)).await.unwrap();
}

async fn backup(cluster: &Cluster) -> std::path::PathBuf {
    let file = cluster.dir().path().join("backup.json");
    let (status, text) = cluster.stolonctl(&["clusterdata", "read"]).await;
    assert_eq!(status, 0, "{text}");
    std::fs::write(&file, text).unwrap();
    file
}

async fn check_row(cluster: &Cluster, keeper: &str) -> Result<(), String> {
    let value = cluster.query(keeper, "select value from kept").await?;
    check(value == "1", || format!("{keeper} has {value}"))
}

async fn wait_sentinel_reports_the_loss(cluster: &mut Cluster) {
    let process = cluster.process("sentinel0");
    eventually("the sentinel to report the loss", SHORT_TIMEOUT, async || {
        let log = process.log();
        let logged = log.contains("the cluster data are missing, but keepers of a cluster exist: creating no cluster");
        let has_remedy = log.contains("stolonctl clusterdata write --yes -f FILE");
        check(logged && has_remedy && log.contains("stolonctl init"), || {
            "it does not".to_owned()
        })
    })
    .await;
}

/// Waits until both keepers have published their infos: the sentinel reports the loss as soon as one has.
async fn wait_both_keeper_infos(cluster: &Cluster) {
    let prefix = cluster.store.keys().keeper_infos();
    eventually("two keeper infos", SHORT_TIMEOUT, async || {
        let infos = cluster.store.list(&prefix).await.map_err(|error| error.to_string())?;
        check(infos.len() == 2, || format!("{} infos", infos.len()))
    })
    .await;
}

/// No program proposes `stolonctl init` alone: that would discard the databases.
async fn assert_remedies_keep_the_databases(cluster: &mut Cluster, uid: &str) {
    let (status, text) = cluster.stolonctl(&["status"]).await;
    let names = text.contains(&format!("keeper0 (cluster {uid}), keeper1 (cluster {uid})"));
    let keeps = text.contains("stolonctl clusterdata write --yes -f FILE");
    assert!(status == 1 && names && keeps && !text.contains("initialise"), "{text}");
    let proxy = cluster.process("proxy0");
    eventually("the proxy to report the loss", SHORT_TIMEOUT, async || {
        let log = proxy.log();
        let mut lines = log.lines().filter(|line| line.contains("no clusterdata available"));
        let line = lines.next_back().unwrap_or_default();
        let keeps = line.contains(uid) && line.contains("stolonctl clusterdata write --yes -f FILE");
        check(keeps && !line.contains("initialise"), || line.to_owned())
    })
    .await;
}

#[tokio::test]
async fn deleted_cluster_data_cost_no_database_and_a_backup_restores_the_cluster() {
    let (mut cluster, uid) = cluster().await;
    let file = backup(&cluster).await;
    let servers = [cluster.postmaster("keeper0"), cluster.postmaster("keeper1")];

    remove(&cluster, &cluster.store.keys().cluster_data()).await;
    wait_sentinel_reports_the_loss(&mut cluster).await;
    assert_remedies_keep_the_databases(&mut cluster, &uid).await;
    // Five times as long as the sentinel waits for keepers.
    throughout(
        "nothing is created and all servers run",
        Duration::from_secs(15),
        async || {
            check(cluster.data().await.is_err(), || "there are cluster data".to_owned())?;
            let now = [cluster.postmaster("keeper0"), cluster.postmaster("keeper1")];
            check(now == servers, || format!("{now:?} instead of {servers:?}"))
        },
    )
    .await;
    check_row(&cluster, "keeper0").await.unwrap();

    let (status, text) = cluster
        .stolonctl(&["clusterdata", "write", "--yes", "--file", file.to_str().unwrap()])
        .await;
    assert_eq!(status, 0, "{text}");
    cluster.wait_proxy_serves("proxy0").await;
    check_row(&cluster, "proxy0").await.unwrap();
    let now = [cluster.postmaster("keeper0"), cluster.postmaster("keeper1")];
    assert_eq!(now, servers, "no server was restarted");
    assert_eq!(
        cluster.data().await.unwrap().cluster.unwrap().uid,
        ClusterUid::from(uid)
    );
}

#[tokio::test]
async fn keepers_that_start_with_an_empty_store_count_too_and_init_starts_a_new_cluster() {
    let (mut cluster, uid) = cluster().await;
    cluster.stop("sentinel0", Signal::TERM).await;
    for keeper in ["keeper0", "keeper1"] {
        cluster.stop(keeper, Signal::INT).await;
    }
    let keys = cluster.store.keys().clone();
    remove(&cluster, &keys.cluster_data()).await;
    for keeper in ["keeper0", "keeper1"] {
        remove(&cluster, &keys.keeper_info(keeper)).await;
    }
    cluster.start("sentinel0");
    for keeper in ["keeper0", "keeper1"] {
        cluster.start(keeper);
    }
    wait_sentinel_reports_the_loss(&mut cluster).await;
    assert!(cluster.data().await.is_err());
    wait_both_keeper_infos(&cluster).await;

    let (status, text) = cluster
        .stolonctl(&["init", "--yes", &Profile::Fast.spec().to_string()])
        .await;
    assert_eq!(status, 0, "{text}");
    let warned =
        text.contains(&format!("keeper0 (cluster {uid})")) && text.contains(&format!("keeper1 (cluster {uid})"));
    assert!(warned, "{text}");
    cluster.wait_proxy_serves("proxy0").await;
    let sql = cluster.connect("proxy0").await;
    let tables = sql
        .value("select count(*) from pg_class where relname = 'kept'")
        .await
        .unwrap();
    assert_eq!(tables, "0", "a new cluster");
}

/// What a sentinel or stolonctl of Go stolon would write: new cluster data, and no record of discarded databases.
#[tokio::test]
async fn new_cluster_data_of_a_reference_program_cost_no_database() {
    let (mut cluster, uid) = cluster().await;
    let file = backup(&cluster).await;
    let key = cluster.store.keys().cluster_data();
    let spec = from_slice(Profile::Fast.spec().to_string().as_bytes()).unwrap();
    let fresh = model::ClusterData::initial("0fresh00".into(), model::Timestamp::ZERO, spec);
    let servers = [cluster.postmaster("keeper0"), cluster.postmaster("keeper1")];
    cluster.store.put(&key, to_compact(&fresh)).await.unwrap();
    for keeper in ["keeper0", "keeper1"] {
        let process = cluster.process(keeper);
        eventually(
            format!("{keeper} to report the other cluster"),
            SHORT_TIMEOUT,
            async || {
                let logged = process
                    .log()
                    .contains("the cluster data belong to another cluster than our database");
                check(logged, || "it does not".to_owned())
            },
        )
        .await;
    }
    throughout("all servers run", Duration::from_secs(8), async || {
        let now = [cluster.postmaster("keeper0"), cluster.postmaster("keeper1")];
        check(now == servers, || format!("{now:?} instead of {servers:?}"))
    })
    .await;
    let (status, text) = cluster
        .stolonctl(&["clusterdata", "write", "--yes", "--file", file.to_str().unwrap()])
        .await;
    assert_eq!(status, 0, "{text}");
    eventually("the old cluster to serve", LONG_TIMEOUT, async || {
        check_row(&cluster, "proxy0").await
    })
    .await;
    cluster.wait_healthy("keeper1", &Role::Standby).await;
    assert_eq!(
        cluster.data().await.unwrap().cluster.unwrap().uid,
        ClusterUid::from(uid)
    );
}
