//! Two instances: base backup, streaming, promotion, and the old master's rejoin.

use std::fs;
use std::sync::Arc;

use base::Clock;
use keeper::postgres::basebackup::{self, BaseBackup};
use keeper::postgres::client::upstream::UpstreamClient;
use keeper::postgres::config::conf::{Recovery, StartMode};
use keeper::postgres::config::conninfo::{Address, primary_conninfo};
use keeper::postgres::config::files::ConfigFiles;
use keeper::postgres::data::changes::DataChanges;
use keeper::postgres::data::history;
use keeper::postgres::instance::{Instance, LocalRole};
use keeper::postgres::observe::{ObserveScope, observe};
use keeper::postgres::programs::pg_control::ControlState;
use keeper::postgres::programs::wal_end;
use model::PitrConfig;
use stolon_tests::deadlines::INSTANCE_TEST_TIMEOUT;

use crate::harness::{self, Node, eventually, files};

fn address(instance: &Instance) -> Address {
    Address {
        host: "127.0.0.1".into(),
        port: instance.config().port.to_string(),
    }
}

pub(crate) fn follow(instance: &Instance, master: &Instance, name: &str) -> ConfigFiles {
    let login = &instance.config().replication;
    let conninfo = primary_conninfo(name, &address(master), login, None, &instance.config().passfile());
    ConfigFiles {
        recovery: Recovery::follow(conninfo, name),
        ..files(instance, &[])
    }
}

fn source(master: &Instance) -> UpstreamClient {
    let config = master.config();
    UpstreamClient::new(
        &address(master),
        &config.superuser,
        &config.replication,
        config.request_timeout,
        Clock::system(),
    )
    .unwrap()
}

pub(crate) async fn wait_streaming(node: &Node, name: &str) {
    eventually("a streaming standby", async || {
        node.execute("select application_name from pg_stat_replication where state = 'streaming'")
            .await
            .contains(&name.to_owned())
    })
    .await;
}

pub(crate) async fn copied(master: &Node, name: &str) -> Node {
    let standby = Node::new();
    let source = source(&master.instance);
    // The master's keeper creates the slot some time later (keeper 6.4).
    let creator = Arc::clone(&master.instance);
    let slot = name.to_owned();
    let made = tokio::spawn(async move { creator.sql().create_slot(&slot).await.unwrap() });
    eventually("a slot", async || source.probe(name).await.unwrap().has_slot).await;
    made.await.unwrap();
    let copy = BaseBackup {
        source: address(&master.instance),
        application_name: name.into(),
        slot: name.into(),
    };
    let mut progress_seen = Vec::new();
    basebackup::run(
        &standby.instance,
        &copy,
        &standby.staged(),
        &standby.owned(),
        &DataChanges::default(),
        || {},
        |progress| progress_seen.push(progress),
    )
    .await
    .unwrap();
    assert!(
        progress_seen
            .last()
            .is_some_and(|progress| progress.done >= progress.total)
    );
    assert_eq!(standby.instance.local_role().await.unwrap(), LocalRole::Standby);
    let auto_conf = standby.data().join("postgresql.auto.conf");
    assert!(auto_conf.is_symlink(), "-R has left no password");
    standby.start(&follow(&standby.instance, &master.instance, name)).await;
    wait_streaming(master, name).await;
    standby
}

