//! Facts about synchronous replication in PostgreSQL that the rules assume (synchronous PG1 to PG6, PG10 and PG11), on the
//! installed version; and the keeper's own queries on such servers.

use std::time::Duration;

use keeper::postgres::client::roles;
use keeper::postgres::client::sql::NamesShown;
use keeper::postgres::config::files::ConfigFiles;
use keeper::postgres::instance::Instance;
use keeper::postgres::server::postmaster::ChildStatus;
use keeper::postgres::server::supervisor::{StopLimits, StopOutcome};
use keeper::synchronous::{InSync, MarkState, WrittenFor};
use model::Lsn;
use stolon_tests::deadlines::{INSTANCE_TEST_TIMEOUT, SHORT_TIMEOUT};
use stolon_tests::process::{Signal, send_signal};
use tokio::task::JoinHandle;

use crate::harness::{self, Node, eventually, execute, files, first_column, query};
use crate::replication::{copied, follow, wait_streaming};

const NAMES: &str = "synchronous_standby_names";

fn with(mut files: ConfigFiles, name: &str, value: &str) -> ConfigFiles {
    files.parameters.insert(name.to_owned(), value.to_owned());
    files
}

/// A master with these standbys, which stream and which it does not wait for yet.
async fn cluster(names: &[&str]) -> (Node, Vec<Node>) {
    let master = Node::initialised().await;
    master.start(&files(&master.instance, &[])).await;
    master.execute("create table t (id int)").await;
    let mut standbys = Vec::new();
    for name in names {
        standbys.push(copied(&master, name).await);
        let reported = format!(
            "select 1 from pg_stat_replication where application_name = '{name}' and state = 'streaming' and flush_lsn is \
             not null"
        );
        // A receiver that is suspended before it has reported would never count for the master.
        eventually("the standby to stream", async || {
            master.execute(&reported).await.len() == 1
        })
        .await;
    }
    (master, standbys)
}

/// Sets the names, and waits until a new connection shows them.
async fn set_names(node: &Node, files: ConfigFiles, names: &str) {
    node.instance.reload(&with(files, NAMES, names)).await.unwrap();
    eventually("a new connection to show the names", async || {
        node.execute("show synchronous_standby_names").await == [names]
    })
    .await;
}

async fn set_master_names(node: &Node, names: &str) {
    set_names(node, files(&node.instance, &[]), names).await;
}

async fn wait_shown_in_sync(master: &Node, name: &str) {
    eventually("the standby to be shown as in sync", async || {
        let state = format!("select sync_state from pg_stat_replication where application_name = '{name}'");
        master.execute(&state).await == ["sync"]
    })
    .await;
}

/// A suspended process of a server, continued at the end.
struct Suspended(u32);

impl Suspended {
    async fn of(node: &Node, pid_query: &str) -> Self {
        let pids = node.execute(pid_query).await;
        let pid = pids.first().expect("the process runs").parse().unwrap();
        send_signal(pid, Signal::STOP);
        Self(pid)
    }

    async fn receiver(node: &Node) -> Self {
        Self::of(node, "select pid from pg_stat_wal_receiver").await
    }

    async fn checkpointer(node: &Node) -> Self {
        Self::of(
            node,
            "select pid from pg_stat_activity where backend_type = 'checkpointer'",
        )
        .await
    }
}

impl Drop for Suspended {
    fn drop(&mut self) {
        send_signal(self.0, Signal::CONT);
    }
}

/// A commit in a session of its own; whether it was acknowledged.
fn insert(instance: &std::sync::Arc<Instance>, id: u32) -> JoinHandle<bool> {
    let instance = std::sync::Arc::clone(instance);
    tokio::spawn(async move { query(&instance, &format!("insert into t values ({id})")).await.is_ok() })
}

/// Waits until a commit waits for a standby; returns the process ids of the sessions that do.
async fn waiting(instance: &Instance) -> Vec<String> {
    let mut found = Vec::new();
    eventually("a commit that waits", async || {
        found = execute(
            instance,
            "select pid from pg_stat_activity where wait_event = 'SyncRep'",
        )
        .await;
        !found.is_empty()
    })
    .await;
    found
}

async fn rows(node: &Node) -> Vec<String> {
    node.execute("select id from t order by 1").await
}

async fn rows_arrive(node: &Node, wanted: &[&str]) {
    eventually("the rows", async || rows(node).await == wanted).await;
}

async fn acknowledged(commit: JoinHandle<bool>) -> bool {
    tokio::time::timeout(SHORT_TIMEOUT, commit)
        .await
        .expect("the commit ends")
        .unwrap()
}

