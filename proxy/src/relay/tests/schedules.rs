//! Random schedules against a model: bytes arrive once and in order, all of them before an orderly end, and the end has
//! the right kind.

use std::pin::pin;

use proptest::prelude::*;

use super::*;

/// What one outer end does next.
#[derive(Debug, Clone)]
enum Deed {
    Write(usize),
    Read(usize),
    Pause(u8),
}

/// How one outer end is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Finishes its stream and reads the other's to the end.
    Finish,
    /// Resets the connection once everything is written.
    Reset,
    /// The same right after it has finished its stream.
    FinishAndReset,
}

/// All that happens to one connection.
#[derive(Debug, Clone)]
struct Schedule {
    client: (Vec<Deed>, End),
    server: (Vec<Deed>, End),
    buffer_bytes: Option<usize>,
    /// The gate closes after so many turns of the runtime.
    cut_after: Option<u16>,
}

fn deeds() -> impl Strategy<Value = (Vec<Deed>, End)> {
    let deed = prop_oneof![
        4 => prop_oneof![
            1..64_usize,
            1..70_000_usize,
            1..600_000_usize,
            Just(crate::relay::copy::BUFFER_BYTES)
        ].prop_map(Deed::Write),
        4 => prop_oneof![1..64_usize, 1..200_000_usize].prop_map(Deed::Read),
        2 => (1..40_u8).prop_map(Deed::Pause),
    ];
    let end = prop_oneof![6 => Just(End::Finish), 1 => Just(End::Reset), 1 => Just(End::FinishAndReset)];
    (proptest::collection::vec(deed, 0..16), end)
}

fn schedules() -> impl Strategy<Value = Schedule> {
    let buffers = prop_oneof![2 => Just(None), 1 => Just(Some(4096)), 1 => Just(Some(65536))];
    let cut = prop_oneof![9 => Just(None), 1 => (0..300_u16).prop_map(Some)];
    (deeds(), deeds(), buffers, cut).prop_map(|(client, server, buffer_bytes, cut_after)| Schedule {
        client,
        server,
        buffer_bytes,
        cut_after,
    })
}

/// What one outer end has done and seen.
#[derive(Debug)]
struct Seen {
    sent: usize,
    got: Vec<u8>,
    /// Its peer's stream ended in order.
    orderly: bool,
    /// It met an error, reading or writing.
    failed: bool,
}

async fn pause(turns: u16) {
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
}

/// Does what one end has to do.
async fn act(socket: TcpStream, deeds: Vec<Deed>, end: End) -> Seen {
    let (mut read, mut write) = socket.into_split();
    let (mut sent, mut write_failed) = (0, false);
    let (mut got, mut orderly, mut read_failed) = (Vec::new(), false, false);
    let (reads, writes): (Vec<_>, Vec<_>) = deeds.into_iter().partition(|deed| matches!(deed, Deed::Read(_)));
    let writer = async {
        for deed in writes {
            match deed {
                Deed::Write(bytes) if write.write_all(&pattern(sent, bytes)).await.is_err() => {
                    write_failed = true;
                    break;
                }
                Deed::Write(bytes) => sent += bytes,
                Deed::Pause(turns) => pause(turns.into()).await,
                Deed::Read(_) => {}
            }
        }
        if end != End::Reset && write.shutdown().await.is_err() {
            write_failed = true;
        }
    };
    let reader = async {
        let mut sizes = reads.into_iter();
        let mut buffer = vec![0; 200_000];
        loop {
            let bytes = match sizes.next() {
                Some(Deed::Read(bytes)) => bytes,
                _ => buffer.len(),
            };
            match read.read(&mut buffer[..bytes]).await {
                Ok(0) => break orderly = true,
                Ok(bytes) => got.extend_from_slice(&buffer[..bytes]),
                Err(_) => break read_failed = true,
            }
            tokio::task::yield_now().await;
        }
    };
    if end == End::Finish {
        tokio::join!(writer, reader);
    } else {
        let mut both = Box::pin(async {
            let mut writer = pin!(writer);
            tokio::select! {
                () = &mut writer => {}
                () = reader => writer.await,
            }
        });
        both.as_mut().await;
        drop(both);
        reset_halves(read, write);
    }
    Seen {
        sent,
        got,
        orderly,
        failed: read_failed || write_failed,
    }
}

