//! The relay over loopback: one suite for every method, on real sockets, because half of the behaviour is the kernel's.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use base::clock::Boottime;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::relay::{BoottimeTimer, CloseReason};

mod methods;
mod schedules;

use self::schedules::any_schedule_delivers_every_byte_once_in_order_and_the_right_end;

/// Starts a relay. There is one function for each method policy, and the suite runs once for each.
type Start = fn(TcpStream, TcpStream, Arc<Gate>, Arc<ByteCounters>) -> JoinHandle<RelayEnd>;

macro_rules! starts {
    ($($start:ident: $methods:ident),* $(,)?) => {
        $(fn $start(
            client: TcpStream,
            server: TcpStream,
            gate: Arc<Gate>,
            counters: Arc<ByteCounters>,
        ) -> JoinHandle<RelayEnd> {
            let config = RelayConfig { methods: MethodPolicy::$methods, ..RelayConfig::default() };
            let (client, server) = (relay_socket(client), relay_socket(server));
            tokio::spawn(async move { forward(client, server, &gate, &counters, &config).await })
        })*
    };
}

starts! { copy: Copy, splice: Splice, alternate: Alternate, adaptive: Adaptive }

macro_rules! each {
    ($start:path, $($claim:ident),*) => {
        $(#[test] fn $claim() { super::run(super::$claim($start)); })*
    };
}

macro_rules! suite {
    ($($claim:ident),* $(,)?) => {
        mod copying {
            each!(super::copy, $($claim),*);
        }
        mod splicing {
            each!(super::splice, $($claim),*);
        }
        mod alternating {
            each!(super::alternate, $($claim),*);
        }
        mod adaptively {
            each!(super::adaptive, $($claim),*);
        }
    };
}

suite! {
    forwards_both_ways_and_counts,
    one_byte_writes_arrive_in_order,
    large_messages_arrive_whole_through_small_socket_buffers,
    a_half_close_by_the_client_arrives_after_its_bytes_and_the_answer_returns,
    a_half_close_by_the_server_arrives_after_its_bytes_and_the_client_continues,
    a_reset_by_the_client_reaches_the_server_as_a_reset,
    a_reset_by_the_server_reaches_the_client_as_a_reset,
    data_sent_before_a_reset_by_the_server_arrives,
    a_reset_after_a_half_close_reaches_the_other_side,
    a_reader_that_stops_reading_stops_the_sender,
    a_failed_client_is_detected_while_nothing_is_read_from_it,
    a_failed_server_is_detected_while_nothing_is_read_from_it,
    an_idle_connection_ends_when_the_gate_closes,
    an_idle_connection_ends_when_the_lease_ends,
    a_stalled_connection_ends_when_the_lease_ends,
    nothing_is_written_when_the_gate_closes_between_read_and_write,
    nothing_is_written_when_the_lease_ends_between_read_and_write,
    the_rest_of_a_partial_write_is_not_written_after_the_lease,
    an_end_of_stream_is_not_passed_on_after_the_gate_has_closed,
    every_size_arrives_whatever_the_direction_the_end_and_the_pace,
    streams_with_messages_after_them_never_stall,
    a_stream_whose_reader_was_slow_arrives_to_its_last_byte,
    urgent_bytes_delay_nothing,
    any_schedule_delivers_every_byte_once_in_order_and_the_right_end,
}

const MIB: usize = 1 << 20;
/// Limit of one test on a busy machine.
const TEST_TIMEOUT: Duration = Duration::from_secs(120);

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let schedules = schedules::requested().unwrap_or(0);
        tokio::time::timeout(TEST_TIMEOUT + Duration::from_millis(200) * schedules, test)
            .await
            .expect("the test ends in time")
    });
}

/// The outer ends of one relayed connection.
struct RelayHarness {
    client: TcpStream,
    server: TcpStream,
    gate: Arc<Gate>,
    counters: Arc<ByteCounters>,
    end: JoinHandle<RelayEnd>,
}

