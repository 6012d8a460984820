//! What is specific to one method: when it is used, its fallback, and what it leaves behind.

use rustix::io::Errno;

use std::os::fd::AsFd;

use super::*;
use crate::relay::epoll::{pipes, splice::refuse};
use crate::relay::sys;

/// Sends `bytes` from server to client at once and returns the counters.
async fn stream(start: Start, bytes: usize) -> Arc<ByteCounters> {
    let mut harness = harness(start).await;
    let sent = pattern(0, bytes);
    let write = async {
        harness.server.write_all(&sent).await.unwrap();
        harness.server.shutdown().await.unwrap();
    };
    let (got, ()) = tokio::join!(read_all(&mut harness.client), write);
    assert!(got.unwrap() == sent);
    drop(harness.client);
    harness.end.await.unwrap();
    assert_eq!(value(&harness.counters.to_client), bytes as u64);
    harness.counters
}

#[test]
fn bulk_is_spliced_and_small_messages_are_copied() {
    run(async {
        let counters = stream(adaptive, 8 * MIB).await;
        assert!(value(&counters.spliced) > 4 * MIB as u64, "{counters:?}");
        let counters = stream(adaptive, 1000).await;
        assert_eq!(value(&counters.spliced), 0);
        assert_eq!(pipes::pipe_counts().0, 0, "all pipes are back");
    });
}

#[test]
fn sockets_that_the_kernel_does_not_splice_are_copied_and_counted() {
    run(async {
        for refusal in [Errno::INVAL, Errno::NOSYS, Errno::PERM] {
            refuse(Some(refusal));
            for start in [splice, adaptive, alternate] {
                let counters = stream(start, 2 * MIB).await;
                assert_eq!(value(&counters.spliced), 0);
                assert!((1..=2).contains(&value(&counters.splice_refused)), "once a direction");
            }
        }
        refuse(None);
        assert_eq!(pipes::pipe_counts().0, 0);
    });
}

#[test]
fn without_a_pipe_bulk_is_copied_and_counted() {
    run(async {
        pipes::set_limit(0);
        let counters = stream(adaptive, 2 * MIB).await;
        assert_eq!(value(&counters.spliced), 0);
        assert!(value(&counters.splice_refused) > 0);
    });
}

#[test]
fn a_pipe_that_holds_bytes_at_the_end_is_closed_and_not_used_again() {
    run(async {
        for _ in 0..pipes::PIPES_MAX + 1 {
            let mut harness = harness_with(splice, Arc::new(open_gate()), Some(8192)).await;
            let chunk = vec![7; 64 * 1024];
            while value(&harness.counters.spliced) == 0 || pipes::pipe_counts().0 == 0 {
                let _ = tokio::time::timeout(Duration::from_millis(5), harness.server.write(&chunk)).await;
            }
            harness
                .gate
                .close(CloseReason::RouteChange, lease_end_in(Duration::ZERO));
            assert!(matches!(harness.end.await.unwrap(), RelayEnd::GateClosed));
        }
        assert_eq!(pipes::pipe_counts().0, 0);
    });
}

// proxy section 4
#[test]
fn the_mark_stays_raised_while_the_sink_is_full_and_is_reset_by_data_in_the_other_direction() {
    run(async {
        let (client, inner_client) = connection(None).await;
        let (inner_server, server) = connection(None).await;
        let sources = [&inner_server, &inner_client].map(|source| source.as_fd().try_clone_to_owned().unwrap());
        let end = adaptive(inner_client, inner_server, Arc::new(open_gate()), Arc::default());
        let (mut from, mut to) = (server, client);
        for source in &sources {
            let mark = || sys::low_water_mark(source).unwrap();
            let (mut sent, mut highest) = (0, 0);
            let piece = pattern(0, 8192);
            // Until every buffer is full, and has been for many ticks.
            while let Ok(written) = tokio::time::timeout(Duration::from_millis(200), from.write(&piece)).await {
                sent += written.unwrap();
                highest = highest.max(mark());
                tokio::task::yield_now().await; // so that it arrives alone
            }
            assert!(highest > 1 && mark() > 1, "{highest}, then {}", mark());
            to.write_u8(7).await.unwrap();
            assert_eq!(from.read_u8().await.unwrap(), 7);
            assert_eq!(mark(), 1);
            to.read_exact(&mut vec![0; sent]).await.unwrap();
            std::mem::swap(&mut from, &mut to);
        }
        drop((from, to));
        end.await.unwrap();
    });
}

#[test]
fn a_reset_together_with_the_last_end_is_an_orderly_end() {
    run(async {
        for resetting in [Side::Client, Side::Server] {
            let mut harness = harness(adaptive).await;
            let (first, last) = match resetting {
                Side::Client => (&mut harness.client, &mut harness.server),
                Side::Server => (&mut harness.server, &mut harness.client),
            };
            first.shutdown().await.unwrap();
            assert_eq!(last.read(&mut [0]).await.unwrap(), 0);
            // the relay does not run between the two
            let _ = SockRef::from(&*first).set_linger(Some(Duration::ZERO));
            match resetting {
                Side::Client => drop((harness.client, harness.server)),
                Side::Server => drop((harness.server, harness.client)),
            }
            let end = harness.end.await.unwrap();
            assert!(
                matches!(
                    (resetting, &end),
                    (Side::Client, RelayEnd::ClientFinished) | (Side::Server, RelayEnd::ServerFinished)
                ),
                "{end:?}"
            );
        }
    });
}

#[test]
fn a_long_stream_of_small_sends_is_batched_unless_that_is_turned_off() {
    run(async {
        let mut batches = Vec::new();
        for batching in [true, false] {
            let (mut client, inner_client) = connection(None).await;
            let (inner_server, mut server) = connection(None).await;
            let counters = Arc::new(ByteCounters::default());
            let pipe_counts = Arc::clone(&counters);
            let config = RelayConfig {
                batching,
                ..RelayConfig::default()
            };
            let end = tokio::spawn(async move {
                forward(
                    relay_socket(inner_client),
                    relay_socket(inner_server),
                    &open_gate(),
                    &pipe_counts,
                    &config,
                )
                .await
            });
            let piece = pattern(0, 8192);
            let write = async {
                for _ in 0..2048 {
                    server.write_all(&piece).await.unwrap();
                    tokio::task::yield_now().await; // so that it arrives alone
                }
                server.shutdown().await.unwrap();
            };
            let (got, ()) = tokio::join!(read_all(&mut client), write);
            assert_eq!(got.unwrap().len(), 2048 * 8192);
            drop(client);
            end.await.unwrap();
            batches.push(value(&counters.batches));
        }
        assert!(batches[0] > 0 && batches[1] == 0, "{batches:?}");
    });
}