/// Facts: synchronous PG1 and SY-3. The mark is what shows that the standby lacks the commit.
#[test]
fn a_standby_is_shown_in_sync_although_it_lacks_what_was_acknowledged_before() {
    harness::run(
        "synchronous::a_standby_is_shown_in_sync_although_it_lacks_what_was_acknowledged_before",
        || async {
            let (master, standbys) = cluster(&["stolon_a", "stolon_b"]).await;
            set_master_names(&master, "stolon_a").await;
            wait_shown_in_sync(&master, "stolon_a").await;
            let suspended = Suspended::receiver(&standbys[1]).await;
            assert!(
                acknowledged(insert(&master.instance, 1)).await,
                "a alone acknowledges it"
            );
            let names = "2 (stolon_a,stolon_b)";
            let mut state = MarkState::default();
            state.begin_change(names, WrittenFor::Start);
            set_master_names(&master, names).await;
            wait_shown_in_sync(&master, "stolon_b").await;

            let task = state.task().unwrap();
            let shown = master
                .instance
                .sql()
                .confirm_standby_names(names, false, SHORT_TIMEOUT)
                .await
                .unwrap();
            let NamesShown::Master { flushed: mark } = shown else {
                panic!("{shown:?}")
            };
            state.record(&task, &NamesShown::Master { flushed: mark });
            let in_sync = async || {
                let senders = master.instance.sql().wal_senders().await.unwrap();
                let behind = senders
                    .iter()
                    .find(|sender| sender.application_name == "stolon_b")
                    .cloned();
                (
                    InSync::marked(state.mark().unwrap(), &senders),
                    behind.expect("it is connected"),
                )
            };
            let (marked, b) = in_sync().await;
            assert!(b.is_sync && b.is_streaming && b.flushed < Some(mark), "{b:?} {mark}");
            assert_eq!(marked, InSync::Marked(["a".into()].into()));
            drop(suspended);
            eventually("b to have the mark", async || {
                in_sync().await.0 == InSync::Marked(["a".into(), "b".into()].into())
            })
            .await;
            for node in standbys.iter().chain([&master]) {
                node.stop().await;
            }
        },
    );
}

/// Facts: synchronous PG2 and PG2b. Until the checkpointer has read the first list, nothing waits for it.
#[test]
fn after_an_empty_list_nothing_waits_before_the_checkpointer_has_read_the_new_one() {
    harness::run(
        "synchronous::after_an_empty_list_nothing_waits_before_the_checkpointer_has_read_the_new_one",
        || async {
            let (master, standbys) = cluster(&["stolon_a"]).await;
            let checkpointer = Suspended::checkpointer(&master).await;
            set_master_names(&master, "stolon_a").await;
            wait_shown_in_sync(&master, "stolon_a").await;
            let receiver = Suspended::receiver(&standbys[0]).await;
            assert!(
                acknowledged(insert(&master.instance, 1)).await,
                "although no standby has it"
            );
            let flushed = master.instance.sql().wal_senders().await.unwrap()[0].flushed;
            let at = master
                .instance
                .sql()
                .confirm_standby_names("stolon_a", false, SHORT_TIMEOUT)
                .await
                .unwrap();
            assert!(
                matches!(at, NamesShown::Master { flushed: end } if flushed < Some(end)),
                "{flushed:?} {at:?}"
            );

            // While the checkpointer does not answer, the mark waits.
            let limit = Duration::from_millis(300);
            let unanswered = master
                .instance
                .sql()
                .confirm_standby_names("stolon_a", true, limit)
                .await
                .unwrap_err();
            assert!(unanswered.to_string().contains("no response"), "{unanswered}");
            drop(checkpointer);
            let marked = master
                .instance
                .sql()
                .confirm_standby_names("stolon_a", true, SHORT_TIMEOUT)
                .await
                .unwrap();
            assert!(
                matches!(marked, NamesShown::Master { flushed: end } if flushed < Some(end)),
                "{marked:?}"
            );
            let commit = insert(&master.instance, 2);
            waiting(&master.instance).await;
            drop(receiver);
            assert!(acknowledged(commit).await);
            standbys[0].stop().await;
            master.stop().await;
        },
    );
}

/// Facts: synchronous PG3. An operator who ends a wait makes the row visible.
#[test]
fn a_cancelled_or_terminated_wait_makes_the_row_visible_at_once() {
    harness::run(
        "synchronous::a_cancelled_or_terminated_wait_makes_the_row_visible_at_once",
        || async {
            let (master, _) = cluster(&[]).await;
            let names = "stolonfakestandby";
            set_master_names(&master, names).await;
            let shown = master
                .instance
                .sql()
                .confirm_standby_names(names, true, SHORT_TIMEOUT)
                .await
                .unwrap();
            assert!(matches!(shown, NamesShown::Master { .. }), "{shown:?}");
            for (id, function, is_tagged) in [(1, "pg_cancel_backend", true), (2, "pg_terminate_backend", false)] {
                let commit = insert(&master.instance, id);
                let pid = waiting(&master.instance).await.remove(0);
                let hidden = master.execute(&format!("select count(*) from t where id = {id}")).await;
                assert_eq!(hidden, ["0"]);
                master.execute(&format!("select {function}({pid})")).await;
                assert_eq!(acknowledged(commit).await, is_tagged, "{function}");
                eventually("the row to be visible", async || {
                    rows(&master).await.contains(&id.to_string())
                })
                .await;
            }
            master.stop().await;
        },
    );
}

