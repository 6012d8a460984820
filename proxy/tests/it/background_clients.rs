//! Clients that are connected before a disturbance and must not be affected by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use stolon_tests::deadlines::SHORT_TIMEOUT;
use stolon_tests::wait::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::Proxy;

/// From one byte to a size that is spliced.
const SIZES: [usize; 5] = [1, 7, 700, 9_000, 150_000];
/// Pause between two messages of a client, to leave the CPUs to others.
const MESSAGE_INTERVAL: Duration = Duration::from_millis(3);

/// A few clients that exchange messages of all sizes until they are dropped. Each compares every byte of its echo; an
/// error, an end or a wrong byte fails the test.
pub(crate) struct BackgroundClients {
    rounds: Vec<Arc<AtomicU64>>,
    tasks: JoinSet<()>,
}

impl BackgroundClients {
    /// Starts `count` clients of the master `A`, which echoes everything but questions.
    pub(crate) async fn start(proxy: &Proxy, count: u8) -> Self {
        let (mut rounds, mut tasks) = (Vec::new(), JoinSet::new());
        for number in 0..count {
            let client = proxy.wait_connected_to(b'A').await;
            let mine = Arc::new(AtomicU64::new(0));
            rounds.push(Arc::clone(&mine));
            tasks.spawn(exchange(client.socket, number, mine));
        }
        Self { rounds, tasks }
    }

    pub(crate) fn count(&self) -> usize {
        self.rounds.len()
    }

    /// Waits until each client has completed `rounds` more messages, and none has failed.
    pub(crate) async fn assert_served(&mut self, rounds: u64) {
        let now = |all: &[Arc<AtomicU64>]| -> Vec<u64> { all.iter().map(|one| one.load(Ordering::Relaxed)).collect() };
        let before = now(&self.rounds);
        eventually("the old clients to go on", SHORT_TIMEOUT, async || {
            if let Some(ended) = self.tasks.try_join_next() {
                ended.unwrap(); // panics with the client's error
            }
            let after = now(&self.rounds);
            let all = before
                .iter()
                .zip(&after)
                .all(|(before, after)| before + rounds <= *after);
            if all {
                Ok(())
            } else {
                Err(format!("{before:?} {after:?}"))
            }
        })
        .await;
    }

    /// Stops the clients. Asserts that the proxy has no more descriptors than `before` they started, apart from pooled
    /// pipes, and that it has logged no error.
    pub(crate) async fn stop(self, proxy: &Proxy, before: usize) {
        let pipes = 4 * self.count(); // one for each direction
        drop(self);
        let after = proxy.stable_descriptors().await;
        assert!(after <= before + pipes, "{before} descriptors before, {after} after");
        let log = proxy.process.log();
        assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
    }
}

async fn exchange(mut socket: TcpStream, number: u8, rounds: Arc<AtomicU64>) {
    for round in 0_u64.. {
        let size = SIZES[usize::try_from(round).unwrap() % SIZES.len()];
        let shift = usize::from(number) + usize::try_from(round).unwrap();
        let message: Vec<u8> = (0..size).map(|at| b'a' + ((at * 7 + shift) % 26) as u8).collect();
        let mut echo = vec![0; size];
        let (mut read, mut write) = socket.split();
        let both = async { tokio::join!(write.write_all(&message), read.read_exact(&mut echo)) };
        let (sent, got) = tokio::time::timeout(SHORT_TIMEOUT, both)
            .await
            .expect("an echo in time");
        sent.expect("an old client can write");
        got.expect("an old client can read");
        assert!(echo == message, "an old client got other bytes than its own");
        rounds.store(round + 1, Ordering::Relaxed);
        tokio::time::sleep(MESSAGE_INTERVAL).await;
    }
}
