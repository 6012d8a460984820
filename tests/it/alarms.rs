//! etcd answers and takes no writes: every program logs why, with the remedy, and nobody is replaced for it.

use stolon_tests::cluster::{Cluster, Profile, SHORT_TIMEOUT, check, error_text};
use stolon_tests::wait::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const BEGINS: &str = "the store has no space left";
const ENDS: &str = "the store serves again";
const REMEDY: &str = "etcdctl alarm disarm";

/// Raises the alarm NOSPACE as etcd does when its space is used up, over its gateway for JSON.
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

/// issue 9, section 2
#[tokio::test]
async fn a_full_store_is_named_by_every_program_and_replaces_nobody() {
    let mut cluster = Cluster::builder(Profile::Fast).start().await;
    let programs = ["sentinel0", "keeper0", "keeper1", "proxy0"];
    let before = cluster.data().await.unwrap();
    raise_alarm(&cluster).await;
    for name in programs {
        let program = cluster.process(name);
        program.wait_for_log(BEGINS, SHORT_TIMEOUT).await;
        let log = program.log();
        let line = log.lines().find(|line| line.contains(BEGINS)).unwrap();
        assert!(line.contains(REMEDY) && line.contains(" ERROR "), "{name}: {line}");
    }
    let (status, output) = cluster.stolonctl(&["update", "--patch", r#"{"maxStandbys":7}"#]).await;
    assert!(status == 1 && output.contains(REMEDY), "{output}");
    // what only reads goes on
    let (status, output) = cluster.stolonctl(&["status"]).await;
    assert_eq!(status, 0, "{output}");

    let disarmed = cluster.etcd.etcdctl().args(["alarm", "disarm"]).status().unwrap();
    assert!(disarmed.success());
    for name in programs {
        cluster.process(name).wait_for_log(ENDS, SHORT_TIMEOUT).await;
    }
    cluster.wait_serving("proxy0").await;
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
            .filter(|line| line.contains(" ERROR ") && line.contains(BEGINS));
        assert_eq!(lines.count(), 1, "{name}: {log}");
    }
}
