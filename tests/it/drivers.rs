//! Common clients through a proxy: psql, pgbench, tokio-postgres, and in Python psycopg 3 (libpq) and asyncpg (without
//! libpq). TLS, cancelled statements, and failovers.

mod clients;

use stolon_tests::certificates::Certificates;
use stolon_tests::cluster::{Cluster, ClusterBuilder, Profile, check, db_of, error_text};
use stolon_tests::deadlines::{LONG_TIMEOUT, SHORT_TIMEOUT};
use stolon_tests::pg_programs;
use stolon_tests::process::Signal;
use stolon_tests::test_dir;
use stolon_tests::wait::eventually;
use stolon_tests::writers::{Writers, lost_rows};
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

use self::clients::{Client, InteractiveProgram, pgbench, psql, psql_at_a_terminal, run, start};

/// Rows of some 100 bytes each: about 5 MB.
const BULK: &str = "select n || repeat(' one row of a long answer', 4) from generate_series(1, 50000) n";

// ---- TLS

/// Makes an authority `ca`, and a certificate `server` for the proxies' address.
fn server_certificates() -> Certificates {
    let made = Certificates::with_authorities(&["ca"]);
    made.sign("server", "ca", "subjectAltName=IP:127.0.0.1,DNS:localhost");
    made.make_readable_by("server", test_dir::postgres_user().as_ref());
    made
}

/// Turns TLS on in the cluster's servers.
fn with_tls(cluster: ClusterBuilder, certificates: &Certificates) -> ClusterBuilder {
    let mut parameters = Profile::Fast.spec()["pgParameters"].clone();
    parameters["ssl"] = "on".into();
    parameters["ssl_cert_file"] = certificates.path("server.pem").to_string_lossy().into();
    parameters["ssl_key_file"] = certificates.path("server.key").to_string_lossy().into();
    cluster.with("pgParameters", parameters)
}

/// TLS is between client and server (proxy P-16): the certificate that psql checks is the server's, with the proxy's
/// address, and channel binding ties the login to this TLS session.
#[tokio::test]
async fn tls_is_end_to_end_between_psql_and_the_server() {
    let tls = server_certificates();
    let cluster = with_tls(Cluster::builder(Profile::Fast).keepers(1), &tls).start().await;
    let is_tls = "select ssl, version from pg_stat_ssl where pid = pg_backend_pid()";

    let ca = tls.path("ca.pem");
    let mut modes = vec![
        "sslmode=require".to_owned(),
        "sslmode=require channel_binding=require".to_owned(),
        format!(
            "sslmode=verify-full sslrootcert={} host=localhost hostaddr=127.0.0.1",
            ca.display()
        ),
    ];
    // libpq compares addresses in certificates from 15 on.
    if pg_programs::major() >= 15 {
        modes.push(format!("sslmode=verify-full sslrootcert={}", ca.display()));
    }
    for mode in modes {
        let run = run(psql(&cluster, &mode, &["-c", is_tls]), "").await;
        assert_eq!((run.status, run.out.trim_end()), (0, "t|TLSv1.3"), "{mode}: {run:?}");
    }
    let plain = run(psql(&cluster, "sslmode=disable", &["-c", is_tls]), "").await;
    assert_eq!((plain.status, plain.out.trim_end()), (0, "f|"), "{plain:?}");

    let elsewhere = format!(
        "sslmode=verify-full sslrootcert={} host=elsewhere hostaddr=127.0.0.1",
        ca.display()
    );
    let refused = run(psql(&cluster, &elsewhere, &["-c", is_tls]), "").await;
    assert_eq!(refused.status, 2, "{refused:?}");
    assert!(refused.err.contains("does not match host name"), "{refused:?}");
}

/// Megabytes in each direction, encrypted (proxy P-16).
#[tokio::test]
async fn bulk_data_arrive_complete_over_tls() {
    let tls = server_certificates();
    let cluster = with_tls(Cluster::builder(Profile::Fast).keepers(1), &tls).start().await;
    let expected: String = (1..=50_000)
        .map(|row| format!("{row}{}\n", " one row of a long answer".repeat(4)))
        .collect();

    let answer = run(psql(&cluster, "sslmode=require", &["-c", BULK]), "").await;
    assert_eq!(answer.status, 0, "{}", answer.err);
    assert!(
        answer.out == expected,
        "{} of {} bytes",
        answer.out.len(),
        expected.len()
    );

    let copy_in = [
        "-q",
        "-c",
        "create table bulk (line text)",
        "-c",
        "copy bulk from stdin",
        "-c",
        "copy bulk to stdout",
    ];
    let there_and_back = run(psql(&cluster, "sslmode=require", &copy_in), &expected).await;
    assert_eq!(there_and_back.status, 0, "{}", there_and_back.err);
    assert!(
        there_and_back.out == expected,
        "{} of {} bytes",
        there_and_back.out.len(),
        expected.len()
    );
}

