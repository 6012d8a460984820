//! Start, shutdown, options and metrics of the program.

use std::net::TcpListener;
use std::process::{Command, Output};

use stolon_tests::deadlines::SHORT_TIMEOUT;
use stolon_tests::ports::{self, Port};
use stolon_tests::process::Signal;

use crate::harness::{Client, Master, Proxy, ProxyHarness, command, run_test};

/// Returns an endpoint without a listener.
fn unused_endpoint(port: &Port) -> String {
    format!("http://127.0.0.1:{port}")
}

fn run(options: &[&str]) -> Output {
    let (store, port) = (ports::free(), ports::free());
    command(&unused_endpoint(&store), port.number(), options)
        .output()
        .unwrap()
}

fn assert_refused(options: &[&str], words: &str) {
    let output = run(options);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(words), "{words:?} is not in: {stderr}");
    assert!(output.stdout.is_empty());
}

// cli O-6, cli 18.4, and errors for invalid values
#[test]
fn bad_options_are_named_and_end_with_status_1() {
    // All options are tested beside `args`; here it is about the exit of the program.
    assert_refused(&["--no-such-option"], "--no-such-option");
    assert_refused(
        &["--listen-address=db.example"],
        "--listen-address is \"db.example\": it takes an IP address",
    );
    assert_refused(&["--connect-timeout=soon"], "soon");
    for address in ["somewhere", "127.0.0.1", "127.0.0.1:65536", "localhost:http"] {
        assert_refused(
            &[&format!("--metrics-listen-address={address}")],
            "give host:port or :port",
        );
    }
}

#[test]
fn an_option_from_the_environment_is_used_and_a_bad_one_is_named() {
    let (store, port) = (ports::free(), ports::free());
    let mut bad = command(&unused_endpoint(&store), port.number(), &[]);
    let output = bad.env("STPROXY_CONNECT_TIMEOUT", "soon").output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("STPROXY_CONNECT_TIMEOUT") && stderr.contains("soon"),
        "{stderr}"
    );
}

// proxy P-14
#[test]
fn the_soft_limit_of_descriptors_is_raised_to_the_hard_one() {
    run_test(async {
        let harness = ProxyHarness::start().await;
        let proxy = Proxy::start_with(&harness, &harness.etcd.endpoint(), &[], |command| {
            let mut limited = Command::new("sh");
            limited.args(["-c", "ulimit -S -n 100 && exec \"$0\" \"$@\""]);
            limited.arg(command.get_program()).args(command.get_args());
            *command = limited;
        })
        .await;
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", proxy.process.pid())).unwrap();
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        let limits: Vec<&str> = line.unwrap().split_whitespace().collect();
        assert_eq!(limits[0], limits[1], "soft and hard");
        assert_ne!(limits[0], "100", "there is nothing to raise here");
    });
}

#[test]
fn help_and_version_go_to_standard_output() {
    let help = run(&["--help"]);
    let text = String::from_utf8_lossy(&help.stdout);
    assert_eq!(help.status.code(), Some(0));
    for option in [
        "--listen-address",
        "--port",
        "--stop-listening",
        "--max-connections",
        "--relay-threads",
        "--hold-max",
        "--drain",
    ] {
        assert!(text.contains(option), "{option} is not in: {text}");
    }
    let version = run(&["--version"]);
    assert!(String::from_utf8_lossy(&version.stdout).starts_with("stolon-proxy version "));
}

#[test]
fn a_port_in_use_is_reported_at_start_with_the_remedy() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    assert_refused(&[&format!("--port={port}")], "stop what is there");
    // RFC 5737: an address for documentation
    assert_refused(&["--listen-address=192.0.2.1"], "this machine has no such address");
    assert_refused(
        &[&format!("--metrics-listen-address=127.0.0.1:{port}")],
        "--metrics-listen-address",
    );
}

#[test]
fn the_listening_port_is_logged_also_when_the_system_chose_it() {
    run_test(async {
        let mut harness = ProxyHarness::start().await;
        let master = Master::start(b'A').await;
        let proxy = Proxy::start(&harness, &harness.etcd.endpoint(), &["--port=0"]).await;
        harness.publish(Some(&master), &[&proxy]).await;
        proxy
            .process
            .wait_for_log("proxying to master address", SHORT_TIMEOUT)
            .await;
        let log = proxy.process.log();
        let counts = log
            .split("Starting proxying address=127.0.0.1:")
            .nth(1)
            .expect("the address is logged");
        let port: u16 = counts.split_whitespace().next().unwrap().parse().unwrap();
        let mut client = Client::connect(port).await.unwrap();
        assert_eq!(client.ask().await.unwrap(), Some(b'A'));
        let metrics = format!("serving metrics address=127.0.0.1:{}", proxy.metrics);
        assert_eq!(log.matches(&metrics).count(), 1, "{log}");
    });
}

// an unreachable store is logged once; the proxy waits, and continues when the store is there
#[test]
fn waits_for_an_unreachable_store_and_continues_when_it_is_back() {
    run_test(async {
        let mut harness = ProxyHarness::start().await;
        let master = Master::start(b'A').await;
        harness.etcd.stop().await;
        let proxy = harness.proxy().await;
        proxy.process.wait_for_log("store is unreachable", SHORT_TIMEOUT).await;
        assert!(proxy.connect().await.is_err(), "listens before the store was read");
        harness.etcd.restart().await;
        harness.publish(Some(&master), &[&proxy]).await;
        proxy.wait_connected_to(b'A').await;
        assert_eq!(proxy.process.log().matches("store is unreachable").count(), 1);
    });
}