#[expect(clippy::disallowed_methods, reason = "a gate needs a lease that is still running")]
fn lease_end_in(after: Duration) -> Boottime {
    Boottime::now() + after
}

fn open_gate() -> Gate {
    Gate::new(lease_end_in(Duration::from_secs(3600)))
}

async fn harness(start: Start) -> RelayHarness {
    harness_with(start, Arc::new(open_gate()), None).await
}

async fn harness_with(start: Start, gate: Arc<Gate>, buffer_bytes: Option<usize>) -> RelayHarness {
    let (client, inner_client) = connection(buffer_bytes).await;
    let (inner_server, server) = connection(buffer_bytes).await;
    let counters = Arc::new(ByteCounters::default());
    let end = start(inner_client, inner_server, gate.clone(), counters.clone());
    RelayHarness {
        client,
        server,
        gate,
        counters,
        end,
    }
}

/// Returns an inner end for the relay.
fn relay_socket(socket: TcpStream) -> Socket {
    Socket::new(socket.into_std().unwrap()).unwrap()
}

/// Opens a connection over loopback: the end that connected and the end that accepted.
async fn connection(buffer_bytes: Option<usize>) -> (TcpStream, TcpStream) {
    let (accepting, connecting) = (TcpSocket::new_v4().unwrap(), TcpSocket::new_v4().unwrap());
    for socket in [&accepting, &connecting] {
        socket.set_nodelay(true).unwrap();
        if let Some(bytes) = buffer_bytes {
            let socket = SockRef::from(socket);
            // Loopback's segments of 64 KiB do not fit into small buffers; each would wait for a timer of the kernel.
            socket.set_tcp_mss(1460).unwrap();
            socket.set_send_buffer_size(bytes).unwrap();
            socket.set_recv_buffer_size(bytes).unwrap();
        }
    }
    accepting.set_reuseaddr(true).unwrap(); // thousands of ports of earlier tests are in TIME_WAIT
    accepting.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = accepting.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let (connected, accepted) = tokio::join!(connecting.connect(address), listener.accept());
    (connected.unwrap(), accepted.unwrap().0)
}

/// Returns bytes that depend on their position, so that a lost, duplicated or swapped one is found.
fn pattern(from: usize, bytes: usize) -> Vec<u8> {
    let period: Vec<u8> = (0..251).map(|at| ((from + at) % 251) as u8).collect();
    let mut pattern = period.repeat(bytes / 251 + 1);
    pattern.truncate(bytes);
    pattern
}

/// Writes until nothing is accepted for a while: every buffer on the way is full. Returns the number of bytes accepted.
async fn fill(socket: &mut TcpStream) -> usize {
    let chunk = vec![7; 64 * 1024];
    let mut filled = 0;
    while let Ok(written) = tokio::time::timeout(Duration::from_millis(200), socket.write(&chunk)).await {
        filled += written.unwrap();
        assert!(filled < 256 * MIB, "it is accepted although nothing reads");
    }
    filled
}

async fn read_all(socket: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    socket.read_to_end(&mut all).await?;
    Ok(all)
}

fn reset(socket: TcpStream) {
    socket.set_zero_linger().unwrap();
    drop(socket);
}

async fn expect_reset(socket: &mut TcpStream) {
    let err = read_all(socket).await.expect_err("a reset, not an orderly end");
    assert_eq!(err.kind(), io::ErrorKind::ConnectionReset);
}

async fn forwards_both_ways_and_counts(start: Start) {
    let mut harness = harness(start).await;
    let mut got = [0; 5];
    harness.client.write_all(b"query").await.unwrap();
    harness.server.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"query");
    harness.server.write_all(b"answe").await.unwrap();
    harness.client.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"answe");
    drop(harness.client);
    assert!(read_all(&mut harness.server).await.unwrap().is_empty());
    drop(harness.server);
    assert!(matches!(harness.end.await.unwrap(), RelayEnd::ClientFinished));
    assert_eq!(value(&harness.counters.to_server), 5);
    assert_eq!(value(&harness.counters.to_client), 5);
}