/// Facts: synchronous PG4 and SY-15.
#[test]
fn waiting_commits_succeed_when_the_names_become_empty() {
    harness::run(
        "synchronous::waiting_commits_succeed_when_the_names_become_empty",
        || async {
            let (master, _) = cluster(&[]).await;
            let names = "stolonfakestandby";
            set_master_names(&master, names).await;
            master
                .instance
                .sql()
                .confirm_standby_names(names, true, SHORT_TIMEOUT)
                .await
                .unwrap();
            let commit = insert(&master.instance, 1);
            waiting(&master.instance).await;
            set_master_names(&master, "").await;
            assert!(acknowledged(commit).await);
            master.stop().await;
        },
    );
}

/// Facts: synchronous PG5 and SY-12.
#[test]
fn a_fast_shutdown_acknowledges_nothing_that_waits_and_sends_it_to_the_standbys() {
    harness::run(
        "synchronous::a_fast_shutdown_acknowledges_nothing_that_waits_and_sends_it_to_the_standbys",
        || async {
            let (master, standbys) = cluster(&["stolon_a", "stolon_b"]).await;
            let names = "2 (stolon_a,stolon_b)";
            set_master_names(&master, names).await;
            master
                .instance
                .sql()
                .confirm_standby_names(names, true, SHORT_TIMEOUT)
                .await
                .unwrap();
            wait_shown_in_sync(&master, "stolon_b").await;
            let receiver = Suspended::receiver(&standbys[0]).await;
            let commit = insert(&master.instance, 1);
            waiting(&master.instance).await;
            let stop = master.instance.stop(StopLimits::default());
            let answered = async {
                let is_acknowledged = acknowledged(commit).await;
                drop(receiver); // only now, so that nothing could have been acknowledged before
                is_acknowledged
            };
            let (stopped, is_acknowledged) = tokio::join!(stop, answered);
            assert_eq!((stopped.unwrap(), is_acknowledged), (StopOutcome::Fast, false));
            for standby in &standbys {
                rows_arrive(standby, &["1"]).await;
            }
            master.start(&with(files(&master.instance, &[]), NAMES, names)).await;
            assert_eq!(rows(&master).await, ["1"], "visible after the restart");
            for node in standbys.iter().chain([&master]) {
                node.stop().await;
            }
        },
    );
}

/// Facts: synchronous PG6 and SY-11.
#[test]
fn a_server_that_restarts_by_itself_shows_what_waited() {
    harness::run(
        "synchronous::a_server_that_restarts_by_itself_shows_what_waited",
        || async {
            let (master, _) = cluster(&[]).await;
            let names = "stolonfakestandby";
            let crash = async |id: u32| {
                let commit = insert(&master.instance, id);
                let pid = waiting(&master.instance).await.remove(0);
                send_signal(pid.parse().unwrap(), Signal::KILL);
                assert!(!acknowledged(commit).await);
            };
            set_master_names(&master, names).await;
            master
                .instance
                .sql()
                .confirm_standby_names(names, true, SHORT_TIMEOUT)
                .await
                .unwrap();
            // A connection may still be accepted before the postmaster notices the crash.
            let checkpointer = "select pid from pg_stat_activity where backend_type = 'checkpointer'";
            let before = execute(&master.instance, checkpointer).await;
            crash(1).await;
            eventually("the server to have restarted", async || {
                let now = query(&master.instance, checkpointer).await;
                let pids = now.map(first_column).unwrap_or_default();
                pids.iter().any(|pid| !before.contains(pid))
            })
            .await;
            assert_eq!(rows(&master).await, ["1"]);

            let off = with(files(&master.instance, &[]), "restart_after_crash", "off");
            set_names(&master, off, names).await;
            master
                .instance
                .sql()
                .confirm_standby_names(names, true, SHORT_TIMEOUT)
                .await
                .unwrap();
            crash(2).await;
            eventually("the postmaster to end", async || {
                matches!(*master.instance.child_status().borrow(), ChildStatus::Ended { .. })
            })
            .await;
        },
    );
}

