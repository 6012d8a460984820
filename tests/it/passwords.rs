//! Passwords are in no log, and are sent only to the keeper's own server.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use model::Role;
use stolon_tests::cluster::{Cluster, Profile, REPLUSER, SUPERUSER, check, error_text};
use stolon_tests::deadlines::{LONG_TIMEOUT, SHORT_TIMEOUT};
use stolon_tests::process::Signal;
use stolon_tests::wait::{eventually, throughout};

/// A standby follows another master: the server logs its new `primary_conninfo`, which has no password.
#[tokio::test]
async fn no_log_contains_a_password_after_a_failover() {
    let mut cluster = Cluster::builder(Profile::Fast)
        .with(
            "pgParameters",
            serde_json::json!({"dynamic_shared_memory_type": "mmap", "log_statement": "all"}),
        )
        .keepers(0)
        .proxies(0)
        .start()
        .await;
    for (index, role) in [Role::Master, Role::Standby, Role::Standby].iter().enumerate() {
        let uid = cluster.prepare_keeper();
        cluster.program(&uid).options.push("--log-level=debug".to_owned());
        cluster.start(&uid);
        assert_eq!(uid, format!("keeper{index}"));
        cluster.wait_healthy(&uid, role).await;
    }
    let secret = "a user's own secret";
    let sql = cluster.connect("keeper0").await;
    sql.run(&format!(
        "create role somebody login password '{}'",
        secret.replace('\'', "''")
    ))
    .await
    .unwrap();

    for keeper in ["keeper1", "keeper2"] {
        let file = cluster.pgdata(keeper).parent().unwrap().join("replication.pgpass");
        let found = fs::metadata(&file).unwrap();
        assert_eq!(found.mode() & 0o777, 0o600, "{}", file.display());
        let text = fs::read_to_string(cluster.pgdata(keeper).join("postgresql.conf")).unwrap();
        assert!(text.contains("passfile=") && !text.contains("password="), "{text}");
    }

    assert_eq!(cluster.stop("keeper0", Signal::TERM).await, 0);
    let master = cluster.wait_other_master_elected("keeper0", LONG_TIMEOUT).await;
    let other = if master == "keeper1" { "keeper2" } else { "keeper1" };
    cluster.wait_healthy(&master, &Role::Master).await;
    cluster.wait_healthy(other, &Role::Standby).await;
    cluster
        .process(other)
        .wait_for_log("parameter \"primary_conninfo\" changed to", SHORT_TIMEOUT)
        .await;
    cluster.wait_caught_up(other, &master).await;

    let fragments = [
        SUPERUSER.1,
        REPLUSER.1,
        secret,
        "su'pass",
        "su''pass",
        "pass'word",
        "pass\\'word",
        "a user''s",
        "SCRAM-SHA-256$",
    ];
    for keeper in ["keeper0", "keeper1", "keeper2"] {
        let log = cluster.process(keeper).log();
        for line in log.lines() {
            assert!(
                !fragments.iter().any(|fragment| line.contains(fragment)),
                "{keeper} logs a password: {line}"
            );
        }
        assert!(log.contains("starting database"), "the log is complete");
    }
    assert!(
        cluster
            .process("keeper0")
            .log()
            .contains("create role somebody login password '***'")
    );
}

/// A keeper of Go stolon has left a standby running, with the password in its configuration.
#[tokio::test]
async fn a_password_that_a_reference_keeper_wrote_into_the_configuration_is_removed() {
    let mut cluster = Cluster::builder(Profile::Fast)
        .with("failInterval", "60s")
        .start()
        .await;
    cluster.process("keeper1").kill();
    let conf = cluster.pgdata("keeper1").join("postgresql.conf");
    let ours = fs::read_to_string(&conf).unwrap();
    let port = cluster.port("keeper0");
    let theirs = ours.lines().map(|line| match line.starts_with("primary_conninfo") {
        true => format!(
            "primary_conninfo = 'application_name=x host=127.0.0.1 password=theirs port={port} sslmode=prefer user={}'\n",
            REPLUSER.0
        ),
        false => format!("{line}\n"),
    });
    let theirs: String = theirs.collect();
    assert!(theirs.contains("password=theirs"));
    fs::write(&conf, theirs).unwrap();
    cluster.start("keeper1");
    eventually("the configuration without a password", LONG_TIMEOUT, async || {
        let text = fs::read_to_string(&conf).unwrap();
        check(text.contains("passfile=") && !text.contains("theirs"), || text)
    })
    .await;
    cluster.wait_healthy("keeper1", &Role::Standby).await;
    cluster.wait_caught_up("keeper1", "keeper0").await;
    assert!(!cluster.process("keeper1").log().contains("theirs"));
}