fn reset_halves(read: tokio::net::tcp::OwnedReadHalf, write: tokio::net::tcp::OwnedWriteHalf) {
    reset(read.reunite(write).unwrap());
}

/// Judges what arrived at one end, from what the other one did.
fn judge(here: &Seen, here_end: End, there: &Seen, there_end: End, cut: bool) -> Result<(), TestCaseError> {
    // a write that failed may have sent a part of it
    let sent_at_most = there.sent
        + if there.failed || there_end != End::Finish {
            1 << 20
        } else {
            0
        };
    prop_assert!(here.got.len() <= sent_at_most, "more than was sent");
    prop_assert!(here.got == pattern(0, here.got.len()), "lost, doubled or swapped");
    let quiet = !cut && here_end == End::Finish && there_end == End::Finish;
    if quiet {
        prop_assert!(here.orderly && !here.failed, "an orderly end: {}", here.failed);
    }
    if here.orderly && !here.failed && !cut && here_end == End::Finish {
        prop_assert!(there_end != End::Reset, "a reset was taken for an orderly end");
        prop_assert_eq!(here.got.len(), there.sent, "an orderly end before all bytes");
    }
    Ok(())
}

/// Random schedules of a run, for each of the four ways; `PROPTEST_CASES` asks for more. 100,000 in all, in a few minutes:
/// `PROPTEST_CASES=25000 cargo test --release -p proxy --features test-hooks --lib any_schedule`
const SCHEDULES: u32 = 64;

/// As many as the environment asks for.
pub(super) fn requested() -> Option<u32> {
    std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
}

pub(super) async fn any_schedule_delivers_every_byte_once_in_order_and_the_right_end(start: Start) {
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(requested().unwrap_or(SCHEDULES))
    };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    // The runner calls back synchronously, so the schedules have a thread of their own, and each has a runtime.
    let judged = std::thread::spawn(move || runner.run(&schedules(), |schedule| follow(start, schedule)));
    tokio::task::spawn_blocking(move || judged.join().unwrap().unwrap())
        .await
        .unwrap();
}

fn follow(start: Start, schedule: Schedule) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let rig = rig_with(start, Arc::new(open_gate()), schedule.buffer_bytes).await;
        let (client_end, master_end) = (schedule.client.1, schedule.server.1);
        let client = tokio::spawn(act(rig.client, schedule.client.0, client_end));
        let server = tokio::spawn(act(rig.server, schedule.server.0, master_end));
        let gate = rig.gate;
        let cut = tokio::spawn(async move {
            if let Some(turns) = schedule.cut_after {
                pause(turns).await;
                gate.close(CloseReason::RouteChange, soon(Duration::ZERO));
            }
        });
        let all = async { tokio::join!(client, server, cut, rig.end) };
        let all = tokio::time::timeout(PATIENCE, all).await;
        let (client, server, cut, end) = all.map_err(|_| TestCaseError::fail("it stalls"))?;
        let (client, server, end) = (client.unwrap(), server.unwrap(), end.unwrap());
        cut.unwrap();
        let is_cut = matches!(end, RelayEnd::GateClosed);
        judge(&client, client_end, &server, master_end, is_cut)?;
        judge(&server, master_end, &client, client_end, is_cut)?;
        if client_end == End::Finish && master_end == End::Finish && !is_cut {
            prop_assert!(
                matches!(end, RelayEnd::ClientFinished | RelayEnd::ServerFinished),
                "{:?}",
                end
            );
        }
        prop_assert_eq!(crate::relay::pipes::pipe_counts().0, 0, "a pipe is still borrowed");
        Ok(())
    })
}
