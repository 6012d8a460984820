//! What belongs to one path alone: when it is taken, what it falls back to, what it leaves behind.

use rustix::io::Errno;

use std::os::fd::AsFd;

use super::*;
use crate::relay::{pipes, splice::refuse};

/// Sends `bytes` from master to client at one go, and gives what was counted.
async fn stream(start: Start, bytes: usize) -> Arc<Tally> {
    let mut rig = rig(start).await;
    let sent = pattern(0, bytes);
    let write = async {
        rig.master.write_all(&sent).await.unwrap();
        rig.master.shutdown().await.unwrap();
    };
    let (got, ()) = tokio::join!(read_all(&mut rig.client), write);
    assert!(got.unwrap() == sent);
    drop(rig.client);
    rig.ended.await.unwrap();
    assert_eq!(value(&rig.tally.to_client), bytes as u64);
    rig.tally
}

#[test]
fn bulk_is_spliced_and_small_messages_are_copied() {
    run(async {
        let tally = stream(by_flow, 8 * MIB).await;
        assert!(value(&tally.spliced) > 4 * MIB as u64, "{tally:?}");
        let tally = stream(by_flow, 1000).await;
        assert_eq!(value(&tally.spliced), 0);
        assert_eq!(pipes::counted().0, 0, "all pipes are back");
    });
}

#[test]
fn what_the_kernel_does_not_splice_is_copied_and_counted() {
    run(async {
        for refusal in [Errno::INVAL, Errno::NOSYS, Errno::PERM] {
            refuse(Some(refusal));
            for start in [splice, by_flow, alternate] {
                let tally = stream(start, 2 * MIB).await;
                assert_eq!(value(&tally.spliced), 0);
                assert!((1..=2).contains(&value(&tally.splice_refused)), "once a direction");
            }
        }
        refuse(None);
        assert_eq!(pipes::counted().0, 0);
    });
}

#[test]
fn without_a_pipe_bulk_is_copied_and_counted() {
    run(async {
        pipes::limit_to(0);
        let tally = stream(by_flow, 2 * MIB).await;
        assert_eq!(value(&tally.spliced), 0);
        assert!(value(&tally.splice_refused) > 0);
    });
}

#[test]
fn a_pipe_that_holds_bytes_at_the_end_is_closed_and_not_used_again() {
    run(async {
        for _ in 0..pipes::PIPES_MAX + 1 {
            let mut rig = rig_with(splice, Arc::new(open_gate()), Some(8192)).await;
            let chunk = vec![7; 64 * 1024];
            while value(&rig.tally.spliced) == 0 || pipes::counted().0 == 0 {
                let _ = tokio::time::timeout(Duration::from_millis(5), rig.master.write(&chunk)).await;
            }
            rig.gate.close(Cut::RouteChange, soon(Duration::ZERO));
            assert!(matches!(rig.ended.await.unwrap(), Ended::Cut));
        }
        assert_eq!(pipes::counted().0, 0);
    });
}

// proxy section 4
#[test]
fn the_mark_stays_up_while_the_sink_is_full_and_goes_down_when_the_other_side_is_heard() {
    run(async {
        let (client, inner_client) = connection(None).await;
        let (inner_master, master) = connection(None).await;
        let sources = [&inner_master, &inner_client].map(|source| source.as_fd().try_clone_to_owned().unwrap());
        let ended = by_flow(inner_client, inner_master, Arc::new(open_gate()), Arc::default());
        let (mut from, mut to) = (master, client);
        for source in &sources {
            let mark = || sys::mark_of(source).unwrap();
            let (mut sent, mut highest) = (0, 0);
            let piece = pattern(0, 8192);
            // until everything on the way is full, and has been for many ticks
            while let Ok(written) = tokio::time::timeout(Duration::from_millis(200), from.write(&piece)).await {
                sent += written.unwrap();
                highest = highest.max(mark());
                tokio::task::yield_now().await; // so that it comes alone
            }
            assert!(highest > 1 && mark() > 1, "{highest}, then {}", mark());
            to.write_u8(7).await.unwrap();
            assert_eq!(from.read_u8().await.unwrap(), 7);
            assert_eq!(mark(), 1);
            to.read_exact(&mut vec![0; sent]).await.unwrap();
            std::mem::swap(&mut from, &mut to);
        }
        drop((from, to));
        ended.await.unwrap();
    });
}

#[test]
fn a_reset_together_with_the_last_end_is_an_orderly_end() {
    run(async {
        for resetting in [Side::Client, Side::Master] {
            let mut rig = rig(by_flow).await;
            let (first, last) = match resetting {
                Side::Client => (&mut rig.client, &mut rig.master),
                Side::Master => (&mut rig.master, &mut rig.client),
            };
            first.shutdown().await.unwrap();
            assert_eq!(last.read(&mut [0]).await.unwrap(), 0);
            // the relay has no turn between the two
            let _ = SockRef::from(&*first).set_linger(Some(Duration::ZERO));
            match resetting {
                Side::Client => drop((rig.client, rig.master)),
                Side::Master => drop((rig.master, rig.client)),
            }
            let ended = rig.ended.await.unwrap();
            assert!(
                matches!(
                    (resetting, &ended),
                    (Side::Client, Ended::ClientLeft) | (Side::Master, Ended::MasterLeft)
                ),
                "{ended:?}"
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
            let (inner_master, mut master) = connection(None).await;
            let tally = Arc::new(Tally::default());
            let counted = Arc::clone(&tally);
            let manner = Manner {
                batching,
                ..Manner::default()
            };
            let ended = tokio::spawn(async move {
                carry(
                    inner(inner_client),
                    inner(inner_master),
                    &open_gate(),
                    &counted,
                    &manner,
                )
                .await
            });
            let piece = pattern(0, 8192);
            let write = async {
                for _ in 0..2048 {
                    master.write_all(&piece).await.unwrap();
                    tokio::task::yield_now().await; // so that it comes alone
                }
                master.shutdown().await.unwrap();
            };
            let (got, ()) = tokio::join!(read_all(&mut client), write);
            assert_eq!(got.unwrap().len(), 2048 * 8192);
            drop(client);
            ended.await.unwrap();
            batches.push(value(&tally.batches));
        }
        assert!(batches[0] > 0 && batches[1] == 0, "{batches:?}");
    });
}