/// Listens at a socket in `/tmp`, requests a password in clear text from every client, and records what it receives.
struct FakeServer {
    path: PathBuf,
    received: Arc<Mutex<Vec<u8>>>,
}

impl FakeServer {
    fn listen(port: u16) -> Self {
        let path = PathBuf::from(format!("/tmp/.s.PGSQL.{port}"));
        // A killed server leaves its socket.
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        let received = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&received);
        // The thread ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let kept = Arc::clone(&kept);
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    kept.lock().unwrap().extend(b"a client connected: ");
                    // A client that has disconnected already is recorded, too.
                    let _ = stream.write_all(&[b'R', 0, 0, 0, 8, 0, 0, 0, 3]);
                    let mut bytes = Vec::new();
                    let _ = stream.read_to_end(&mut bytes);
                    kept.lock().unwrap().extend(bytes);
                });
            }
        });
        Self { path, received }
    }

    fn received(&self) -> String {
        String::from_utf8_lossy(&self.received.lock().unwrap()).into_owned()
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Another program listens where Go stolon has its socket: the keeper does not connect there, whether its server
/// runs or not, and the server starts.
#[tokio::test]
async fn the_keeper_never_connects_to_a_socket_in_tmp() {
    let mut cluster = Cluster::builder(Profile::Fast)
        .with("failInterval", "60s")
        .keepers(1)
        .start()
        .await;
    let port = cluster.port("keeper0");
    let private = cluster.pgdata("keeper0").parent().unwrap().join("socket");
    assert_eq!(fs::metadata(&private).unwrap().mode() & 0o777, 0o700);
    assert!(private.join(format!(".s.PGSQL.{port}")).exists());
    assert!(
        PathBuf::from(format!("/tmp/.s.PGSQL.{port}")).exists(),
        "the second socket, for other clients"
    );

    assert_eq!(cluster.stop("keeper0", Signal::INT).await, 0);
    let fake_server = FakeServer::listen(port);
    // The port is in use for a while, so that the keeper has a server that does not run.
    let listener_on_port = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    cluster.start("keeper0");
    cluster
        .process("keeper0")
        .wait_for_log("failed to start postgres", LONG_TIMEOUT)
        .await;
    throughout("no connection", Duration::from_secs(3), async || {
        check(fake_server.received().is_empty(), || fake_server.received())
    })
    .await;
    drop(listener_on_port);
    cluster.wait_healthy("keeper0", &Role::Master).await;
    cluster.wait_proxy_serves("proxy0").await;
    cluster.kill_postmaster("keeper0");
    cluster.wait_proxy_serves("proxy0").await;
    assert_eq!(fake_server.received(), "");
}

/// A master stores its passwords as md5, like a cluster of Go stolon.
#[tokio::test]
async fn passwords_stored_as_md5_still_work() {
    let mut cluster = Cluster::builder(Profile::Fast).start().await;
    let sql = cluster.connect("keeper0").await;
    let quoted = |text: &str| text.replace('\'', "''");
    for (user, password) in [SUPERUSER, REPLUSER] {
        let password = quoted(password);
        let set = format!(
            "set password_encryption = 'md5'; alter role {user} password '{}'",
            password
        );
        // standard_conforming_strings is on: a backslash needs no escape.
        sql.run(&set).await.unwrap();
    }
    let stored = sql
        .value("select count(*) from pg_authid where rolpassword like 'md5%'")
        .await;
    assert_eq!(stored.unwrap(), "2");
    for uid in ["keeper1", "keeper0"] {
        assert_eq!(cluster.stop(uid, Signal::INT).await, 0);
        cluster.start(uid);
    }
    let master = eventually("a master", LONG_TIMEOUT, async || {
        cluster.master().await.map_err(error_text)
    })
    .await;
    let other = if master == "keeper0" { "keeper1" } else { "keeper0" };
    cluster.wait_healthy(&master, &Role::Master).await;
    cluster.wait_healthy(other, &Role::Standby).await;
    cluster.wait_caught_up(other, &master).await;
}
