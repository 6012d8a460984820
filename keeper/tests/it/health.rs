//! Health of an instance: queries in the superuser's session, the files when logins are refused, and independence of
//! users' settings.

use std::sync::Arc;

use keeper::postgres::client::session_settings::{self, SessionUser};
use keeper::postgres::instance::Instance;
use keeper::postgres::observe::{Observation, ObserveScope, observe};
use keeper::postgres::server::supervisor::StopLimits;
use model::Lsn;
use stolon_tests::deadlines::INSTANCE_TEST_TIMEOUT;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use crate::harness::{self, Node, eventually, files};
use crate::replication::{copied, follow, wait_streaming};

/// Identity, timeline and position equal those of `IDENTIFY_SYSTEM` once the position rests.
async fn wait_until_identity_agrees(node: &Node) -> Observation {
    let mut seen = Observation::default();
    eventually("the session and IDENTIFY_SYSTEM agree", async || {
        seen = observe(&node.instance, ObserveScope::ALL).await;
        let Ok(identity) = node.instance.replication().identify().await else {
            return false;
        };
        let reported = (
            Some(identity.system_id),
            Some(identity.timeline),
            Some(identity.position),
        );
        (seen.system_id, seen.timeline, seen.position) == reported
    })
    .await;
    assert!(seen.is_healthy, "{:?}", seen.failed);
    seen
}

#[test]
fn the_superuser_s_session_agrees_with_identify_system() {
    harness::run(
        "health::the_superuser_s_session_agrees_with_identify_system",
        || async {
            let old = Node::initialised().await;
            old.start(&files(&old.instance, &[])).await;
            let (new, third) = (copied(&old, "stolon_new").await, copied(&old, "stolon_third").await);
            for node in [&old, &new, &third] {
                assert_eq!(wait_until_identity_agrees(node).await.timeline, Some(1));
            }
            old.stop().await;
            assert_eq!(
                wait_until_identity_agrees(&third).await.timeline,
                Some(1),
                "without a WAL receiver"
            );

            // a new timeline: its master before the first checkpoint there, and a standby that switches to it
            new.instance
                .promote(&files(&new.instance, &[]), INSTANCE_TEST_TIMEOUT)
                .await
                .unwrap();
            assert_eq!(wait_until_identity_agrees(&new).await.timeline, Some(2));
            new.instance.sql().create_slot("stolon_third").await.unwrap();
            let files_of_third = follow(&third.instance, &new.instance, "stolon_third");
            third.instance.reload(&files_of_third).await.unwrap();
            wait_streaming(&new, "stolon_third").await;
            new.execute("create table t (id int)").await;
            eventually("the new timeline", async || {
                wait_until_identity_agrees(&third).await.timeline == Some(2)
            })
            .await;
            new.stop().await;
            let seen = wait_until_identity_agrees(&third).await;
            assert_eq!((seen.timeline, seen.history.len()), (Some(2), 1));
            third.stop().await;
            third.start(&files_of_third).await;
            assert_eq!(
                wait_until_identity_agrees(&third).await.timeline,
                Some(2),
                "after a restart, with no upstream to follow"
            );
            third.stop().await;
        },
    );
}

/// Runs statements in a connection that no setting affects, as another user than the keeper's superuser; returns the
/// first column of the last one's rows.
async fn admin(instance: &Instance, statements: &[&str]) -> Vec<String> {
    let config = instance.config();
    let major = session_settings::major(Some(instance.programs())).await;
    let mut connect = tokio_postgres::Config::new();
    connect
        .host("127.0.0.1")
        .port(config.port)
        .dbname("template1")
        .user("admin")
        .password("admin")
        .options(session_settings::options(major, SessionUser::Superuser));
    let (client, connection) = connect.connect(NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut column = Vec::new();
    for statement in statements {
        let messages = client.simple_query(statement).await;
        let messages = messages.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        let first = |message| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
            _ => None,
        };
        column = messages.into_iter().filter_map(first).collect();
    }
    connection.abort();
    column
}

async fn with_admin() -> Node {
    let node = Node::initialised().await;
    node.start(&files(&node.instance, &[])).await;
    node.execute("create role admin superuser login password 'admin'").await;
    node
}

