//! Random schedules against a model: bytes arrive once and in order, all of them before an orderly end, and the end has
//! the right kind.

use std::pin::pin;

use proptest::prelude::*;

use super::*;

/// One action of an outer end.
#[derive(Debug, Clone)]
enum Action {
    Write(usize),
    Read(usize),
    Pause(u8),
}

/// How an outer end finishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Shuts down its sending direction and reads the other one to the end.
    Finish,
    /// Resets the connection once everything is written.
    Reset,
    /// Resets it right after shutting down its sending direction.
    FinishAndReset,
}

/// All actions on one connection.
#[derive(Debug, Clone)]
struct Schedule {
    client: (Vec<Action>, Ending),
    server: (Vec<Action>, Ending),
    buffer_bytes: Option<usize>,
    /// The gate closes after this many turns of the runtime.
    close_after: Option<u16>,
}

fn actions() -> impl Strategy<Value = (Vec<Action>, Ending)> {
    let action = prop_oneof![
        4 => prop_oneof![
            1..64_usize,
            1..70_000_usize,
            1..600_000_usize,
            Just(crate::relay::epoll::copy::BUFFER_BYTES)
        ].prop_map(Action::Write),
        4 => prop_oneof![1..64_usize, 1..200_000_usize].prop_map(Action::Read),
        2 => (1..40_u8).prop_map(Action::Pause),
    ];
    let end = prop_oneof![6 => Just(Ending::Finish), 1 => Just(Ending::Reset), 1 => Just(Ending::FinishAndReset)];
    (proptest::collection::vec(action, 0..16), end)
}

fn schedules() -> impl Strategy<Value = Schedule> {
    let buffers = prop_oneof![2 => Just(None), 1 => Just(Some(4096)), 1 => Just(Some(65536))];
    let closing = prop_oneof![9 => Just(None), 1 => (0..300_u16).prop_map(Some)];
    (actions(), actions(), buffers, closing).prop_map(|(client, server, buffer_bytes, close_after)| Schedule {
        client,
        server,
        buffer_bytes,
        close_after,
    })
}

/// What one outer end has sent and received.
#[derive(Debug)]
struct Observed {
    sent: usize,
    got: Vec<u8>,
    /// Its peer's stream ended in order.
    orderly: bool,
    /// Reading or writing failed.
    failed: bool,
}

async fn pause(turns: u16) {
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
}

/// Performs the actions of one end.
async fn perform(socket: TcpStream, actions: Vec<Action>, end: Ending) -> Observed {
    let (mut read, mut write) = socket.into_split();
    let (mut sent, mut write_failed) = (0, false);
    let (mut got, mut orderly, mut read_failed) = (Vec::new(), false, false);
    let (reads, writes): (Vec<_>, Vec<_>) = actions
        .into_iter()
        .partition(|action| matches!(action, Action::Read(_)));
    let writer = async {
        for action in writes {
            match action {
                Action::Write(bytes) if write.write_all(&pattern(sent, bytes)).await.is_err() => {
                    write_failed = true;
                    break;
                }
                Action::Write(bytes) => sent += bytes,
                Action::Pause(turns) => pause(turns.into()).await,
                Action::Read(_) => {}
            }
        }
        if end != Ending::Reset && write.shutdown().await.is_err() {
            write_failed = true;
        }
    };
    let reader = async {
        let mut sizes = reads.into_iter();
        let mut buffer = vec![0; 200_000];
        loop {
            let bytes = match sizes.next() {
                Some(Action::Read(bytes)) => bytes,
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
    if end == Ending::Finish {
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
    Observed {
        sent,
        got,
        orderly,
        failed: read_failed || write_failed,
    }
}

fn reset_halves(read: tokio::net::tcp::OwnedReadHalf, write: tokio::net::tcp::OwnedWriteHalf) {
    reset(read.reunite(write).unwrap());
}

/// Checks what arrived at one end against what the other one did.
fn check(
    observed: &Observed,
    ending: Ending,
    peer: &Observed,
    peer_ending: Ending,
    closing: bool,
) -> Result<(), TestCaseError> {
    // A failed write may have sent a part.
    let sent_at_most = peer.sent
        + if peer.failed || peer_ending != Ending::Finish {
            1 << 20
        } else {
            0
        };
    prop_assert!(observed.got.len() <= sent_at_most, "more than was sent");
    prop_assert!(
        observed.got == pattern(0, observed.got.len()),
        "lost, doubled or swapped"
    );
    let quiet = !closing && ending == Ending::Finish && peer_ending == Ending::Finish;
    if quiet {
        prop_assert!(
            observed.orderly && !observed.failed,
            "an orderly end: {}",
            observed.failed
        );
    }
    if observed.orderly && !observed.failed && !closing && ending == Ending::Finish {
        prop_assert!(peer_ending != Ending::Reset, "a reset was mistaken for an orderly end");
        prop_assert_eq!(observed.got.len(), peer.sent, "an orderly end before all bytes");
    }
    Ok(())
}

/// Random schedules of a run, for each of the four ways; `PROPTEST_CASES` asks for more. 100,000 in all, in a few minutes:
/// `PROPTEST_CASES=25000 cargo test --release -p proxy --features test-hooks --lib any_schedule`
const SCHEDULES: u32 = 64;

/// Returns the number that the environment asks for.
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
    // The runner calls back synchronously, so the schedules run on a thread of their own, each in its own runtime.
    let result = std::thread::spawn(move || runner.run(&schedules(), |schedule| run_schedule(start, schedule)));
    tokio::task::spawn_blocking(move || result.join().unwrap().unwrap())
        .await
        .unwrap();
}

fn run_schedule(start: Start, schedule: Schedule) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let harness = harness_with(start, Arc::new(open_gate()), schedule.buffer_bytes).await;
        let (client_ending, server_ending) = (schedule.client.1, schedule.server.1);
        let client = tokio::spawn(perform(harness.client, schedule.client.0, client_ending));
        let server = tokio::spawn(perform(harness.server, schedule.server.0, server_ending));
        let gate = harness.gate;
        let closing = tokio::spawn(async move {
            if let Some(turns) = schedule.close_after {
                pause(turns).await;
                gate.close(CloseReason::RouteChange, lease_end_in(Duration::ZERO));
            }
        });
        let all = async { tokio::join!(client, server, closing, harness.end) };
        let all = tokio::time::timeout(TEST_TIMEOUT, all).await;
        let (client, server, closing, end) = all.map_err(|_| TestCaseError::fail("it stalls"))?;
        let (client, server, end) = (client.unwrap(), server.unwrap(), end.unwrap());
        closing.unwrap();
        let gate_closed = matches!(end, RelayEnd::GateClosed);
        check(&client, client_ending, &server, server_ending, gate_closed)?;
        check(&server, server_ending, &client, client_ending, gate_closed)?;
        if client_ending == Ending::Finish && server_ending == Ending::Finish && !gate_closed {
            prop_assert!(
                matches!(end, RelayEnd::ClientFinished | RelayEnd::ServerFinished),
                "{:?}",
                end
            );
        }
        prop_assert_eq!(
            crate::relay::epoll::pipes::pipe_counts().0,
            0,
            "a pipe is still borrowed"
        );
        Ok(())
    })
}