fn value(count: &AtomicU64) -> u64 {
    count.load(std::sync::atomic::Ordering::Relaxed)
}

async fn one_byte_writes_arrive_in_order(start: Start) {
    let mut harness = harness(start).await;
    let sent = pattern(0, 3000);
    let write = async {
        for byte in &sent {
            harness.client.write_all(std::slice::from_ref(byte)).await.unwrap();
        }
        harness.client.shutdown().await.unwrap();
    };
    let (got, ()) = tokio::join!(read_all(&mut harness.server), write);
    assert_eq!(got.unwrap(), sent);
}

async fn large_messages_arrive_whole_through_small_socket_buffers(start: Start) {
    let mut harness = harness_with(start, Arc::new(open_gate()), Some(8192)).await;
    let (up, down) = (pattern(3, 2 * MIB + 17), pattern(5, 3 * MIB + 1));
    let (mut client_read, mut client_write) = harness.client.split();
    let (mut master_read, mut master_write) = harness.server.split();
    let send_up = async {
        client_write.write_all(&up).await.unwrap();
        client_write.shutdown().await.unwrap();
    };
    let send_down = async {
        master_write.write_all(&down).await.unwrap();
        master_write.shutdown().await.unwrap();
    };
    let (mut got_up, mut got_down) = (Vec::new(), Vec::new());
    let (_, _, up_read, down_read) = tokio::join!(
        send_up,
        send_down,
        master_read.read_to_end(&mut got_up),
        client_read.read_to_end(&mut got_down)
    );
    up_read.unwrap();
    down_read.unwrap();
    assert!(got_up == up && got_down == down);
    assert!(matches!(
        harness.end.await.unwrap(),
        RelayEnd::ClientFinished | RelayEnd::ServerFinished
    ));
}

// proxy P-11
async fn a_half_close_by_the_client_arrives_after_its_bytes_and_the_answer_returns(start: Start) {
    let mut harness = harness_with(start, Arc::new(open_gate()), Some(8192)).await;
    let query = pattern(1, MIB);
    let write = async {
        harness.client.write_all(&query).await.unwrap();
        harness.client.shutdown().await.unwrap();
    };
    let (got, ()) = tokio::join!(read_all(&mut harness.server), write);
    assert!(got.unwrap() == query);

    let answer = pattern(2, MIB);
    let write = async {
        harness.server.write_all(&answer).await.unwrap();
        harness.server.shutdown().await.unwrap();
    };
    let (got, ()) = tokio::join!(read_all(&mut harness.client), write);
    assert!(got.unwrap() == answer);
    assert!(matches!(harness.end.await.unwrap(), RelayEnd::ClientFinished));
}

// proxy P-11
async fn a_half_close_by_the_server_arrives_after_its_bytes_and_the_client_continues(start: Start) {
    let mut harness = harness(start).await;
    harness.server.write_all(b"bye").await.unwrap();
    harness.server.shutdown().await.unwrap();
    assert_eq!(read_all(&mut harness.client).await.unwrap(), b"bye");
    harness.client.write_all(b"late").await.unwrap();
    harness.client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut harness.server).await.unwrap(), b"late");
    assert!(matches!(harness.end.await.unwrap(), RelayEnd::ServerFinished));
}

// proxy P-11
async fn a_reset_by_the_client_reaches_the_server_as_a_reset(start: Start) {
    let mut harness = harness(start).await;
    reset(harness.client);
    expect_reset(&mut harness.server).await;
    assert!(matches!(
        harness.end.await.unwrap(),
        RelayEnd::Failed(RelayError { side: Side::Client, .. })
    ));
}

