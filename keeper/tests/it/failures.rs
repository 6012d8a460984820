//! Errors state their reason.

use std::net::TcpListener;

use keeper::postgres::config::conf::StartMode;
use keeper::postgres::server::error::InstanceError;
use keeper::postgres::server::port::ListenError;
use stolon_tests::deadlines::INSTANCE_TEST_TIMEOUT;

use crate::harness::{self, Node, files};

#[test]
fn a_port_in_use_is_reported_at_each_attempt() {
    harness::run("failures::a_port_in_use_is_reported_at_each_attempt", || async {
        let node = Node::initialised().await;
        let wanted = files(&node.instance, &[]);
        let stranger = TcpListener::bind(("127.0.0.1", node.instance.config().port)).unwrap();
        for _ in 0..2 {
            let refused = node.instance.start(&wanted, StartMode::Normal).await.unwrap_err();
            assert!(
                matches!(refused, InstanceError::Port(ListenError::Taken { .. })),
                "{refused}"
            );
            let remedy = refused.remedy().expect("a port in use has one");
            assert!(remedy.contains("--pg-port"), "{remedy}");
        }
        drop(stranger);
        node.start(&wanted).await;
        node.stop().await;
    });
}

#[test]
fn a_socket_of_another_server_is_reported() {
    harness::run("failures::a_socket_of_another_server_is_reported", || async {
        let node = Node::initialised().await;
        let port = node.instance.config().port;
        let lock = node.dir.path().join(format!(".s.PGSQL.{port}.lock"));
        std::fs::write(&lock, format!("{}\n", std::process::id())).unwrap();
        let refused = node
            .instance
            .start(&files(&node.instance, &[]), StartMode::Normal)
            .await
            .unwrap_err();
        assert!(
            matches!(refused, InstanceError::Port(ListenError::SocketTaken { .. })),
            "{refused}"
        );
        std::fs::remove_file(&lock).unwrap();
    });
}

#[test]
fn a_failed_start_reports_the_server_s_last_output() {
    harness::run("failures::a_failed_start_reports_the_server_s_last_output", || async {
        let node = Node::initialised().await;
        let wrong = files(&node.instance, &[("no_such_parameter", "1")]);
        let refused = node.instance.start(&wrong, StartMode::Normal).await.unwrap_err();
        assert!(refused.to_string().contains("no_such_parameter"), "{refused}");
        assert!(node.instance.running().await.unwrap().is_none());
        node.start(&files(&node.instance, &[])).await;
        let refused = node.instance.start(&wrong, StartMode::Normal).await.unwrap_err();
        assert!(matches!(refused, InstanceError::ServerRunning { .. }), "{refused}");
        node.stop().await;
    });
}

#[test]
fn a_reused_process_id_in_the_lock_file_does_not_prevent_a_start() {
    harness::run(
        "failures::a_reused_process_id_in_the_lock_file_does_not_prevent_a_start",
        || async {
            let node = Node::initialised().await;
            let mut stranger = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
            let lock = format!("{}\n{}\n1700000000\n", stranger.id(), node.data().display());
            std::fs::write(node.data().join("postmaster.pid"), lock).unwrap();
            let started = node
                .instance
                .start(&files(&node.instance, &[]), StartMode::Normal)
                .await;
            stranger.kill().unwrap();
            stranger.wait().unwrap();
            started.unwrap();
            node.instance.wait_ready(Some(INSTANCE_TEST_TIMEOUT)).await.unwrap();
            node.stop().await;
        },
    );
}