#[test]
fn after_a_clean_shutdown_the_standby_has_everything_and_the_old_master_follows_without_a_copy() {
    harness::run(
        "replication::after_a_clean_shutdown_the_standby_has_everything_and_the_old_master_follows_without_a_copy",
        || async {
            let old = Node::initialised().await;
            old.start(&files(&old.instance, &[])).await;
            old.execute("create table t (id int)").await;
            let new = copied(&old, "stolon_new").await;
            old.execute("insert into t select generate_series(1, 1000)").await;
            old.stop().await;

            // the standby has received up to the end of the shutdown checkpoint's record (extensions)
            let end = wal_end::wal_end(old.instance.programs(), old.instance.access(), INSTANCE_TEST_TIMEOUT)
                .await
                .unwrap();
            let stopped_at = end.position.expect("a clean stop");
            eventually("all WAL received", async || {
                new.instance
                    .sql()
                    .standby()
                    .await
                    .unwrap()
                    .unwrap()
                    .received
                    .is_some_and(|received| received >= stopped_at)
            })
            .await;
            let identity = new.instance.replication().identify().await.unwrap();
            assert_eq!(identity.position, stopped_at, "the standby's position is the very end");

            new.instance
                .promote(&files(&new.instance, &[]), INSTANCE_TEST_TIMEOUT)
                .await
                .unwrap();
            assert_eq!(new.instance.local_role().await.unwrap(), LocalRole::Master);
            assert_eq!(new.execute("select count(*) from t").await, ["1000"]);
            let seen = observe(&new.instance, ObserveScope::ALL).await;
            assert!(seen.is_healthy, "{:?}", seen.failed);
            assert_eq!(seen.timeline, Some(2));
            assert_eq!(seen.history.len(), 1);
            assert_eq!(
                (seen.history[0].timeline, seen.history[0].switch_point),
                (1, stopped_at)
            );
            assert_eq!(
                history::read_history(new.data(), 2).unwrap().as_deref(),
                Some(seen.history.as_slice())
            );

            // the old master's data are kept (keeper 6.7)
            new.instance.sql().create_slot("stolon_old").await.unwrap();
            let progress_seen = source(&new.instance).probe("stolon_old").await.unwrap();
            assert_eq!(progress_seen.system_id, end.control.system_id);
            assert_eq!(progress_seen.history, seen.history);
            assert!(progress_seen.has_slot);
            assert!(progress_seen.oldest_wal.is_some());
            new.execute("insert into t select 1001").await;
            old.start(&follow(&old.instance, &new.instance, "stolon_old")).await;
            wait_streaming(&new, "stolon_old").await;
            eventually("the new row", async || {
                old.execute("select count(*) from t").await == ["1001"]
            })
            .await;
            let standby = old.instance.sql().standby().await.unwrap().unwrap();
            assert!(!standby.is_paused);
            let state = async |node: &Node| node.instance.sql().round_state().await.unwrap();
            assert!(state(&new).await.slots.contains("stolon_old"));
            assert!(!state(&old).await.slots.contains("stolon_old"));
            for (pause, is_paused) in [("pause", true), ("resume", false)] {
                old.execute(&format!("select pg_wal_replay_{pause}()")).await;
                assert_eq!(state(&old).await.is_replay_paused, is_paused);
            }
            assert!(!state(&new).await.is_replay_paused, "a master");
            let receiver = standby.receiver.unwrap();
            assert!(receiver.is_streaming);
            assert_eq!((receiver.timeline, receiver.slot.as_str()), (Some(2), "stolon_old"));
            assert_eq!(receiver.port, new.instance.config().port.to_string());

            // a standby's data end where its received WAL ends
            let master_at = new.instance.replication().identify().await.unwrap().position;
            eventually("all WAL received again", async || {
                old.instance.replication().identify().await.unwrap().position >= master_at
            })
            .await;
            old.stop().await;
            let end = wal_end::wal_end(old.instance.programs(), old.instance.access(), INSTANCE_TEST_TIMEOUT)
                .await
                .unwrap();
            assert_eq!((end.control.state, end.timeline), (ControlState::ShutDownInRecovery, 2));
            assert!(end.position.unwrap() >= master_at, "{end:?}");
            assert_eq!(
                history::read_history(old.data(), 2).unwrap().as_deref(),
                Some(seen.history.as_slice())
            );
            new.stop().await;
        },
    );
}