// proxy P-11: a client must not mistake a crash for an orderly end
async fn a_reset_by_the_server_reaches_the_client_as_a_reset(start: Start) {
    let mut harness = harness(start).await;
    reset(harness.server);
    expect_reset(&mut harness.client).await;
    assert!(matches!(
        harness.end.await.unwrap(),
        RelayEnd::Failed(RelayError { side: Side::Server, .. })
    ));
}

// proxy P-11: as a server ends that is stopped in the middle of a COPY … FROM STDIN
async fn data_sent_before_a_reset_by_the_server_arrives(start: Start) {
    let mut harness = harness(start).await;
    harness.client.write_all(b"copy").await.unwrap();
    assert_eq!(harness.server.peek(&mut [0; 8]).await.unwrap(), 4);
    // Without a pause, so that our write to the server is what fails first.
    assert_eq!(harness.server.try_write(b"FATAL").unwrap(), 5);
    drop(harness.server); // "copy" is unread: a reset
    assert_eq!(harness.client.try_write(b"more").unwrap(), 4);
    let mut words = [0; 5];
    harness.client.read_exact(&mut words).await.unwrap();
    assert_eq!(&words, b"FATAL");
    expect_reset(&mut harness.client).await;
    assert!(matches!(
        harness.end.await.unwrap(),
        RelayEnd::Failed(RelayError { side: Side::Server, .. })
    ));
    assert_eq!(harness.counters.to_client.load(Ordering::Relaxed), 5);
}

async fn a_reset_after_a_half_close_reaches_the_other_side(start: Start) {
    let mut harness = harness(start).await;
    harness.client.shutdown().await.unwrap();
    assert!(read_all(&mut harness.server).await.unwrap().is_empty());
    reset(harness.client);
    assert!(matches!(
        harness.end.await.unwrap(),
        RelayEnd::Failed(RelayError { side: Side::Client, .. })
    ));
    // The end of the client's stream has been read already; what is left is the reset, which shows on writing.
    while harness.server.write_all(b"x").await.is_ok() {
        tokio::task::yield_now().await;
    }
}

// proxy P-13
async fn a_reader_that_stops_reading_stops_the_sender(start: Start) {
    let mut harness = harness_with(start, Arc::new(open_gate()), Some(65536)).await;
    let filled = fill(&mut harness.server).await;
    assert!(filled < 4 * MIB, "{filled} bytes are somewhere in the proxy");
    harness.server.shutdown().await.unwrap();
    assert_eq!(read_all(&mut harness.client).await.unwrap().len(), filled);
}

// proxy P-13
async fn a_failed_client_is_detected_while_nothing_is_read_from_it(start: Start) {
    let mut harness = harness_with(start, Arc::new(open_gate()), Some(8192)).await;
    fill(&mut harness.client).await;
    reset(harness.client);
    assert!(matches!(
        harness.end.await.unwrap(),
        RelayEnd::Failed(RelayError {
            side: Side::Client,
            operation: SocketOperation::Wait,
            ..
        })
    ));
    expect_reset(&mut harness.server).await;
}

async fn a_failed_server_is_detected_while_nothing_is_read_from_it(start: Start) {
    let mut harness = harness_with(start, Arc::new(open_gate()), Some(8192)).await;
    fill(&mut harness.server).await;
    reset(harness.server);
    assert!(matches!(
        harness.end.await.unwrap(),
        RelayEnd::Failed(RelayError {
            side: Side::Server,
            operation: SocketOperation::Wait,
            ..
        })
    ));
    expect_reset(&mut harness.client).await;
}

#[expect(clippy::disallowed_methods, reason = "closing needs the current time")]
async fn an_idle_connection_ends_when_the_gate_closes(start: Start) {
    let mut harness = harness(start).await;
    harness.client.write_all(b"x").await.unwrap();
    harness.server.read_u8().await.unwrap();
    harness.gate.close(CloseReason::RouteChange, Boottime::now());
    assert!(matches!(harness.end.await.unwrap(), RelayEnd::GateClosed));
    assert!(read_all(&mut harness.client).await.unwrap().is_empty());
    assert!(read_all(&mut harness.server).await.unwrap().is_empty());
}

