//! The life of one instance, from initdb to its stop.

use std::time::Duration;

use keeper::external_dirs::ClearRequest;
use keeper::postgres::client::connect::ConnectTarget;
use keeper::postgres::client::replication::ReplicationClient;
use keeper::postgres::config::conf::StartMode;
use keeper::postgres::config::conninfo::Address;
use keeper::postgres::config::credentials::{AuthMethod, Login, Secret};
use keeper::postgres::config::files::ConfigFiles;
use keeper::postgres::data::changes::DataChanges;
use keeper::postgres::instance::LocalRole;
use keeper::postgres::observe::{ObserveScope, observe};
use keeper::postgres::programs::pg_control::ControlState;
use keeper::postgres::programs::wal_end;
use keeper::postgres::server::error::InstanceError;
use keeper::postgres::server::postmaster::ChildStatus;
use keeper::postgres::server::supervisor::{RunningServer, StopLimits, StopOutcome};
use postgres_protocol::escape::{escape_identifier, escape_literal};
use stolon_tests::deadlines::INSTANCE_TEST_TIMEOUT;

use crate::harness::{self, Node, dumped_end, eventually, files};

#[test]
fn a_new_cluster_has_its_roles_and_takes_their_hostile_passwords() {
    harness::run(
        "start_stop::a_new_cluster_has_its_roles_and_takes_their_hostile_passwords",
        || async {
            let node = Node::initialised().await;
            assert_eq!(node.instance.local_role().await.unwrap(), LocalRole::Master);
            node.start(&files(&node.instance, &[])).await;
            let roles = node
                .execute("select rolname from pg_authid where rolpassword like 'SCRAM-SHA-256$%'")
                .await;
            assert_eq!(
                roles.len(),
                2,
                "both passwords are stored as SCRAM verifiers: {roles:?}"
            );
            // as the replication user, with the replication client
            let identity = node.instance.replication().identify().await.unwrap();
            assert_eq!(identity.timeline, 1);
            assert_eq!(node.instance.replication().history(1).await.unwrap(), []);

            let seen = observe(&node.instance, ObserveScope::ALL).await;
            assert!(seen.is_healthy, "{:?}", seen.failed);
            assert_eq!(seen.system_id, Some(identity.system_id));
            assert_eq!(seen.senders, Some(vec![]));
            assert_eq!(seen.oldest_wal.as_deref(), Some("000000010000000000000001"));
            assert_eq!(
                seen.parameters.as_ref().unwrap().keys().collect::<Vec<_>>(),
                ["wal_level"]
            );
            assert!(seen.standby.is_none());
            node.stop().await;
            assert!(!observe(&node.instance, ObserveScope::ALL).await.is_healthy);
            assert!(node.instance.running().await.unwrap().is_none());
        },
    );
}

const PAGE: u64 = 8192;

#[test]
fn the_end_of_a_clean_stop_is_where_pg_waldump_finds_it() {
    harness::run(
        "start_stop::the_end_of_a_clean_stop_is_where_pg_waldump_finds_it",
        || async {
            let node = Node::initialised().await;
            let (mut at_page_ends, mut over_page_ends) = (0, 0);
            for round in 0..12 {
                node.start(&files(&node.instance, &[])).await;
                // A message fills the page up to this many bytes; the checkpoint's record of 120 bytes comes next, unless
                // something else was written meanwhile.
                let gap = [120, 64, 8, 128][round % 4];
                let position = node.execute("select pg_current_wal_insert_lsn() - '0/0'").await;
                let offset = position[0].parse::<u64>().unwrap() % PAGE;
                let room = PAGE - gap - offset.min(PAGE - gap);
                // On this page, or across the header of the next one.
                let record = if room >= 512 {
                    room
                } else {
                    2 * PAGE - gap - offset - 24
                };
                node.execute(&format!(
                    "select pg_logical_emit_message(false, '', repeat('x', {}))",
                    record - 54
                ))
                .await;
                node.stop().await;
                let end = wal_end::wal_end(node.instance.programs(), node.instance.access(), INSTANCE_TEST_TIMEOUT)
                    .await
                    .unwrap();
                assert_eq!(end.control.state, ControlState::ShutDown);
                assert!(end.is_clean());
                let dumped = dumped_end(node.data(), 1, end.control.checkpoint).await;
                let position = end.position.unwrap();
                assert_eq!(dumped, position, "checkpoint at {}", end.control.checkpoint);
                at_page_ends += usize::from(position.0 % PAGE == 0);
                over_page_ends +=
                    usize::from(position.0 % PAGE != 0 && position.0 / PAGE > end.control.checkpoint.0 / PAGE);
                if round >= 3 && at_page_ends > 0 && over_page_ends > 0 {
                    return;
                }
            }
            panic!("ends at a page's end: {at_page_ends}, beyond one: {over_page_ends}");
        },
    );
}

