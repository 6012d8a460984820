//! Keepers as services: what systemd is notified of, the pages that load balancers ask, and the metrics of all programs.

use std::path::Path;
use std::process::Command;

use daemon::telemetry::{MetricKind, MetricRow, SHARED_METRICS};
use model::Role;
use stolon_tests::cluster::{Cluster, Profile, check};
use stolon_tests::deadlines::LONG_TIMEOUT;
use stolon_tests::http;
use stolon_tests::ports;
use stolon_tests::process::{Process, Signal};
use stolon_tests::sql::SqlClient;
use stolon_tests::wait::eventually;
use tokio_postgres::Config;

use crate::services::{notifying, wait_page};

/// Starts two keepers with pages; returns their addresses.
async fn two_keepers(cluster: &mut Cluster) -> [String; 2] {
    let names = [cluster.prepare_keeper(), cluster.prepare_keeper()];
    let pages = [0, 1].map(|at: usize| cluster.serve_pages(&names[at]));
    for (name, role) in names.iter().zip([Role::Master, Role::Standby]) {
        cluster.start(name);
        cluster.wait_healthy(name, &role).await;
    }
    pages
}

#[tokio::test]
async fn systemd_is_notified_of_a_keeper_s_role() {
    let mut cluster = Cluster::builder(Profile::Fast).keepers(0).proxies(0).start().await;
    let keepers = [cluster.prepare_keeper(), cluster.prepare_keeper()];
    let sockets = [0, 1].map(|at: usize| notifying(&mut cluster, &keepers[at]));
    for (name, role) in keepers.iter().zip([Role::Master, Role::Standby]) {
        cluster.start(name);
        cluster.wait_healthy(name, &role).await;
    }
    let lines = [
        "STATUS=master, 1 standby streaming",
        "STATUS=standby of keeper0, 0 bytes behind",
    ];
    for (socket, line) in sockets.iter().zip(lines) {
        socket.wait_line("READY=1").await;
        socket.wait_line("WATCHDOG=1").await;
        socket.wait_line(line).await;
    }
    assert_eq!(cluster.stop(&keepers[1], Signal::TERM).await, 0);
    sockets[1].wait_line("STOPPING=1").await;
    sockets[0].wait_line("STATUS=master, 0 standbys streaming").await;
}

#[tokio::test]
async fn pages_tell_the_master_from_a_standby_through_a_failover() {
    let mut cluster = Cluster::builder(Profile::Fast).keepers(0).proxies(0).start().await;
    let pages = two_keepers(&mut cluster).await;
    wait_page(&pages[0], "/primary", 200, "\"role\":\"master\"").await;
    wait_page(&pages[0], "/readyz", 200, "master, 1 standby streaming").await;
    wait_page(&pages[0], "/standby", 503, "the cluster data have it as the master").await;
    wait_page(&pages[1], "/standby", 200, "\"streaming\":true").await;
    wait_page(&pages[1], "/standby?lag=16MB", 200, "\"lag\":").await;
    wait_page(&pages[1], "/readyz", 200, "standby of keeper0").await;
    let (status, body) = http::get(&pages[1], "/standby?lag=16mb").unwrap();
    assert!(status == 400 && body.contains("kB, MB, GB and TB"), "{status}: {body}");
    assert_eq!(http::get(&pages[1], "/primary").unwrap().0, 503);

    // Its PostgreSQL is gone, too: another master is elected; the old one comes back as a standby.
    cluster.kill_keeper_and_postgres("keeper0");
    wait_page(&pages[1], "/primary", 200, "\"role\":\"master\"").await;
    cluster.start("keeper0");
    eventually("the old master to be a standby", LONG_TIMEOUT, async || {
        let (primary, body) = http::get(&pages[0], "/primary").map_err(|error| error.to_string())?;
        assert_eq!(primary, 503, "an old master that was replaced: {body}");
        let (standby, body) = http::get(&pages[0], "/standby").map_err(|error| error.to_string())?;
        check(standby == 200, || body)
    })
    .await;

    // Without the store a keeper cannot find out whether another master is elected. The loop goes on.
    cluster.etcd.kill();
    wait_page(&pages[1], "/primary", 503, "there may be another master").await;
    wait_page(&pages[1], "/readyz", 503, "there may be another master").await;
    assert_eq!(http::get(&pages[1], "/healthz").unwrap().0, 200);
}