// ---- cancel requests

/// A cancel request is a separate connection, and reaches the server that runs the statement (proxy P-16).
#[tokio::test]
async fn a_statement_is_cancelled_through_the_proxy() {
    let tls = server_certificates();
    let cluster = with_tls(Cluster::builder(Profile::Fast).keepers(1), &tls).start().await;
    let statement = "select pg_sleep(600)";

    let (client, connection) = cluster.sql_config("proxy0").connect(NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let token = client.cancel_token();
    let (slept, ()) = tokio::join!(
        tokio::time::timeout(SHORT_TIMEOUT, client.batch_execute(statement)),
        async {
            wait_running(&cluster, statement).await;
            token.cancel_query(NoTls).await.unwrap();
        }
    );
    let error = slept.expect("it ends at once").unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED), "{error}");
    client.batch_execute("select 1").await.expect("the session continues");
    connection.abort();

    // Ctrl-C
    for mode in ["sslmode=disable", "sslmode=require"] {
        let arguments = ["-v", "VERBOSITY=sqlstate", "-c", statement];
        let mut psql = start(&cluster, "psql", psql(&cluster, mode, &arguments));
        wait_running(&cluster, statement).await;
        psql.signal(Signal::INT);
        assert_eq!(psql.exit_status(SHORT_TIMEOUT).await, 1);
        let output = psql.log();
        assert!(output.contains("ERROR:  57014"), "{mode}: {output}");
    }
}

/// Waits until exactly one session runs this statement.
async fn wait_running(cluster: &Cluster, statement: &str) {
    let sql = cluster.connect("proxy0").await;
    let count = format!("select count(*) from pg_stat_activity where state = 'active' and query = '{statement}'");
    eventually(format!("{statement} to run"), LONG_TIMEOUT, async || {
        let running = sql.value(&count).await.map_err(error_text)?;
        check(running == "1", || format!("{running} sessions run it"))
    })
    .await;
}

// ---- failovers

/// The master's keeper is shut down while applications write (extensions, proxy P-6): each is disconnected,
/// connects again and continues, and every row whose commit was acknowledged is on the new master.
#[tokio::test]
async fn every_driver_reconnects_after_an_orderly_failover_and_no_acknowledged_row_is_lost() {
    let tls = server_certificates();
    let cluster = Cluster::builder(Profile::Fast).with("failInterval", "120s");
    let mut cluster = with_tls(cluster, &tls).start().await;
    let sql = cluster.connect("proxy0").await;
    Writers::create_table(&sql).await.unwrap();
    sql.run("create table rows (client text, id bigint, primary key (client, id))")
        .await
        .unwrap();
    let init = run(pgbench(&cluster, &["-i", "-q"]), "").await;
    assert_eq!(init.status, 0, "{init:?}");

    let tokio_postgres = Writers::start(&cluster.sql_config("proxy0"), 1);
    let mut clients = [
        Client::start(&cluster, "psycopg", "write", &[("PGSSLMODE", "require")]),
        Client::start(
            &cluster,
            "asyncpg",
            "write",
            &[
                ("PGSSLMODE", "verify-full"),
                ("PGSSLROOTCERT", &tls.path("ca.pem").to_string_lossy()),
            ],
        ),
    ];
    let mut bench = start(&cluster, "pgbench", pgbench(&cluster, &["-c", "2", "-T", "600"]));
    let old = cluster.port("keeper0");
    tokio_postgres.wait_each_client_commits(10).await;
    for client in &mut clients {
        client.served_by(old).await;
    }
    eventually("pgbench to write", LONG_TIMEOUT, async || {
        let rows = sql
            .value("select count(*) from pgbench_history")
            .await
            .map_err(error_text)?;
        check(rows != "0", || "nothing yet".to_owned())
    })
    .await;

    cluster.process("keeper0").signal(Signal::TERM);

    assert_eq!(
        cluster.wait_other_master_elected("keeper0", LONG_TIMEOUT).await,
        "keeper1"
    );
    tokio_postgres.wait_each_client_commits(10).await;
    for client in &mut clients {
        client.served_by(cluster.port("keeper1")).await;
    }
    let new_master = cluster.connect("proxy0").await;
    assert_eq!(
        lost_rows(&new_master, &tokio_postgres.stop()).await.unwrap(),
        0,
        "tokio-postgres"
    );
    for client in clients {
        client.nothing_lost(&new_master).await;
    }

    // pgbench does not connect again: it reports that and exits. Its next run is served at once.
    assert_eq!(bench.exit_status(SHORT_TIMEOUT).await, 2);
    let output = bench.log();
    assert!(output.contains("Run was aborted"), "{output}");
    for arguments in [&["-c", "2", "-t", "20"][..], &["-c", "2", "-t", "20", "-C"]] {
        let again = run(pgbench(&cluster, arguments), "").await;
        assert_eq!(again.status, 0, "{again:?}");
        assert!(again.out.contains("actually processed: 40/40"), "{again:?}");
    }
}