#[test]
fn a_killed_postmaster_is_detected_and_its_leftovers_are_ended() {
    harness::run(
        "start_stop::a_killed_postmaster_is_detected_and_its_leftovers_are_ended",
        || async {
            let node = Node::initialised().await;
            let wanted = files(&node.instance, &[]);
            node.start(&wanted).await;
            // A busy session does not check for its postmaster.
            let instance = std::sync::Arc::clone(&node.instance);
            let busy = tokio::spawn(async move {
                harness::query(&instance, "select count(*) from generate_series(1, 100000000000) a").await
            });
            eventually("a busy session", async || {
            let question = "select 1 from pg_stat_activity where state = 'active' and query like '%generate_series%' \
                            and pid <> pg_backend_pid()";
            !node.execute(question).await.is_empty()
        })
        .await;
            let mut life = node.instance.child_status();
            let ChildStatus::Running { pid } = *life.borrow_and_update() else {
                panic!("it runs")
            };
            let postmaster = keeper::postgres::server::process::Process::open(pid).unwrap().unwrap();
            postmaster.signal(rustix::process::Signal::KILL).unwrap();
            life.changed().await.unwrap();
            assert!(matches!(*life.borrow(), ChildStatus::Ended { pid: ended, .. } if ended == pid));
            assert!(node.instance.running().await.unwrap().is_none());
            let end = wal_end::wal_end(node.instance.programs(), node.instance.access(), INSTANCE_TEST_TIMEOUT)
                .await
                .unwrap();
            assert!(!end.is_clean());

            node.start(&wanted).await;
            assert!(busy.await.unwrap().is_err(), "the busy session is gone");
            assert_eq!(node.execute("select 1").await, ["1"]);
            node.stop().await;
        },
    );
}

#[test]
fn a_server_that_an_earlier_keeper_left_is_found_and_stopped() {
    harness::run(
        "start_stop::a_server_that_an_earlier_keeper_left_is_found_and_stopped",
        || async {
            let node = Node::initialised().await;
            node.start(&files(&node.instance, &[])).await;
            let ChildStatus::Running { pid } = *node.instance.child_status().borrow() else {
                panic!("it runs")
            };
            // another keeper on the same directory
            let next = harness::instance(node.dir.path(), node.instance.config().port);
            assert_eq!(
                next.running().await.unwrap(),
                Some(RunningServer { pid, is_child: false })
            );
            let request = || ClearRequest {
                db: "a".into(),
                bytes: Some(0),
                external_dirs: Vec::new(),
                ran_out_of_space: false,
            };
            let changes = DataChanges::default();
            assert!(
                next.clear_data(&changes, node.owned(), request()).await.is_err(),
                "never while a server runs (keeper I4)"
            );
            assert_eq!(next.stop(StopLimits::default()).await.unwrap(), StopOutcome::Fast);
            assert_eq!(next.running().await.unwrap(), None);
            assert_eq!(next.stop(StopLimits::default()).await.unwrap(), StopOutcome::NotRunning);
            next.clear_data(&changes, node.owned(), request()).await.unwrap();
            assert!(!node.data().exists());
        },
    );
}

#[test]
fn a_reload_takes_effect_and_reports_refused_settings() {
    harness::run(
        "start_stop::a_reload_takes_effect_and_reports_refused_settings",
        || async {
            let node = Node::initialised().await;
            node.start(&files(&node.instance, &[])).await;
            let value = "it's a 'test'\nof 100%";
            node.instance
                .reload(&files(
                    &node.instance,
                    &[("app.value", value), ("max_connections", "50")],
                ))
                .await
                .unwrap();
            eventually("the new value", async || {
                node.execute("show app.value")
                    .await
                    .first()
                    .is_some_and(|now| now == value)
            })
            .await;
            let state = node.instance.sql().round_state().await.unwrap();
            assert_eq!(state.pending_restart, ["max_connections"]);
            assert!(node.instance.sql().refused_parameters().await.unwrap().is_empty());
            assert_eq!(node.instance.sql().configured().await.unwrap()["max_connections"], "50");

            node.instance
                .reload(&files(&node.instance, &[("no_such_parameter", "1")]))
                .await
                .unwrap();
            let refused = node.instance.sql().refused_parameters().await.unwrap();
            assert_eq!(refused.keys().collect::<Vec<_>>(), ["no_such_parameter"]);

            node.stop().await;
            node.start(&files(&node.instance, &[("max_connections", "50")])).await;
            assert_eq!(
                node.execute("show max_connections").await,
                ["50"],
                "the kept connection was opened again"
            );
            let state = node.instance.sql().round_state().await.unwrap();
            assert_eq!(state.pending_restart, [] as [String; 0]);
            let refused = node.execute_refused("alter system set work_mem = '8MB'").await;
            assert!(
                refused.contains("could not fsync file \"postgresql.auto.conf\": Invalid argument"),
                "{refused}"
            );
            node.stop().await;
        },
    );
}