#[tokio::test]
async fn every_metric_of_the_tables_is_exported_and_no_other() {
    let mut cluster = Cluster::builder(Profile::Fast).without_programs().start().await;
    let sentinel = cluster.prepare_sentinel();
    let sentinel_page = cluster.serve_pages(&sentinel);
    // Before it has read the store.
    cluster.start(&sentinel);
    wait_metrics(&sentinel_page, sentinel::metrics::TABLE).await;
    let keepers = two_keepers(&mut cluster).await;
    let proxy = cluster.prepare_proxy();
    let proxy_page = cluster.serve_pages(&proxy);
    cluster.start(&proxy);
    cluster.wait_proxy_serves(&proxy).await;
    for (address, table) in [
        (&sentinel_page, sentinel::metrics::TABLE),
        (&keepers[0], keeper::metrics::TABLE),
        (&keepers[1], keeper::metrics::TABLE),
        (&proxy_page, proxy::metrics::TABLE),
    ] {
        wait_metrics(address, table).await;
    }
    let lines = [
        (&keepers[0], "stolon_keeper_role{role=\"master\"} 1"),
        (&keepers[0], "stolon_keeper_healthy 1"),
        (&keepers[0], "stolon_keeper_timeline 1"),
        (&keepers[0], "stolon_keeper_streaming_standbys 1"),
        (
            &keepers[0],
            "stolon_keeper_standby_flush_lag_bytes{standby=\"keeper1\"} 0",
        ),
        (
            &keepers[0],
            "stolon_keeper_standby_replay_lag_bytes{standby=\"keeper1\"} 0",
        ),
        (&keepers[0], "stolon_keeper_postgres_ends_total "),
        (&keepers[1], "stolon_keeper_role{role=\"standby\"} 1"),
        (&keepers[1], "stolon_keeper_replay_lag_bytes 0"),
        (&keepers[1], "stolon_keeper_receive_lag_bytes 0"),
        (&sentinel_page, "stolon_sentinel_master_announced 1"),
        (&sentinel_page, "stolon_sentinel_healthy_standbys 1"),
        (&sentinel_page, "stolon_sentinel_keepers_failed 0"),
        (&sentinel_page, "stolon_sentinel_last_failover_seconds 0"),
    ];
    for (address, line) in lines {
        wait_page(address, "/metrics", 200, &format!("\n{line}")).await;
    }
    cluster.kill_keeper_and_postgres("keeper0");
    wait_page(
        &sentinel_page,
        "/metrics",
        200,
        "\nstolon_sentinel_elections_total{reason=\"failed\"} 1",
    )
    .await;
    wait_page(&sentinel_page, "/metrics", 200, "\nstolon_sentinel_keepers_failed 1").await;
    eventually("the phases to be measured", LONG_TIMEOUT, async || {
        let (_, text) = http::get(&sentinel_page, "/metrics").map_err(|error| error.to_string())?;
        let values = ["election", "promotion", "announcement"].map(|phase| {
            value(
                &text,
                &format!("stolon_sentinel_last_failover_phase_seconds{{phase=\"{phase}\"}}"),
            )
        });
        let changed = value(&text, "stolon_sentinel_last_failover_seconds");
        // One round may detect and elect, or find the promotion and announce it.
        let is_measured = values[1] > 0.0 && values.iter().all(|seconds| (0.0..180.0).contains(seconds));
        check(is_measured && changed > 1e9, || format!("{values:?} {changed}"))
    })
    .await;
    assert_eq!(
        value(&http::get(&keepers[1], "/metrics").unwrap().1, "stolon_keeper_timeline"),
        2.0
    );
}