/// The master fails (proxy P-6): psql at a terminal reports the lost connection at the next statement and reconnects;
/// psql that reads a script exits.
#[tokio::test]
async fn interactive_psql_reconnects_and_psql_with_a_script_exits_with_status_2() {
    let mut cluster = Cluster::builder(Profile::Fast).start().await;
    let mut terminal = InteractiveProgram::start(&cluster, "terminal", psql_at_a_terminal(&cluster));
    let mut reader = InteractiveProgram::start(&cluster, "reader", psql(&cluster, "sslmode=prefer", &[]));
    for psql in [&mut terminal, &mut reader] {
        psql.types("select 'answer ' || 'one';");
        psql.process.wait_for_log("answer one", LONG_TIMEOUT).await;
    }

    cluster.kill_keeper_and_postgres("keeper0");
    assert_eq!(
        cluster.wait_other_master_elected("keeper0", SHORT_TIMEOUT).await,
        "keeper1"
    );
    cluster.wait_proxy_serves("proxy0").await;

    reader.types("select 'answer ' || 'two';\nselect 'answer ' || 'three';");
    assert_eq!(reader.process.exit_status(SHORT_TIMEOUT).await, 2);
    let output = reader.process.log();
    assert!(
        output.contains("connection to server was lost") && !output.contains("answer two"),
        "{output}"
    );

    terminal.types("select 'answer ' || 'two';");
    terminal
        .process
        .wait_for_log(
            "The connection to the server was lost. Attempting reset: Succeeded.",
            SHORT_TIMEOUT,
        )
        .await;
    terminal.types("select 'answer ' || inet_server_port();");
    terminal
        .process
        .wait_for_log(&format!("answer {}", cluster.port("keeper1")), SHORT_TIMEOUT)
        .await;
    terminal.types("\\q");
    assert_eq!(terminal.process.exit_status(SHORT_TIMEOUT).await, 0);
    let output = terminal.process.log();
    assert!(!output.contains("answer two"), "{output}");
}

/// Clients that connect while no master is announced are held by the proxy and served by the new master (proxy P-8).
#[tokio::test]
async fn clients_that_connect_during_a_failover_are_held_and_served_by_the_new_master() {
    let cluster = Cluster::builder(Profile::Fast).with("failInterval", "120s").proxies(0);
    let mut cluster = cluster.start().await;
    let proxy = cluster.prepare_proxy();
    cluster.program(&proxy).options.push("--hold=60s".to_owned());
    cluster.start(&proxy);
    cluster.wait_proxy_serves(&proxy).await;

    // The first report of a new standby has no timeline yet, which an election needs.
    eventually("keeper1 to be electable", SHORT_TIMEOUT, async || {
        let data = cluster.data().await.map_err(error_text)?;
        let (_, db) = db_of(&data, "keeper1").map_err(error_text)?;
        check(db.status.timeline_id == 1, || "its timeline is not known".to_owned())
    })
    .await;

    // The failover stops halfway: the operator marks the master as failed, and the elected standby's keeper is frozen.
    cluster.process("keeper1").freeze(SHORT_TIMEOUT).await;
    cluster.kill_keeper_and_postgres("keeper0");
    let (status, output) = cluster.stolonctl(&["failkeeper", "keeper0"]).await;
    assert_eq!(status, 0, "{output}");
    assert_eq!(
        cluster.wait_other_master_elected("keeper0", LONG_TIMEOUT).await,
        "keeper1"
    );
    eventually(
        "the master to be withdrawn from the proxies",
        SHORT_TIMEOUT,
        async || {
            check(cluster.proxied_master().await.is_err(), || {
                "one is announced".to_owned()
            })
        },
    )
    .await;
    let clients = ["psycopg", "asyncpg"].map(|driver| Client::start(&cluster, driver, "ask", &[]));
    eventually("both clients to be held", LONG_TIMEOUT, async || {
        let process = cluster.process(&proxy);
        process.signal(Signal::USR1);
        check(process.log().contains("held=2"), || process.tail(1))
    })
    .await;

    cluster.process("keeper1").signal(Signal::CONT);

    for mut client in clients {
        assert_eq!(client.process.exit_status(LONG_TIMEOUT).await, 0);
        let new_master = format!("connected {}\n", cluster.port("keeper1"));
        assert_eq!(client.process.log(), new_master);
    }
}