#[test]
fn a_start_with_an_expired_permit_launches_nothing() {
    // the permit is requested before, and the preparations may take long (extensions)
    harness::run(
        "start_stop::a_start_with_an_expired_permit_launches_nothing",
        || async {
            let node = Node::initialised().await;
            let wanted = files(&node.instance, &[]);
            let life = *node.instance.child_status().borrow();
            let refused = node.instance.start_while(&wanted, StartMode::Normal, || false).await;
            assert!(
                matches!(refused, Err(InstanceError::PermitExpired { .. })),
                "{refused:?}"
            );
            assert_eq!(*node.instance.child_status().borrow(), life);
            assert!(!node.data().join("postmaster.pid").exists());
        },
    );
}

#[test]
fn a_frozen_server_is_killed_past_the_limits_and_recovers() {
    harness::run(
        "start_stop::a_frozen_server_is_killed_past_the_limits_and_recovers",
        || async {
            let node = Node::initialised().await;
            let wanted = files(&node.instance, &[]);
            node.start(&wanted).await;
            node.execute("create table t as select 1").await;
            let ChildStatus::Running { pid } = *node.instance.child_status().borrow() else {
                panic!("it runs")
            };
            let postmaster = keeper::postgres::server::process::Process::open(pid).unwrap().unwrap();
            postmaster.signal(rustix::process::Signal::STOP).unwrap();
            let short = Duration::from_millis(100);
            let limits = StopLimits {
                fast: short,
                immediate: short,
            };
            assert_eq!(node.instance.stop(limits).await.unwrap(), StopOutcome::Killed);
            assert!(keeper::postgres::server::pgdata_holders::holders_of(node.data()).is_empty());
            let end = wal_end::wal_end(node.instance.programs(), node.instance.access(), INSTANCE_TEST_TIMEOUT)
                .await
                .unwrap();
            assert!(!end.is_clean());
            node.start(&wanted).await;
            assert_eq!(node.execute("select count(*) from t").await, ["1"]);
            node.stop().await;
        },
    );
}

#[test]
fn the_replication_client_logs_in_by_every_method() {
    harness::run("start_stop::the_replication_client_logs_in_by_every_method", || async {
        let node = Node::initialised().await;
        let wanted = files(&node.instance, &[]);
        node.start(&wanted).await;
        let login = &node.instance.config().replication;
        let address = Address {
            host: "127.0.0.1".into(),
            port: node.instance.config().port.to_string(),
        };
        let identify = async |login: &Login| {
            ReplicationClient::new(
                ConnectTarget::Remote(address.clone()),
                login.clone(),
                INSTANCE_TEST_TIMEOUT,
            )
            .identify()
            .await
        };
        identify(login).await.unwrap(); // a SCRAM verifier under the method md5
        let wrong = Login {
            password: Some(Secret::new("wrong")),
            ..login.clone()
        };
        let refused = identify(&wrong).await.unwrap_err().to_string();
        assert!(refused.contains("28P01") && !refused.contains("wrong"), "{refused}");

        let quoted = (
            escape_identifier(&login.user),
            escape_literal(&login.password().unwrap()),
        );
        node.execute(&format!(
            "set password_encryption = 'md5'; alter role {} password {}",
            quoted.0, quoted.1
        ))
        .await;
        identify(login).await.unwrap();

        let trusting = ConfigFiles {
            hba: vec!["host replication all 127.0.0.1/32 trust".into()],
            ..wanted
        };
        node.instance.reload(&trusting).await.unwrap();
        let without = Login {
            method: AuthMethod::Trust,
            password: None,
            ..login.clone()
        };
        eventually("the new lines", async || identify(&without).await.is_ok()).await;
    });
}