/// Waits until a program answers, and compares its page with its table.
async fn wait_metrics(address: &str, table: &[MetricRow]) {
    // The server starts a moment before the program registers its metrics.
    wait_page(address, "/metrics", 200, table[0].name).await;
    let (_, text) = http::get(address, "/metrics").unwrap();
    let rows = || SHARED_METRICS.iter().chain(table);
    for row in rows() {
        let kind = format!("{:?}", row.kind).to_lowercase();
        let line = format!("\n# TYPE {} {kind}\n", row.name);
        assert!(format!("\n{text}").contains(&line), "{}: {text}", row.name);
        for values in row.fixed_series() {
            let series = row.series_name(&values);
            let series = match row.kind {
                MetricKind::Histogram => series.replacen(row.name, &format!("{}_count", row.name), 1),
                MetricKind::Counter | MetricKind::Gauge => series,
            };
            assert!(text.contains(&format!("\n{series} ")), "{series}: {text}");
        }
    }
    let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    for name in names.filter_map(|line| line.split(' ').next()) {
        assert!(rows().any(|row| row.name == name), "{name} is in no table");
    }
}

/// The value of a series; -1 without one.
fn value(text: &str, series: &str) -> f64 {
    let start = format!("{series} ");
    let found = text.lines().find_map(|line| line.strip_prefix(&start));
    found.and_then(|value| value.parse().ok()).unwrap_or(-1.0)
}

/// HAProxy with `httpchk` on `/primary` sends clients to the master only.
#[tokio::test]
async fn haproxy_follows_the_master_by_its_page() {
    let haproxy = ["/usr/sbin/haproxy", "/usr/bin/haproxy", "/usr/local/sbin/haproxy"];
    let haproxy = haproxy.into_iter().find(|path| Path::new(path).exists());
    let haproxy = haproxy.expect("HAProxy is missing: run scripts/install-deps, or apt-get install haproxy");
    let mut cluster = Cluster::builder(Profile::Fast).keepers(0).proxies(0).start().await;
    let pages = two_keepers(&mut cluster).await;
    let port = ports::free();
    let server = |at: usize| {
        let port = cluster.port(&format!("keeper{at}"));
        let check_port = pages[at].rsplit_once(':').unwrap().1;
        format!(
            "    server keeper{at} 127.0.0.1:{port} check port {check_port} inter 200ms fall 1 rise 1 on-marked-down shutdown-sessions\n"
        )
    };
    let configuration = format!(
        "defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 1h\n    timeout server 1h\n    timeout check 5s\n\
         listen master\n    bind 127.0.0.1:{port}\n    option httpchk GET /primary\n    http-check expect status 200\n{}{}",
        server(0),
        server(1)
    );
    let path = cluster.dir().path().join("haproxy.cfg");
    std::fs::write(&path, configuration).unwrap();
    let mut command = Command::new(haproxy);
    command.arg("-db").arg("-f").arg(&path);
    let _running = Process::start("haproxy", command, None, &cluster.dir().path().join("haproxy.log"));

    let of_keeper = cluster.sql_config("keeper0");
    let mut config = Config::new();
    config.host("127.0.0.1").port(port.number()).dbname("postgres");
    config
        .user(of_keeper.get_user().unwrap())
        .password(of_keeper.get_password().unwrap_or_default());
    let server_port = async || -> anyhow::Result<String> {
        let client = SqlClient::connect(&config).await?;
        client
            .value("select current_setting('port') || pg_is_in_recovery()::text")
            .await
    };
    for master in ["keeper0", "keeper1"] {
        let expected = format!("{}false", cluster.port(master));
        eventually(format!("clients to reach {master}"), LONG_TIMEOUT, async || {
            let found = server_port().await.map_err(|error| format!("{error:#}"))?;
            check(found == expected, || found)
        })
        .await;
        if master == "keeper0" {
            cluster.kill_keeper_and_postgres(master);
        }
    }
}
