//! etcd answers and accepts no writes: every program logs why, with the remedy, and nothing fails over.

use stolon_tests::cluster::{Cluster, Profile, check, error_text};
use stolon_tests::deadlines::SHORT_TIMEOUT;
use stolon_tests::wait::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ALARM_LOG: &str = "the store has no space left";
const RECOVERY_LOG: &str = "the store serves again";
const REMEDY: &str = "etcdctl alarm disarm";

/// Raises the alarm NOSPACE through etcd's JSON gateway, as etcd does when its space is used up.
async fn raise_alarm(cluster: &Cluster) {
    let mut socket = TcpStream::connect(cluster.etcd.address()).await.unwrap();
    let body = r#"{"action":"ACTIVATE","memberID":"0","alarm":"NOSPACE"}"#;
    let head = format!(
        "POST /v3/maintenance/alarm HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all((head + body).as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_full_store_is_logged_by_every_program_and_causes_no_failover() {
    let mut cluster = Cluster::builder(Profile::Fast).start().await;
    let programs = ["sentinel0", "keeper0", "keeper1", "proxy0"];
    let before = cluster.data().await.unwrap();
    raise_alarm(&cluster).await;
    for name in programs {
        let program = cluster.process(name);
        program.wait_for_log(ALARM_LOG, SHORT_TIMEOUT).await;
        let log = program.log();
        let line = log.lines().find(|line| line.contains(ALARM_LOG)).unwrap();
        assert!(line.contains(REMEDY) && line.contains(" ERROR "), "{name}: {line}");
    }
    let (status, output) = cluster.stolonctl(&["update", "--patch", r#"{"maxStandbys":7}"#]).await;
    assert!(status == 1 && output.contains(REMEDY), "{output}");
    // Commands that only read still work.
    let (status, output) = cluster.stolonctl(&["status"]).await;
    assert_eq!(status, 0, "{output}");

    let disarmed = cluster.etcd.etcdctl().args(["alarm", "disarm"]).status().unwrap();
    assert!(disarmed.success());
    for name in programs {
        cluster.process(name).wait_for_log(RECOVERY_LOG, SHORT_TIMEOUT).await;
    }
    cluster.wait_proxy_serves("proxy0").await;
    eventually("both keepers to be healthy", SHORT_TIMEOUT, async || {
        let data = cluster.data().await.map_err(error_text)?;
        let healthy = data.dbs().values().filter(|db| db.status.healthy).count();
        check(healthy == 2, || format!("{healthy} are"))
    })
    .await;
    let after = cluster.data().await.unwrap();
    assert_eq!(before.master_uid(), after.master_uid());
    for name in programs {
        let log = cluster.process(name).log();
        let lines = log
            .lines()
            .filter(|line| line.contains(" ERROR ") && line.contains(ALARM_LOG));
        assert_eq!(lines.count(), 1, "{name}: {log}");
    }
}
