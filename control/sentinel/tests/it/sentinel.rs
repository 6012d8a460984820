//! stolon-sentinel on a real etcd: what it creates, leaves unchanged, logs and gives up. Its decisions are tested with
//! `plan`, on data.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use local_cluster::options::store_options;
use model::{ClusterData, KeeperInfo, PostgresState, ProxyInfo, to_compact};
use stolon_tests::deadlines::SHORT_TIMEOUT;
use stolon_tests::etcd::Etcd;
use stolon_tests::process::{Process, Signal};
use stolon_tests::tcp_relay::{Direction, NetworkCondition, TcpRelay};
use stolon_tests::wait::{eventually, throughout};
use store::election::{Election, Leadership};
use store::{Revision, Store, Txn};
use tempfile::TempDir;

use crate::store;

/// A second and a half: some rounds of a cluster with the short timers of these tests.
const A_WHILE: Duration = Duration::from_millis(1_500);
const SPEC: &str = r#"{"initMode":"new","sleepInterval":"500ms","failInterval":"4s"}"#;

/// Part of a spec that this version does not support, from the init mode on: a standby cluster that follows nothing.
const UNSUPPORTED: &str = r#""pitr","pitrConfig":{"dataRestoreCommand":"x"},"role":"standby","standbyConfig":{}"#;

/// An etcd, a store handle, and a directory for logs and files.
pub(crate) struct Scene {
    etcd: Etcd,
    pub(crate) store: Store,
    dir: TempDir,
    sentinels: usize,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        let etcd = Etcd::start().await;
        let store = store(&etcd.endpoint());
        let dir = TempDir::with_prefix("stolon-sentinel.").unwrap();
        Self {
            etcd,
            store,
            dir,
            sentinels: 0,
        }
    }

    pub(crate) fn sentinel(&mut self, options: &[&str]) -> Process {
        let endpoint = self.etcd.endpoint();
        self.sentinel_at(&endpoint, options)
    }

    fn sentinel_at(&mut self, endpoint: &str, options: &[&str]) -> Process {
        self.sentinels += 1;
        let name = format!("sentinel{}", self.sentinels);
        let mut command = Command::new(env!("CARGO_BIN_EXE_stolon-sentinel"));
        command.args(store_options("mycluster", endpoint)).args(options);
        Process::start(&name, command, None, &self.dir.path().join(format!("{name}.log")))
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub(crate) async fn data(&self) -> Result<(ClusterData, Revision), String> {
        let entry = self
            .store
            .get(&self.store.keys().cluster_data())
            .await
            .map_err(|error| error.to_string())?;
        let entry = entry.ok_or("no cluster data")?;
        let data = ClusterData::parse(&entry.value).map_err(|error| error.to_string())?;
        Ok((data.ok_or("null")?, entry.mod_revision))
    }

    pub(crate) async fn put_data(&self, value: &str) -> Revision {
        self.store.put(&self.store.keys().cluster_data(), value).await.unwrap()
    }

    async fn data_stays(&self, revision: Revision) {
        let key = self.store.keys().cluster_data();
        throughout("the cluster data left alone", A_WHILE, async || {
            let entry = self.store.get(&key).await.map_err(|error| error.to_string())?;
            let now = entry.map(|entry| entry.mod_revision);
            (now == Some(revision))
                .then_some(())
                .ok_or(format!("written at {now:?}"))
        })
        .await;
    }

    /// Publishes the info of a keeper without data.
    pub(crate) async fn publish(&self, keeper: &str, change: impl FnOnce(&mut KeeperInfo)) {
        let (data, _) = self.data().await.unwrap();
        let mut info = KeeperInfo {
            info_uid: model::short_uid(base::RandomBytes::system().bytes()).as_str().into(),
            uid: keeper.into(),
            cluster_uid: data.cluster.unwrap().uid,
            boot_uuid: "boot".into(),
            ..KeeperInfo::default()
        };
        change(&mut info);
        self.store
            .put(&self.store.keys().keeper_info(keeper), to_compact(&info))
            .await
            .unwrap();
    }
}

pub(crate) fn a_cluster(spec: &str) -> String {
    let spec = model::from_slice(spec.as_bytes()).unwrap();
    to_compact(&ClusterData::initial(
        "c1".into(),
        model::Timestamp::from_unix_nanos(1),
        spec,
    ))
}

