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

mod gates;
mod harness;
mod messages;
mod methods;
mod schedules;

use self::gates::*;
use self::harness::*;
use self::messages::*;
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
