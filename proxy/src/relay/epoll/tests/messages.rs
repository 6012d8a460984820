//! Messages of every size, and streams with messages after them: nothing is held back.

use super::*;

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

pub(super) async fn every_size_arrives_whatever_the_direction_the_end_and_the_pace(start: Start) {
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
pub(super) async fn streams_with_messages_after_them_never_stall(start: Start) {
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
pub(super) async fn a_stream_whose_reader_was_slow_arrives_to_its_last_byte(start: Start) {
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
