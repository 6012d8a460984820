//! `register` as a whole, with a fake Consul agent (cli 15, cli 18.23). Its requests and what it compares are in the
//! program's own tests.

use std::process::Command;

use serde_json::{Value, json};
use stolon_tests::certificates::Certificates;
use stolon_tests::cluster::check;
use stolon_tests::consul::{ConsulMode, FakeConsul};
use stolon_tests::deadlines::SHORT_TIMEOUT;
use stolon_tests::etcd::ServerTls;
use stolon_tests::process::{Process, Signal};
use stolon_tests::wait::eventually;
use tempfile::TempDir;

use crate::harness::{CLUSTER, CtlHarness, stolonctl};

/// Returns the cluster data with a healthy d1 (the master) and d2 at these ports.
fn healthy(ports: [&str; 2]) -> String {
    let mut data: Value = serde_json::from_str(CLUSTER).unwrap();
    for (uid, port) in ["d1", "d2"].into_iter().zip(ports) {
        let status = &mut data["dbs"][uid]["status"];
        *status = json!({"healthy": true, "listenAddress": "10.0.0.1", "port": port, "synchronousStandbys": null});
    }
    data.to_string()
}

/// Returns the body of the registration that is expected.
fn registration(id: &str, tags: &[&str], port: i64) -> Value {
    json!({
        "ID": id, "Name": "c", "Tags": tags, "Port": port, "Address": "10.0.0.1",
        "Check": {"Interval": "10s", "TCP": format!("10.0.0.1:{port}")}, "Checks": null,
    })
}

/// A running `stolonctl register` and its log.
struct Register {
    process: Process,
    _dir: TempDir,
}

impl Register {
    fn start(harness: &CtlHarness, agent: &str, options: &[&str], variables: &[(&str, &str)]) -> Self {
        let dir = TempDir::with_prefix("stolon-register.").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_stolonctl"));
        command
            .args([
                "register",
                "--cluster-name=c",
                "--store-backend=etcdv3",
                "--sleep-interval=1",
            ])
            .arg(format!("--store-endpoints={}", harness.etcd.endpoint()))
            .arg(format!("--register-endpoints={agent}"))
            .args(options)
            .envs(variables.iter().copied());
        let process = Process::start("register", command, None, &dir.path().join("log"));
        Self { process, _dir: dir }
    }

    async fn wait_for_log(&self, text: &str) {
        self.process.wait_for_log(text, SHORT_TIMEOUT).await;
    }

    async fn stop(mut self, signal: Signal) -> i32 {
        self.process.signal(signal);
        self.process.exit_status(SHORT_TIMEOUT).await
    }
}

async fn wait_services(agent: &FakeConsul, expected: &[Value]) {
    eventually("the services in Consul", SHORT_TIMEOUT, async || {
        let services: Vec<Value> = agent.services().into_values().collect();
        check(services == expected, || format!("{services:?}"))
    })
    .await;
}

#[tokio::test]
async fn healthy_dbs_are_registered_and_what_is_gone_is_removed() {
    let harness = CtlHarness::with(&healthy(["5432", "5433"])).await;
    let agent = FakeConsul::start();
    agent.add("old", registration("old", &["slave"], 5432));
    let mut other = registration("other", &["slave"], 5432);
    other["Name"] = "another".into();
    agent.add("other", other.clone());
    let options = ["--register-master", "--tag-master-as=rw,m", "--tag-slave-as=ro"];
    let register = Register::start(&harness, agent.url(), &options, &[]);
    let (d1, d2) = (
        registration("d1", &["rw", "m"], 5432),
        registration("d2", &["ro"], 5433),
    );
    wait_services(&agent, &[d1.clone(), d2, other.clone()]).await;

    // A db that moves is removed, then registered again.
    let before = agent.requests().len();
    harness.put(&healthy(["5432", "5434"])).await;
    let moved = registration("d2", &["ro"], 5434);
    wait_services(&agent, &[d1.clone(), moved, other.clone()]).await;
    let changes: Vec<String> = agent.requests()[before..]
        .iter()
        .filter(|request| request.method == "PUT")
        .map(|request| request.target.clone())
        .collect();
    assert_eq!(
        changes,
        ["/v1/agent/service/deregister/d2", "/v1/agent/service/register"]
    );

    // An unhealthy db is removed.
    let mut data: Value = serde_json::from_str(&healthy(["5432", "5434"])).unwrap();
    data["dbs"]["d2"]["status"]["healthy"] = false.into();
    harness.put(&data.to_string()).await;
    wait_services(&agent, &[d1.clone(), other.clone()]).await;

    // At its end all registrations stay.
    assert_eq!(register.stop(Signal::TERM).await, 0);
    wait_services(&agent, &[d1, other]).await;
}