// fencing F-4
async fn an_idle_connection_ends_when_the_lease_ends(start: Start) {
    let gate = Arc::new(Gate::new(lease_end_in(Duration::from_millis(50))));
    let mut harness = harness_with(start, gate.clone(), None).await;
    assert!(wait_for_lease_end(&gate).await);
    assert!(matches!(harness.end.await.unwrap(), RelayEnd::GateClosed));
    assert!(read_all(&mut harness.client).await.unwrap().is_empty());
    assert!(read_all(&mut harness.server).await.unwrap().is_empty());
}

async fn a_stalled_connection_ends_when_the_lease_ends(start: Start) {
    let mut harness = harness_with(start, Arc::new(open_gate()), Some(8192)).await;
    fill(&mut harness.client).await;
    fill(&mut harness.server).await;
    assert!(
        harness
            .gate
            .renew(lease_end_in(Duration::from_millis(20)), lease_end_in(Duration::ZERO))
    );
    assert!(wait_for_lease_end(&harness.gate).await);
    assert!(matches!(harness.end.await.unwrap(), RelayEnd::GateClosed));
}

/// Waits until the lease of the gate has ended, and closes the gate. Returns whether this call has closed it.
#[expect(
    clippy::disallowed_methods,
    reason = "whether a lease has ended depends on the clock"
)]
async fn wait_for_lease_end(gate: &Gate) -> bool {
    let lease_end = gate.lease_end().expect("the gate is open");
    BoottimeTimer::new().unwrap().wait_until(lease_end).await.unwrap();
    gate.expire(Boottime::now())
}

/// Returns a gate that runs `during` at its first forward, as if the process were paused there meanwhile.
fn gate_paused_once(during: impl Fn(&Gate) + Send + Sync + 'static) -> Arc<Gate> {
    Arc::new_cyclic(|this: &std::sync::Weak<Gate>| {
        let (this, first) = (this.clone(), std::sync::atomic::AtomicBool::new(true));
        open_gate().with_hook(move || {
            if first.swap(false, std::sync::atomic::Ordering::SeqCst) {
                during(&this.upgrade().unwrap());
            }
        })
    })
}

// fencing F-3, 4.5
async fn nothing_is_written_when_the_gate_closes_between_read_and_write(start: Start) {
    let gate = gate_paused_once(|gate| gate.close(CloseReason::RouteChange, lease_end_in(Duration::ZERO)));
    let mut harness = harness_with(start, gate, None).await;
    harness.server.write_all(b"COMMIT").await.unwrap();
    assert!(read_all(&mut harness.client).await.unwrap().is_empty());
    assert!(matches!(harness.end.await.unwrap(), RelayEnd::GateClosed));
}

// fencing F-3, 4.5
async fn nothing_is_written_when_the_lease_ends_between_read_and_write(start: Start) {
    let gate = gate_paused_once(|gate| assert!(gate.renew(Boottime::from_nanos(1), lease_end_in(Duration::ZERO))));
    let mut harness = harness_with(start, gate, None).await;
    harness.client.write_all(b"INSERT").await.unwrap();
    assert!(read_all(&mut harness.server).await.unwrap().is_empty());
    assert!(matches!(harness.end.await.unwrap(), RelayEnd::GateClosed));
}

async fn the_rest_of_a_partial_write_is_not_written_after_the_lease(start: Start) {
    let mut harness = harness_with(start, Arc::new(open_gate()), Some(8192)).await;
    fill(&mut harness.server).await;
    let written = value(&harness.counters.to_client);
    assert!(
        harness
            .gate
            .renew(Boottime::from_nanos(1), lease_end_in(Duration::ZERO))
    );
    let mut got = 0;
    let mut buffer = vec![0; 65536];
    // The relay closes with bytes unread, so the end may be a reset.
    while let Ok(bytes @ 1..) = harness.client.read(&mut buffer).await {
        got += bytes as u64;
    }
    assert!(got <= written);
    assert!(matches!(harness.end.await.unwrap(), RelayEnd::GateClosed));
    assert_eq!(value(&harness.counters.to_client), written);
}