/// Promotes a standby whose checkpointer reads nothing more, after it was given a name that nobody has.
async fn promoted_with_a_suspended_checkpointer(first_names: &str) -> (Node, Node, Suspended) {
    let (master, mut standbys) = cluster(&["stolon_a"]).await;
    let standby = standbys.remove(0);
    let following = follow(&standby.instance, &master.instance, "stolon_a");
    standby.stop().await;
    standby.start(&with(following.clone(), NAMES, first_names)).await;
    wait_streaming(&master, "stolon_a").await;
    let shown = standby
        .instance
        .sql()
        .confirm_standby_names(first_names, true, SHORT_TIMEOUT)
        .await
        .unwrap();
    assert_eq!(shown, NamesShown::InRecovery);
    let checkpointer = Suspended::checkpointer(&standby).await;
    set_names(&standby, following, "other").await;
    let promoted = with(files(&standby.instance, &[]), NAMES, "other");
    standby
        .instance
        .promote(&promoted, INSTANCE_TEST_TIMEOUT)
        .await
        .unwrap();
    (master, standby, checkpointer)
}

/// Facts: synchronous PG10 and SY-7.
#[test]
fn the_first_commit_after_a_promotion_waits_if_the_standby_ran_with_the_name_of_nobody() {
    harness::run(
        "synchronous::the_first_commit_after_a_promotion_waits_if_the_standby_ran_with_the_name_of_nobody",
        || async {
            let (master, new, checkpointer) = promoted_with_a_suspended_checkpointer("stolonfakestandby").await;
            let commit = insert(&new.instance, 1);
            waiting(&new.instance).await;
            drop(checkpointer);
            set_master_names(&new, "").await;
            assert!(acknowledged(commit).await);
            new.stop().await;
            master.stop().await;
        },
    );
}

/// Facts: synchronous PG11 and SY-7.
#[test]
fn after_an_empty_list_the_first_commit_does_not_wait_although_the_names_came_before_the_promotion() {
    harness::run(
        "synchronous::after_an_empty_list_the_first_commit_does_not_wait_although_the_names_came_before_the_promotion",
        || async {
            let (master, new, checkpointer) = promoted_with_a_suspended_checkpointer("").await;
            assert!(acknowledged(insert(&new.instance, 1)).await, "nobody has it");
            drop(checkpointer);
            new.stop().await;
            master.stop().await;
        },
    );
}

/// Rule: synchronous SY-17.
#[test]
fn what_the_keeper_writes_itself_does_not_wait_for_standbys() {
    harness::run(
        "synchronous::what_the_keeper_writes_itself_does_not_wait_for_standbys",
        || async {
            let (master, _) = cluster(&[]).await;
            let names = "stolonfakestandby";
            set_master_names(&master, names).await;
            master
                .instance
                .sql()
                .confirm_standby_names(names, true, SHORT_TIMEOUT)
                .await
                .unwrap();
            master
                .execute("set synchronous_commit = local; drop role \"repl\"\"user\"; alter database postgres set synchronous_commit = on")
                .await;
            let config = master.instance.config();
            roles::set_up(master.instance.sql(), &config.superuser, &config.replication)
                .await
                .unwrap();
            master.instance.sql().create_slot("stolon_x").await.unwrap();
            master.instance.sql().drop_slot("stolon_x").await.unwrap();
            master.stop().await;
        },
    );
}

/// Rule: synchronous SY-19.
#[test]
fn settings_of_synchronous_commit_for_roles_and_databases_are_found() {
    harness::run(
        "synchronous::settings_of_synchronous_commit_for_roles_and_databases_are_found",
        || async {
            let (master, _) = cluster(&[]).await;
            for statement in [
                "create role app",
                "create database \"my db\"",
                "alter role app set synchronous_commit = off",
                "alter database \"my db\" set synchronous_commit = local",
                "alter role app in database \"my db\" set synchronous_commit to 'remote_write'",
                "alter role app set work_mem = '1MB'",
            ] {
                master.execute(statement).await;
            }
            let found = master.instance.sql().commit_levels().await.unwrap();
            let found: Vec<(&str, &str)> = found.iter().map(|(of, value)| (of.as_str(), value.as_str())).collect();
            assert_eq!(
                found,
                [
                    ("database my db", "local"),
                    ("role app", "off"),
                    ("role app in database my db", "remote_write")
                ]
            );
            let position = master
                .instance
                .sql()
                .confirm_standby_names("", false, SHORT_TIMEOUT)
                .await
                .unwrap();
            assert!(
                matches!(position, NamesShown::Master { flushed: end } if end > Lsn(0)),
                "{position:?}"
            );
            let others = master
                .instance
                .sql()
                .confirm_standby_names("other", true, SHORT_TIMEOUT)
                .await
                .unwrap();
            assert_eq!(others, NamesShown::Others(String::new()));
            master.stop().await;
        },
    );
}