#[test]
fn a_standby_moves_to_another_primary_by_a_reload() {
    harness::run(
        "replication::a_standby_moves_to_another_primary_by_a_reload",
        || async {
            let first = Node::initialised().await;
            first.start(&files(&first.instance, &[])).await;
            let standby = copied(&first, "stolon_a").await;
            let second = copied(&first, "stolon_b").await;
            second.instance.sql().create_slot("stolon_a").await.unwrap();
            // cascading, which needs no promotion
            standby
                .instance
                .reload(&follow(&standby.instance, &second.instance, "stolon_a"))
                .await
                .unwrap();
            wait_streaming(&second, "stolon_a").await;
            for node in [&standby, &second, &first] {
                node.stop().await;
            }
        },
    );
}

#[test]
fn an_aborted_copy_leaves_no_process() {
    harness::run("replication::an_aborted_copy_leaves_no_process", || async {
        let master = Node::initialised().await;
        master.start(&files(&master.instance, &[])).await;
        let standby = Node::new();
        let copy = BaseBackup {
            source: address(&master.instance),
            application_name: "stolon_gone".into(),
            slot: "stolon_gone".into(),
        };
        let (staged, owned, changes) = (standby.staged(), standby.owned(), DataChanges::default());
        let refused = basebackup::run(&standby.instance, &copy, &staged, &owned, &changes, || {}, |_| {})
            .await
            .unwrap_err();
        assert!(
            refused.to_string().contains("stolon_gone"),
            "without its slot: {refused}"
        );
        master.instance.sql().create_slot("stolon_gone").await.unwrap();
        tokio::select! {
            _ = basebackup::run(&standby.instance, &copy, &staged, &owned, &changes, || {}, |_| {}) => panic!("it was given up"),
            () = eventually("a copy under way", async || {
                !master.execute("select 1 from pg_stat_replication where application_name = 'stolon_gone'").await.is_empty()
            }) => {}
        }
        eventually("the copy is gone", async || {
            master
                .execute("select 1 from pg_stat_replication where application_name = 'stolon_gone'")
                .await
                .is_empty()
        })
        .await;
        master.stop().await;
    });
}

/// PostgreSQL removes the signal file of a recovery before it records the end. A server that ended in between would replay
/// all WAL that it finds, and accept writes on the timeline that it came from.
#[test]
fn a_recovery_that_has_not_ended_goes_on_although_its_signal_file_is_gone() {
    harness::run(
        "replication::a_recovery_that_has_not_ended_goes_on_although_its_signal_file_is_gone",
        || async {
            const TIMELINE: &str = "select left(pg_walfile_name(pg_current_wal_lsn()), 8)";
            const RECOVERS: &str = "select pg_is_in_recovery()";
            let master = Node::initialised().await;
            master.start(&files(&master.instance, &[])).await;
            let standby = copied(&master, "stolon_standby").await;
            let backup = copied(&master, "stolon_backup").await;
            for node in [&standby, &backup] {
                node.stop().await;
                fs::remove_file(node.data().join("standby.signal")).unwrap();
            }

            standby.start(&files(&standby.instance, &[])).await;
            assert_eq!(standby.instance.local_role().await.unwrap(), LocalRole::Standby);
            assert_eq!(standby.execute(RECOVERS).await, ["t"]);
            let promoted = files(&standby.instance, &[]);
            standby
                .instance
                .promote(&promoted, INSTANCE_TEST_TIMEOUT)
                .await
                .unwrap();
            assert_eq!(standby.execute(TIMELINE).await, ["00000002"]);

            let recovery = ConfigFiles {
                recovery: Recovery::of_backup(&PitrConfig::default()),
                ..files(&backup.instance, &[])
            };
            backup.instance.start(&recovery, StartMode::Temporary).await.unwrap();
            let recovered = backup.instance.wait_recovered(Some(INSTANCE_TEST_TIMEOUT));
            recovered.await.unwrap();
            assert_eq!(backup.execute(RECOVERS).await, ["f"]);
            assert_eq!(backup.execute(TIMELINE).await, ["00000002"]);
        },
    );
}