async fn an_end_of_stream_is_not_passed_on_after_the_gate_has_closed(start: Start) {
    let gate = gate_paused_once(|gate| assert!(gate.renew(Boottime::from_nanos(1), lease_end_in(Duration::ZERO))));
    let mut harness = harness_with(start, gate, None).await;
    harness.server.shutdown().await.unwrap();
    assert!(read_all(&mut harness.client).await.unwrap().is_empty());
    assert!(matches!(harness.end.await.unwrap(), RelayEnd::GateClosed));
}

/// One message: its size, its direction, how its stream ends, and which side is slow.
#[derive(Debug, Clone, Copy)]
struct Message {
    bytes: usize,
    toward: Side,
    resets: bool,
    slow_reader: bool,
    slow_writer: bool,
}

/// Sizes around every limit of both methods.
const SIZES: [usize; 10] = [
    1,
    4095,
    super::copy::BUFFER_BYTES - 1,
    super::copy::BUFFER_BYTES,
    super::copy::BUFFER_BYTES + 1,
    65_536,
    256 * 1024,
    256 * 1024 + 1,
    MIB,
    4 * MIB,
];

async fn every_size_arrives_whatever_the_direction_the_end_and_the_pace(start: Start) {
    for (at, bytes) in SIZES.into_iter().enumerate() {
        for kind in 0..8 {
            // The pace depends on kind and size, so that every pair occurs.
            let pace = (at + kind / 4) % 3;
            check_message(
                start,
                Message {
                    bytes,
                    toward: if kind & 1 == 0 { Side::Client } else { Side::Server },
                    resets: kind & 2 != 0,
                    slow_reader: pace == 1,
                    slow_writer: pace == 2,
                },
            )
            .await;
        }
    }
}