/// Drops sessions and refusals, as after a start of the keeper.
async fn forget(node: &Node) {
    for sql in [node.instance.sql(), node.instance.observer()] {
        sql.close().await;
        sql.forget_refusals();
    }
}

/// Writes as the admin and checks that an observation returns a position that is not older.
async fn observe_fresh(node: &Node, why: &str) -> Observation {
    let written = admin(
        &node.instance,
        &[
            "create table if not exists public.w (id int)",
            "insert into public.w select 1",
            "select pg_current_wal_flush_lsn()",
        ],
    )
    .await;
    let seen = observe(&node.instance, ObserveScope::ALL).await;
    assert!(seen.is_healthy, "{why}: {:?}", seen.failed);
    assert!(
        seen.position >= Lsn::parse(&written[0]),
        "{why}: {:?} of {written:?}",
        seen.position
    );
    assert_eq!(seen.timeline, Some(1), "{why}");
    assert!(seen.system_id.is_some(), "{why}");
    seen
}

#[test]
fn a_server_that_refuses_logins_is_healthy_with_a_current_position() {
    harness::run(
        "health::a_server_that_refuses_logins_is_healthy_with_a_current_position",
        || async {
            let node = with_admin().await;
            let before = observe_fresh(&node, "before").await;
            assert_eq!(before.logins.superuser, Some(Ok(())));
            assert_eq!(before.logins.replication, Some(Ok(())));
            let refused = |seen: &Observation| {
                let code = |login: &Option<Result<(), keeper::postgres::client::refusal::ServerRefusal>>| match login {
                    Some(Err(refusal)) => refusal.code.clone(),
                    Some(Ok(())) => "ok".to_owned(),
                    None => "-".to_owned(),
                };
                [&seen.logins.superuser, &seen.logins.replication, &seen.logins.database].map(code)
            };
            let password = node.instance.config().superuser.password().unwrap();
            let password = postgres_protocol::escape::escape_literal(&password);
            let restore =
                format!("alter role \"super user\" superuser login valid until 'infinity' password {password}");
            let mut breaking = vec![
                (r#"alter role "super user" password 'other'"#, ["28P01", "ok", "-"]),
                (
                    r#"alter role "super user" valid until '2000-01-01'"#,
                    ["28P01", "ok", "-"],
                ),
                (r#"alter role "super user" nologin"#, ["28000", "ok", "-"]),
            ];
            // From 16 on the role that initdb made stays superuser.
            if node.instance.programs().version().await.unwrap().major < 16 {
                breaking.push((r#"alter role "super user" nosuperuser"#, ["42501", "ok", "-"]));
            }
            for (breaks, expected) in breaking {
                admin(&node.instance, &[breaks]).await;
                // the open session continues, and a refused login is detected beside it
                let kept = observe_fresh(&node, breaks).await;
                assert_eq!(refused(&kept)[0], expected[0], "{breaks}");
                forget(&node).await;
                assert_eq!(refused(&observe_fresh(&node, breaks).await), expected, "{breaks}");
                admin(&node.instance, &[&restore]).await;
                node.instance.observer().forget_refusals();
                assert_eq!(
                    refused(&observe_fresh(&node, &restore).await),
                    ["ok", "ok", "ok"],
                    "{breaks}"
                );
            }
            for (breaks, expected) in [
                (r#"alter role "repl""user" noreplication"#, "42501"),
                (r#"alter role "repl""user" replication nologin"#, "28000"),
                (r#"alter role "repl""user" login password 'other'"#, "28P01"),
            ] {
                admin(&node.instance, &[breaks]).await;
                assert_eq!(
                    refused(&observe_fresh(&node, breaks).await),
                    ["ok", expected, "ok"],
                    "{breaks}"
                );
            }
            // both at once, in a newly started server: the files are read
            admin(&node.instance, &[r#"alter role "super user" nologin"#]).await;
            node.stop().await;
            node.start(&files(&node.instance, &[])).await;
            forget(&node).await;
            for round in 0..3 {
                observe_fresh(&node, &format!("by the files, {round}")).await;
                admin(&node.instance, &["select pg_switch_wal()"]).await;
            }
            admin(&node.instance, &[&restore]).await;
            for breaks in [
                "alter database postgres allow_connections false",
                "drop database postgres with (force)",
            ] {
                admin(&node.instance, &[breaks]).await;
                forget(&node).await;
                let database = &refused(&observe_fresh(&node, breaks).await)[2];
                assert!(["55000", "3D000"].contains(&database.as_str()), "{breaks}: {database}");
                // no session of the keeper prevents copying template1
                admin_elsewhere(&node.instance, "create database copy").await;
                admin(&node.instance, &["drop database copy"]).await;
            }
            admin_elsewhere(&node.instance, "create database postgres").await;
            forget(&node).await;
            assert_eq!(refused(&observe_fresh(&node, "restored").await)[2], "ok");
            node.instance.stop(StopLimits::default()).await.unwrap();
        },
    );
}

/// A statement that must not run in template1.
async fn admin_elsewhere(instance: &Instance, statement: &str) {
    admin(instance, &["create database elsewhere template template0"]).await;
    let config = instance.config();
    let mut connect = tokio_postgres::Config::new();
    connect.host("127.0.0.1").port(config.port).dbname("elsewhere");
    connect.user("admin").password("admin");
    let (client, connection) = connect.connect(NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client
        .simple_query(statement)
        .await
        .unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    drop(client);
    connection.await.unwrap().unwrap();
    eventually("no session elsewhere", async || {
        admin(
            instance,
            &["select 1 from pg_stat_activity where datname = 'elsewhere'"],
        )
        .await
        .is_empty()
    })
    .await;
    admin(instance, &["drop database elsewhere"]).await;
}

/// Settings each of which would break a query or fill the log with it.
const HOSTILE: [(&str, &str); 20] = [
    ("statement_timeout", "1ms"),
    ("lock_timeout", "1ms"),
    ("idle_in_transaction_session_timeout", "1ms"),
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_read_only", "on"),
    ("default_transaction_deferrable", "on"),
    ("synchronous_commit", "remote_apply"),
    ("search_path", "hostile"),
    ("row_security", "off"),
    ("default_tablespace", "nowhere"),
    ("temp_tablespaces", "nowhere"),
    ("session_replication_role", "replica"),
    ("session_preload_libraries", "nonexistent"),
    ("local_preload_libraries", "nonexistent"),
    ("client_encoding", "SQL_ASCII"),
    ("DateStyle", "German"),
    ("bytea_output", "escape"),
    ("standard_conforming_strings", "off"),
    ("client_min_messages", "debug5"),
    ("log_statement", "all"),
];

/// Such settings that not all majors have, and the first one that has each.
const LATER_HOSTILE: [(u32, &str, &str); 2] = [(14, "idle_session_timeout", "1ms"), (17, "transaction_timeout", "1ms")];

/// Returns those that a server of these programs has.
async fn hostile(instance: &Instance) -> Vec<(&'static str, &'static str)> {
    let version = instance.programs().version().await.unwrap();
    let later = LATER_HOSTILE
        .into_iter()
        .filter(|(since, _, _)| *since <= version.major);
    let later = later.map(|(_, name, value)| (name, value));
    HOSTILE.into_iter().chain(later).collect()
}

/// Everything that the keeper queries of a master or a standby works, in new sessions.
async fn assert_works(nodes: [&Node; 2], why: &str) {
    for (number, node) in nodes.into_iter().enumerate() {
        let role = ["master", "standby"][number];
        forget(node).await;
        let seen = observe(&node.instance, ObserveScope::ALL).await;
        let standby = node.instance.sql().standby().await;
        let in_order = seen.is_healthy
            && seen.failed.is_none()
            && seen.logins.superuser == Some(Ok(()))
            && seen.logins.replication == Some(Ok(()))
            && seen.logins.database == Some(Ok(()))
            && standby.as_ref().is_ok_and(|standby| standby.is_some() == (number == 1));
        assert!(in_order, "{role}, {why}: {seen:?} {standby:?}");
        node.instance
            .sql()
            .round_state()
            .await
            .unwrap_or_else(|error| panic!("{role}, {why}: {error}"));
        if number == 0 {
            let sql = node.instance.sql();
            sql.create_slot("hostile")
                .await
                .unwrap_or_else(|error| panic!("{role}, {why}: {error}"));
            sql.drop_slot("hostile")
                .await
                .unwrap_or_else(|error| panic!("{role}, {why}: {error}"));
            let mut login = node.instance.config().superuser.clone();
            login.user = format!(
                "role{}",
                admin(&node.instance, &["select count(*) from pg_roles"]).await[0]
            );
            keeper::postgres::client::roles::set_up(sql, &node.instance.config().superuser, &login)
                .await
                .unwrap_or_else(|error| panic!("{role}, {why}: {error:?}"));
        }
    }
}

async fn replayed(master: &Node, standby: &Node) {
    let written = admin(&master.instance, &["select pg_current_wal_flush_lsn()"]).await;
    eventually("the standby has replayed it", async || {
        let question = format!("select pg_last_wal_replay_lsn() >= '{}'", written[0]);
        admin(&standby.instance, &[&question]).await == ["t"]
    })
    .await;
}

#[test]
fn no_setting_of_users_affects_a_query() {
    harness::run("health::no_setting_of_users_affects_a_query", || async {
        let master = with_admin().await;
        admin(&master.instance, &["create role app"]).await;
        let standby = copied(&master, "stolon_s").await;
        let levels = [
            r#"role "super user" "#,
            "database postgres",
            r#"role "super user" in database postgres"#,
            "role all",
        ];
        let hostile = hostile(&master.instance).await;
        for (name, value) in hostile.iter().copied().chain([("role", "app")]) {
            for level in levels {
                // a role for all of a database, or for all users, is one that the others cannot have
                let set = format!("alter {level} set {name} = '{value}'");
                admin(&master.instance, &[&set]).await;
                replayed(&master, &standby).await;
                assert_works([&master, &standby], &set).await;
                admin(&master.instance, &[&format!("alter {level} reset {name}")]).await;
            }
        }
        // In the configuration file all at once. There transaction_timeout also counts for the login itself, before a
        // session can override it.
        let all: Vec<(&str, &str)> = hostile
            .into_iter()
            .filter(|(name, _)| !name.ends_with("_libraries") && *name != "transaction_timeout")
            .collect();
        let parameters = |instance: &Arc<Instance>| files(instance, &all);
        let load_time = async |node: &Node| admin(&node.instance, &["select pg_conf_load_time()"]).await;
        for (node, of) in [
            (&master, parameters(&master.instance)),
            (&standby, {
                let follows = follow(&standby.instance, &master.instance, "stolon_s");
                keeper::postgres::config::files::ConfigFiles {
                    recovery: follows.recovery,
                    ..parameters(&standby.instance)
                }
            }),
        ] {
            let before = load_time(node).await;
            node.instance.reload(&of).await.unwrap();
            eventually("the files are read", async || load_time(node).await != before).await;
        }
        assert_works([&master, &standby], "pgParameters").await;
        standby.stop().await;
        master.stop().await;
    });
}

#[test]
fn an_abandoned_query_is_cancelled_in_the_server() {
    harness::run("health::an_abandoned_query_is_cancelled_in_the_server", || async {
        let node = with_admin().await;
        let config = node.instance.config().clone();
        // a lock that the query waits for
        let (holder, connection) = {
            let mut connect = tokio_postgres::Config::new();
            connect
                .host("127.0.0.1")
                .port(config.port)
                .dbname("postgres")
                .user("admin")
                .password("admin");
            connect.connect(NoTls).await.unwrap()
        };
        let connection = tokio::spawn(connection);
        holder
            .batch_execute("begin; lock table pg_catalog.pg_settings in access exclusive mode")
            .await
            .unwrap();
        let waiting = "select pid from pg_stat_activity where query like '%pg_settings where pending_restart%' and \
                       state = 'active' and pid <> pg_backend_pid()";
        let question = async { node.instance.sql().round_state().await };
        tokio::select! {
            _ = question => panic!("it waits for a lock"),
            () = eventually("a waiting question", async || !admin(&node.instance, &[waiting]).await.is_empty()) => {}
        }
        eventually("the question is cancelled", async || {
            admin(&node.instance, &[waiting]).await.is_empty()
        })
        .await;
        drop(holder);
        connection.abort();
        node.stop().await;
    });
}