#[tokio::test]
async fn the_master_is_registered_only_on_request() {
    let harness = CtlHarness::with(&healthy(["5432", "5433"])).await;
    let agent = FakeConsul::start();
    agent.add("d1", registration("d1", &["master"], 5432));
    let register = Register::start(&harness, agent.url(), &[], &[]);
    wait_services(&agent, &[registration("d2", &["slave"], 5433)]).await;
    register.wait_for_log("skipping the master").await;
    assert_eq!(register.stop(Signal::INT).await, 0);
}

#[tokio::test]
async fn unusable_cluster_data_change_nothing() {
    let harness = CtlHarness::start().await;
    let agent = FakeConsul::start();
    let services = [registration("d1", &["master"], 5432)];
    agent.add("d1", services[0].clone());
    let register = Register::start(&harness, agent.url(), &["--register-master"], &[]);
    register
        .wait_for_log("skipping this round, nothing is changed: no cluster data available")
        .await;
    for (data, words) in [
        (
            healthy(["5432", "http"]),
            "invalid database port 'http' for c with uid d2",
        ),
        ("garbage".to_owned(), "cannot get cluster data"),
        (r#"{"formatVersion":1}"#.to_owned(), "cluster data not available"),
        (r#"{"formatVersion":2,"cluster":{}}"#.to_owned(), "format version 2"),
    ] {
        harness.put(&data).await;
        register.wait_for_log(words).await;
        wait_services(&agent, &services).await;
    }
    harness.put(&healthy(["5432", "5433"])).await;
    register.wait_for_log("service registration works again").await;
    wait_services(&agent, &[services[0].clone(), registration("d2", &["slave"], 5433)]).await;
    assert!(
        agent
            .requests()
            .iter()
            .all(|request| !request.target.contains("deregister"))
    );
}

#[tokio::test]
async fn failures_are_logged_once_and_repeated_until_they_pass() {
    let harness = CtlHarness::with(&healthy(["5432", "5433"])).await;
    let agent = FakeConsul::start();
    agent.set_mode(ConsulMode::RefuseChanges(403));
    let dir = TempDir::with_prefix("stolon-token.").unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "t0ken\n").unwrap();
    let variables = [("CONSUL_HTTP_TOKEN_FILE", token.to_str().unwrap())];
    let register = Register::start(&harness, agent.url(), &["--debug"], &variables);
    register.wait_for_log("CONSUL_HTTP_TOKEN_FILE").await;
    // The second round logs at debug.
    register.wait_for_log("service registration still fails").await;
    let log = register.process.log();
    assert_eq!(log.matches("service registration failed").count(), 1, "{log}");
    let line = log.lines().find(|line| line.contains("registration failed")).unwrap();
    assert!(line.contains(agent.url()) && line.contains("status 403"), "{line}");
    assert!(!log.contains("t0ken"), "{log}");
    // Another failure is logged.
    agent.set_mode(ConsulMode::Status(500));
    register.wait_for_log("status 500").await;
    agent.set_mode(ConsulMode::Serve);
    wait_services(&agent, &[registration("d2", &["slave"], 5433)]).await;
    register.wait_for_log("service registration works again").await;
    let requests = agent.requests();
    assert!(
        requests
            .iter()
            .all(|request| request.headers["x-consul-token"] == "t0ken")
    );
    assert_eq!(register.stop(Signal::TERM).await, 0);
}

#[tokio::test]
async fn a_signal_ends_it_while_the_agent_does_not_respond() {
    let harness = CtlHarness::with(&healthy(["5432", "5433"])).await;
    let agent = FakeConsul::start();
    agent.set_mode(ConsulMode::Silent);
    let register = Register::start(&harness, agent.url(), &[], &[]);
    eventually("a request", SHORT_TIMEOUT, async || {
        check(!agent.requests().is_empty(), || "there is none".to_owned())
    })
    .await;
    assert_eq!(register.stop(Signal::TERM).await, 0);
}

#[tokio::test]
async fn tls_verifies_both_sides() {
    let made = Certificates::with_authorities(&["ca", "other"]);
    made.sign("server", "ca", "subjectAltName=IP:127.0.0.1,DNS:consul.test");
    made.sign("client", "ca", "extendedKeyUsage=clientAuth");
    let agent = FakeConsul::start_with_tls(&ServerTls {
        cert: made.path("server.pem"),
        key: made.path("server.key"),
        client_ca: Some(made.path("ca.pem")),
    });
    let harness = CtlHarness::with(&healthy(["5432", "5433"])).await;
    let path = |name: &str| made.path(name).display().to_string();
    let (cert, key) = (path("client.pem"), path("client.key"));
    let client = [format!("--register-cert-file={cert}"), format!("--register-key={key}")];
    let client: Vec<&str> = client.iter().map(String::as_str).collect();
    let expected = registration("d2", &["slave"], 5433);

    let ca = format!("--register-ca-file={}", path("ca.pem"));
    for (options, variables) in [
        ([&client[..], &[&ca]].concat(), vec![]),
        ([&client[..], &["--register-skip-tls-verify"]].concat(), vec![]),
        (
            vec![],
            vec![
                ("CONSUL_CACERT", path("ca.pem")),
                ("CONSUL_CLIENT_CERT", cert.clone()),
                ("CONSUL_CLIENT_KEY", key.clone()),
                ("CONSUL_TLS_SERVER_NAME", "consul.test".to_owned()),
            ],
        ),
    ] {
        agent.add("d2", registration("d2", &["old"], 5433));
        let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let register = Register::start(&harness, agent.url(), &options, &variables);
        wait_services(&agent, std::slice::from_ref(&expected)).await;
        assert_eq!(register.stop(Signal::TERM).await, 0);
    }

    let other = format!("--register-ca-file={}", path("other.pem"));
    for options in [vec![ca.as_str()], [&client[..], &[&other]].concat()] {
        let register = Register::start(&harness, agent.url(), &options, &[]);
        register.wait_for_log("service registration failed").await;
        register.wait_for_log(agent.url()).await;
    }
}

#[tokio::test]
async fn wrong_options_are_refused_together() {
    let args = [
        "register",
        "--register-backend=etcd",
        "--register-endpoints=http://a:1,http://b:1",
    ];
    let output = stolonctl(&args, &[], b"").await;
    assert_eq!((output.status, output.stdout.as_str()), (1, ""));
    let lines: Vec<&str> = output.stderr.lines().collect();
    assert_eq!(
        lines,
        [
            "cluster name required: set --cluster-name",
            "store backend type required: set --store-backend=etcdv3",
            "unknown register backend: \"etcd\": use --register-backend=consul",
            "consul does not support multiple endpoints: http://a:1,http://b:1",
        ]
    );
    let help = stolonctl(&["register", "--help"], &[], b"").await.stdout;
    for option in [
        "--register-endpoints",
        "--tag-slave-as",
        "--sleep-interval",
        "--register-skip-tls-verify",
    ] {
        assert!(help.contains(option), "{option}: {help}");
    }
}