async fn check_message(start: Start, message: Message) {
    let harness = harness(start).await;
    let (mut writer, mut reader) = match message.toward {
        Side::Client => (harness.server, harness.client),
        Side::Server => (harness.client, harness.server),
    };
    let sent = pattern(0, message.bytes);
    let piece = if message.slow_writer {
        message.bytes.div_ceil(50)
    } else {
        message.bytes
    };
    let (all_there, wait) = tokio::sync::oneshot::channel::<()>();
    let write = async {
        for piece in sent.chunks(piece) {
            writer.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        if message.resets {
            wait.await.unwrap(); // a reset overtakes what has not been read
            reset(writer);
        } else {
            writer.shutdown().await.unwrap();
        }
    };
    let read = async {
        if message.slow_reader {
            // Until all buffers are full, or everything has arrived.
            for _ in 0..200 {
                tokio::task::yield_now().await;
            }
        }
        let mut got = vec![0; message.bytes];
        for piece in got.chunks_mut(if message.slow_reader { 7000 } else { message.bytes }) {
            reader.read_exact(piece).await.unwrap();
        }
        assert!(got == sent, "{message:?}");
        if message.resets {
            all_there.send(()).unwrap();
            expect_reset(&mut reader).await;
        } else {
            assert_eq!(reader.read(&mut got).await.unwrap(), 0, "{message:?}");
            drop(reader);
        }
    };
    tokio::join!(write, read);
    match harness.end.await.unwrap() {
        RelayEnd::Failed(_) if message.resets => {}
        RelayEnd::ClientFinished | RelayEnd::ServerFinished if !message.resets => {}
        end => panic!("{message:?} ended as {end:?}"),
    }
}

// proxy section 4: batching holds back no message, whatever its size
async fn streams_with_messages_after_them_never_stall(start: Start) {
    let harness = harness(start).await;
    let (mut from, mut to) = (harness.server, harness.client);
    for _direction in 0..2 {
        streams_with_messages_after_them(&mut from, &mut to).await;
        std::mem::swap(&mut from, &mut to);
    }
    drop((from, to));
    harness.end.await.unwrap();
}

async fn streams_with_messages_after_them(from: &mut TcpStream, to: &mut TcpStream) {
    let piece = pattern(0, 8192);
    for (round, bytes) in [1, 2, 4095, 4096, 60_000, 127 * 1024, 128 * 1024 + 1, 300_000]
        .into_iter()
        .enumerate()
    {
        let pieces = 64 << (round % 4);
        let write = async {
            for _ in 0..pieces {
                from.write_all(&piece).await.unwrap();
                tokio::task::yield_now().await; // so that they arrive one by one, and are batched
            }
            // Let the relay empty its sockets, so that the message arrives alone.
            for _ in 0..round {
                tokio::task::yield_now().await;
            }
            from.write_all(&pattern(round, bytes)).await.unwrap();
        };
        let read = async {
            let mut got = vec![0; pieces * piece.len()];
            to.read_exact(&mut got).await.unwrap();
            assert!(got.chunks(piece.len()).all(|got| got == piece));
            got.resize(bytes, 0);
            // The reader sends nothing that would end the batching.
            to.read_exact(&mut got[..bytes]).await.unwrap();
            assert!(got[..bytes] == pattern(round, bytes));
        };
        tokio::join!(write, read);
        to.write_u8(7).await.unwrap();
        assert_eq!(from.read_u8().await.unwrap(), 7);
    }
}

// nothing is read meanwhile, for longer than a tick of the batching
async fn a_stream_whose_reader_was_slow_arrives_to_its_last_byte(start: Start) {
    let harness = harness(start).await;
    let (mut from, mut to) = (harness.server, harness.client);
    for _direction in 0..2 {
        let mut got = vec![0; fill(&mut from).await];
        to.read_exact(&mut got).await.unwrap();
        for _ in 0..3 {
            from.write_u8(9).await.unwrap();
            assert_eq!(to.read_u8().await.unwrap(), 9);
        }
        std::mem::swap(&mut from, &mut to);
    }
    drop((from, to));
    harness.end.await.unwrap();
}

// proxy P-16: a read stops at an urgent byte, and splice(2) does not get past it
async fn urgent_bytes_delay_nothing(start: Start) {
    for inline in [true, false] {
        for before in [0, 3, super::copy::BUFFER_BYTES, 300_000] {
            let (client, inner_client) = connection(None).await;
            let (inner_server, mut server) = connection(None).await;
            let (socket, received) = (SockRef::from(&client), SockRef::from(&inner_client));
            received.set_out_of_band_inline(inline).unwrap();
            // All of it is there before the relay starts, so that one event announces it.
            let mut expected = pattern(0, before);
            send_all(&socket, &expected);
            for urgent in [b"d", b"h"] {
                assert_eq!(socket.send_out_of_band(urgent).unwrap(), 1);
                expected.extend(inline.then_some(urgent[0]));
                send_all(&socket, b"efg");
                expected.extend(b"efg");
                if !inline {
                    break; // a second one would overwrite the first
                }
            }
            let counters = Arc::default();
            let end = start(inner_client, inner_server, Arc::new(open_gate()), Arc::clone(&counters));
            let mut got = vec![0; expected.len()];
            // The stream stays open: its end would be another event.
            server.read_exact(&mut got).await.unwrap();
            assert!(got == expected, "{before} bytes before, inline: {inline}");
            drop((client, server));
            end.await.unwrap();
        }
    }
}

fn send_all(socket: &SockRef<'_>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        bytes = &bytes[socket.send(bytes).unwrap()..];
    }
}