#[tokio::test]
async fn two_sentinels_with_the_same_spec_make_one_cluster_and_one_leads() {
    // store 10.6, sentinel B-1
    let mut scene = Scene::new().await;
    let file = scene.file("spec.json", SPEC);
    let options = ["--initial-cluster-spec", file.as_str()];
    let (one, two) = (scene.sentinel(&options), scene.sentinel(&options));
    let (data, _) = eventually("cluster data", SHORT_TIMEOUT, async || scene.data().await).await;
    let cluster = data.cluster.unwrap();
    let infos = scene.store.keys().sentinel_infos();
    eventually("both to publish themselves", SHORT_TIMEOUT, async || {
        let found = scene.store.list(&infos).await.map_err(|error| error.to_string())?;
        (found.len() == 2).then_some(()).ok_or(format!("{} do", found.len()))
    })
    .await;
    let (again, _) = scene.data().await.unwrap();
    assert_eq!(again.cluster.unwrap().uid, cluster.uid);
    assert_eq!(
        cluster.spec,
        Some(model::from_slice(SPEC.as_bytes()).unwrap()),
        "as given, no defaults"
    );
    let lead: Vec<bool> = [&one, &two]
        .map(|it| it.log().contains("sentinel leadership acquired"))
        .into();
    assert_eq!(lead.iter().filter(|leads| **leads).count(), 1);
}

#[tokio::test]
async fn an_info_is_written_once_and_again_when_it_is_lost() {
    // store S-20: an idle sentinel does not write to etcd's log for its info
    let mut scene = Scene::new().await;
    let file = scene.file("spec.json", SPEC);
    let _sentinel = scene.sentinel(&["--initial-cluster-spec", file.as_str()]);
    let store = scene.store.clone();
    let infos = store.keys().sentinel_infos();
    let info = async || {
        let found = store.list(&infos).await.map_err(|error| error.to_string())?;
        found.into_iter().next().ok_or_else(|| "no info".to_owned())
    };
    let first = eventually("an info", SHORT_TIMEOUT, info).await;
    throughout("the info is not written again", A_WHILE, async || {
        let revision = info().await?.mod_revision;
        (revision == first.mod_revision)
            .then_some(())
            .ok_or(format!("{revision:?}"))
    })
    .await;
    store.revoke(first.lease.unwrap()).await.unwrap();
    let second = eventually("an info after its lease was lost", SHORT_TIMEOUT, info).await;
    assert_ne!(second.lease, first.lease);
    store.commit(Txn::new().delete(&second.key)).await.unwrap();
    eventually("an info after it was deleted", SHORT_TIMEOUT, info).await;
}

#[tokio::test]
async fn a_leader_stops_within_a_second_and_the_next_one_leads_at_once() {
    // store 6.3 E-8
    let mut scene = Scene::new().await;
    scene.put_data(&a_cluster(SPEC)).await;
    let mut one = scene.sentinel(&[]);
    one.wait_for_log("sentinel leadership acquired", SHORT_TIMEOUT).await;
    let two = scene.sentinel(&[]);
    two.wait_for_log("Trying to acquire sentinels leadership", SHORT_TIMEOUT)
        .await;
    one.signal(Signal::TERM);
    assert_eq!(one.exit_status(SHORT_TIMEOUT).await, 0);
    assert!(one.log().contains("stopping stolon sentinel"));
    two.wait_for_log("sentinel leadership acquired", SHORT_TIMEOUT).await;
}