// proxy P-9, extensions
#[test]
fn a_stop_ends_connections_and_is_published() {
    run_test(async {
        for signal in [Signal::TERM, Signal::INT] {
            let mut harness = ProxyHarness::start().await;
            let (_master, mut proxy) = harness.forwarding().await;
            let client = proxy.wait_connected_to(b'A').await;
            proxy.process.signal(signal);
            assert_eq!(proxy.process.exit_status(SHORT_TIMEOUT).await, 0);
            assert_eq!(client.read_to_end().await, b"");
            let info = harness.info(&proxy).await.unwrap();
            assert!(info.stopped && info.fenced);
            let log = proxy.process.log();
            let warned = |line: &&str| line.contains(" WARN ") && !line.contains("no clusterdata available");
            assert_eq!(log.lines().find(warned), None);
        }
    });
}

// proxy P-9: an unreachable store delays the shutdown by at most one second, also before the first check-in
#[test]
fn a_stop_does_not_wait_for_a_silent_store() {
    run_test(async {
        let mut harness = ProxyHarness::start().await;
        let master = Master::start(b'A').await;
        let store_timeout = SHORT_TIMEOUT * 2;
        let option = format!("--store-timeout={}s", store_timeout.as_secs());
        let mut before_any = Proxy::start(&harness, "http://127.0.0.1:9", &[&option]).await;
        let (status, took) = before_any.stop().await;
        assert_eq!(status, 0);
        assert!(took < store_timeout / 8, "{took:?}");

        let mut proxy = Proxy::start(&harness, &harness.etcd.endpoint(), &[&option]).await;
        harness.publish(Some(&master), &[&proxy]).await;
        let client = proxy.wait_connected_to(b'A').await;
        harness.etcd.freeze().await;
        let (status, took) = proxy.stop().await;
        harness.etcd.thaw();
        assert_eq!(status, 0);
        assert!(took < store_timeout / 8, "{took:?}");
        assert_eq!(client.read_to_end().await, b"");
    });
}

// cli 18.25
#[test]
fn every_metric_is_there_at_the_first_scrape() {
    run_test(async {
        let harness = ProxyHarness::start().await;
        let proxy = harness.proxy().await;
        let text = proxy.scrape().await;
        for series in [
            "stolon_cluster_identifier{cluster_name=\"main\",component=\"proxy\"} 1",
            "stolon_proxy_connections_accepted_total 0",
            "stolon_proxy_connections_open 0",
            "stolon_proxy_connections_refused_total{reason=\"route_closed\"} 0",
            "stolon_proxy_connections_refused_total{reason=\"connect_timeout\"} 0",
            "stolon_proxy_connections_ended_total{reason=\"client\"} 0",
            "stolon_proxy_connections_ended_total{reason=\"lease\"} 0",
            "stolon_proxy_relayed_bytes_total{toward=\"client\"} 0",
            "stolon_proxy_relayed_bytes_total{toward=\"master\"} 0",
            "stolon_proxy_relayed_by_path_bytes_total{path=\"copy\"} 0",
            "stolon_proxy_relayed_by_path_bytes_total{path=\"splice\"} 0",
            "stolon_proxy_splice_refused_total 0",
            "stolon_proxy_batched_streams_total 0",
            "stolon_proxy_connections_held 0",
            "stolon_proxy_holds_total{result=\"carried\"} 0",
            "stolon_proxy_holds_total{result=\"abandoned\"} 0",
            "stolon_proxy_connections_refused_total{reason=\"hold_full\"} 0",
            "stolon_proxy_last_stop_seconds 0",
            "stolon_proxy_last_drop_seconds 0",
            "stolon_proxy_route_open 0",
            "stolon_proxy_checkins_total{result=\"failed\"} 0",
            "stolon_proxy_watch_restarts_total ",
            "stolon_proxy_last_checkin_age_seconds ",
            "stolon_proxy_lease_left_seconds ",
        ] {
            assert!(
                text.lines().any(|line| line.starts_with(series)),
                "{series} is not in {text}"
            );
        }
    });
}

#[test]
fn forwarded_bytes_are_counted_by_direction() {
    run_test(async {
        let mut harness = ProxyHarness::start().await;
        let (master, proxy) = harness.forwarding().await;
        let mut client = proxy.wait_connected_to(b'A').await;
        let before = proxy
            .metric("stolon_proxy_relayed_bytes_total{toward=\"master\"}")
            .await
            .unwrap();
        for _ in 0..10 {
            client.ask().await.unwrap();
        }
        proxy
            .wait_for_metric("stolon_proxy_relayed_bytes_total{toward=\"master\"}", before + 10.0)
            .await;
        proxy
            .wait_for_metric("stolon_proxy_relayed_bytes_total{toward=\"client\"}", before + 10.0)
            .await;
        proxy.wait_for_metric("stolon_proxy_route_open", 1.0).await;
        let connects = proxy.metric("stolon_proxy_connect_seconds_bucket{le=\"+Inf\"}").await;
        assert_eq!(connects, proxy.metric("stolon_proxy_connect_seconds_count").await);
        assert!(connects >= Some(1.0));
        proxy
            .wait_for_metric(&format!("stolon_proxy_master_info{{db=\"{}\"}}", master.db), 1.0)
            .await;
    });
}