#[tokio::test]
async fn undecodable_unsupported_and_invalid_data_is_reported_once_and_left_unchanged() {
    // store 10.8, sentinel B-4
    let mut scene = Scene::new().await;
    let file = scene.file("spec.json", SPEC);
    let invalid = a_cluster(SPEC).replace("500ms", "-5s");
    let other = a_cluster(SPEC).replace("\"formatVersion\":1", "\"formatVersion\":2");
    let cases = [
        ("{garbage", "error retrieving cluster data"),
        (r#"{"formatVersion":1}"#, "clusterdata validation failed"),
        (other.as_str(), "unsupported clusterdata format version version=2"),
        (invalid.as_str(), "clusterdata validation failed"),
        (
            r#"{"formatVersion":1,"cluster":{"uid":"c"}}"#,
            "clusterdata validation failed",
        ),
    ];
    let sentinel = scene.sentinel(&["--initial-cluster-spec", &file]);
    eventually("cluster data", SHORT_TIMEOUT, async || scene.data().await).await;
    for (value, message) in cases {
        let before = sentinel.log().len();
        let revision = scene.put_data(value).await;
        sentinel.wait_for_log_after(before, message, SHORT_TIMEOUT).await;
        scene.data_stays(revision).await;
        assert_eq!(sentinel.log()[before..].matches(message).count(), 1, "{value}");
    }
    // and it continues when the data is fixed
    scene.put_data(&a_cluster(SPEC)).await;
    scene.publish("k1", |_| {}).await;
    eventually("a first master", SHORT_TIMEOUT, async || {
        let (data, _) = scene.data().await?;
        data.master_uid().map(drop).ok_or("none".to_owned())
    })
    .await;
}

#[tokio::test]
async fn unsupported_features_are_reported_once_and_left_unchanged() {
    let mut scene = Scene::new().await;
    let asks = SPEC.replace(r#""new""#, UNSUPPORTED);
    let revision = scene.put_data(&a_cluster(&asks)).await;
    let sentinel = scene.sentinel(&[]);
    sentinel
        .wait_for_log("role standby needs an upstream", SHORT_TIMEOUT)
        .await;
    scene.publish("k1", |_| {}).await;
    scene.data_stays(revision).await;
    assert_eq!(sentinel.log().matches("role standby needs an upstream").count(), 1);
}

#[tokio::test]
async fn a_stored_null_is_replaced_by_an_initial_cluster() {
    // sentinel B-3, store C-5
    let mut scene = Scene::new().await;
    scene.put_data("null").await;
    let waiting = scene.sentinel(&[]);
    waiting
        .wait_for_log("no cluster data available, waiting for it to appear", SHORT_TIMEOUT)
        .await;
    let file = scene.file("spec.json", SPEC);
    let _creating = scene.sentinel(&["--initial-cluster-spec", &file]);
    eventually("cluster data", SHORT_TIMEOUT, async || scene.data().await).await;
}

#[tokio::test]
async fn an_undecodable_info_is_reported_once_and_stops_nothing() {
    // store S-12, corner case 16
    let mut scene = Scene::new().await;
    scene.put_data(&a_cluster(SPEC)).await;
    let keys = scene.store.keys().clone();
    for key in [keys.keeper_info("k0"), keys.proxy_info("p0")] {
        scene.store.put(&key, "{garbage").await.unwrap();
    }
    let old = ProxyInfo {
        uid: "p1".into(),
        info_uid: "i1".into(),
        ..ProxyInfo::default()
    };
    let text = to_compact(&old).replace("\"ProxyTimeout\":0", "\"ProxyTimeout\":\"15s\"");
    scene.store.put(&keys.proxy_info("p1"), text).await.unwrap();
    let sentinel = scene.sentinel(&[]);
    sentinel
        .wait_for_log("sentinel leadership acquired", SHORT_TIMEOUT)
        .await;
    scene.publish("k1", |_| {}).await;
    let master = eventually("a first master", SHORT_TIMEOUT, async || {
        let (data, _) = scene.data().await?;
        data.master_uid().cloned().ok_or("none".to_owned())
    })
    .await;
    for key in [keys.keeper_info("k0"), keys.proxy_info("p0"), keys.proxy_info("p1")] {
        assert_eq!(sentinel.log().matches(&format!("key={key}")).count(), 1, "{key}");
    }
    // a healthy master is announced nevertheless, once the undecodable proxies' time has passed (fencing F-6): not at
    // once
    scene
        .publish("k1", |info| {
            let state = PostgresState {
                uid: master,
                generation: 1,
                healthy: true,
                ..PostgresState::default()
            };
            info.postgres_state = Some(state);
        })
        .await;
    let (data, _) = eventually("phase normal", SHORT_TIMEOUT, async || {
        let found = scene.data().await?;
        let phase = &found.0.cluster.as_ref().ok_or("no cluster")?.status.phase;
        if *phase == model::Phase::Normal {
            Ok(found)
        } else {
            Err(phase.to_string())
        }
    })
    .await;
    assert!(data.proxy.unwrap().spec.master_db_uid.is_empty());
}

#[tokio::test]
async fn the_write_of_a_deposed_leader_is_refused() {
    // fencing F-7 and its test 4.4: delayed between its read and its write for longer than the election lease
    let mut scene = Scene::new().await;
    scene.put_data(&a_cluster(SPEC)).await;
    let relay = TcpRelay::to(&scene.etcd.address()).await;
    let held = scene.sentinel_at(&relay.endpoint(), &["--store-timeout", "20s", "--log-level", "debug"]);
    held.wait_for_log("failed to update cluster data", SHORT_TIMEOUT).await;
    let (_, revision) = scene.data().await.unwrap();
    relay.hold_from(Direction::ToServer, b"\"keepers\":{\"k1\"");
    scene.publish("k1", |_| {}).await;
    eventually("its write to be on the way", SHORT_TIMEOUT, async || {
        relay.is_held(Direction::ToServer).then_some(()).ok_or("not yet")
    })
    .await;
    let other = Election::start(scene.store.clone(), "other");
    let mut state = other.state();
    let leads = state.wait_for(|state: &Leadership| state.leader().is_some());
    tokio::time::timeout(SHORT_TIMEOUT, leads)
        .await
        .expect("another leads")
        .unwrap();
    held.wait_for_log("sentinel leadership lost", SHORT_TIMEOUT).await;
    relay.set(Direction::ToServer, NetworkCondition::Normal);
    scene.data_stays(revision).await;
    other.stop().await;
    eventually("it to write again as leader", SHORT_TIMEOUT, async || {
        let (data, _) = scene.data().await?;
        data.keepers()
            .contains_key("k1")
            .then_some(())
            .ok_or("not yet".to_owned())
    })
    .await;
}

#[tokio::test]
async fn a_sentinel_survives_a_store_outage() {
    // store S-30, S-33
    let mut scene = Scene::new().await;
    scene.put_data(&a_cluster(SPEC)).await;
    let sentinel = scene.sentinel(&["--store-timeout", "1s"]);
    sentinel
        .wait_for_log("sentinel leadership acquired", SHORT_TIMEOUT)
        .await;
    scene.etcd.stop().await;
    sentinel
        .wait_for_log("error retrieving cluster data", SHORT_TIMEOUT)
        .await;
    scene.etcd.restart().await;
    scene.publish("k1", |_| {}).await;
    eventually("a first master", SHORT_TIMEOUT, async || {
        let (data, _) = scene.data().await?;
        data.master_uid().map(drop).ok_or("none".to_owned())
    })
    .await;
    assert_eq!(sentinel.log().matches("error retrieving cluster data").count(), 1);
}

#[tokio::test]
async fn all_bad_arguments_are_reported_and_nothing_is_written() {
    // cli 4: status 1, and all errors at once
    let mut scene = Scene::new().await;
    let bad = scene.file("bad.json", "{\n \"initMode\": \"new\",\n oops }");
    let invalid = scene.file("invalid.json", r#"{"initMode":"never"}"#);
    let absent = scene.file(
        "absent.json",
        r#"{"initMode":"new","role":"standby","standbyConfig":{}}"#,
    );
    let unsupported = scene.file("unsupported.json", &format!(r#"{{"initMode":{UNSUPPORTED}}}"#));
    let moved = scene.file(
        "moved.json",
        r#"{"initMode":"new","pgParameters":{"data_directory":"/tmp/x"},"pgHBA":["hosst x"]}"#,
    );
    let cases: [(&str, &[&str]); 6] = [
        (&moved, &["\"data_directory\" cannot be set", "\"hosst x\""]),
        (&bad, &["cannot parse provided initial cluster config", "line 3"]),
        (&invalid, &["invalid initial cluster", "never"]),
        (&absent, &["invalid initial cluster"]),
        (&unsupported, &["role standby needs an upstream"]),
        ("/does/not/exist", &["cannot read provided initial cluster config file"]),
    ];
    for (file, expected) in cases {
        let mut sentinel = scene.sentinel(&["--initial-cluster-spec", file, "--log-level", "loud"]);
        assert_eq!(sentinel.exit_status(SHORT_TIMEOUT).await, 1);
        let log = sentinel.log();
        assert!(expected.iter().all(|text| log.contains(text)), "{file}: {log}");
        assert!(log.contains("log level \"loud\" is unknown"), "{log}");
    }
    assert_eq!(scene.data().await.unwrap_err(), "no cluster data");
}

#[tokio::test]
async fn all_metrics_exist_from_the_first_scrape() {
    // cli 17.3, sentinel M-2
    let mut scene = Scene::new().await;
    scene.put_data(&a_cluster(SPEC)).await;
    let port = stolon_tests::ports::free();
    let address = format!("127.0.0.1:{}", port.number());
    let sentinel = scene.sentinel(&["--metrics-listen-address", &address]);
    sentinel
        .wait_for_log("sentinel leadership acquired", SHORT_TIMEOUT)
        .await;
    let text = eventually("the metrics of a leader", SHORT_TIMEOUT, async || {
        let text = scrape(&address).await.map_err(|error| error.to_string())?;
        if text.contains("stolon_sentinel_is_leader 1") {
            Ok(text)
        } else {
            Err(text)
        }
    })
    .await;
    let names: BTreeSet<&str> = text.lines().filter_map(|line| line.split([' ', '{']).next()).collect();
    for name in [
        "stolon_cluster_identifier",
        "stolon_sentinel_is_leader",
        "stolon_sentinel_last_cluster_check_success_seconds",
        "stolon_sentinel_leader_count",
    ] {
        assert!(names.contains(name), "{name} is missing in {text}");
    }
}

async fn scrape(address: &str) -> std::io::Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        .await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}
