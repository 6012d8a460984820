//! Clients that are there before trouble begins and must not notice it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use stolon_tests::wait::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::rig::{PATIENCE, Proxy};

/// From a byte to what is spliced.
const SIZES: [usize; 5] = [1, 7, 700, 9_000, 150_000];
/// Between two messages of a client, so that they leave the machine to others.
const PACE: Duration = Duration::from_millis(3);

/// A few clients that exchange messages of all sizes without end. Each looks at every byte that comes back, and an
/// error, an end or a wrong byte fails the test.
pub(crate) struct Regulars {
    rounds: Vec<Arc<AtomicU64>>,
    tasks: JoinSet<()>,
}

impl Regulars {
    /// So many clients of the master `A`, which echoes what it does not understand.
    pub(crate) async fn of(proxy: &Proxy, count: u8) -> Self {
        let (mut rounds, mut tasks) = (Vec::new(), JoinSet::new());
        for number in 0..count {
            let client = proxy.client_of(b'A').await;
            let mine = Arc::new(AtomicU64::new(0));
            rounds.push(Arc::clone(&mine));
            tasks.spawn(exchange(client.socket, number, mine));
        }
        Self { rounds, tasks }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.rounds.len()
    }

    /// Waits until each of them has had another `rounds` of messages answered, and nothing was wrong with any so far.
    pub(crate) async fn go_on(&mut self, rounds: u64) {
        let now = |all: &[Arc<AtomicU64>]| -> Vec<u64> { all.iter().map(|one| one.load(Ordering::Relaxed)).collect() };
        let before = now(&self.rounds);
        eventually("the old clients to go on", PATIENCE, async || {
            if let Some(ended) = self.tasks.try_join_next() {
                ended.unwrap(); // tells what was wrong
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

    /// Ends them, and asserts that the proxy has no more descriptors than `before` they came, but for the pipes that are
    /// kept for the next ones, and that nothing was wrong with it.
    pub(crate) async fn leave(self, proxy: &Proxy, before: usize) {
        let pipes = 4 * self.count(); // one for either direction
        drop(self);
        let after = proxy.settled_descriptors().await;
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
        let (sent, got) = tokio::time::timeout(PATIENCE, both).await.expect("an echo in time");
        sent.expect("an old client can write");
        got.expect("an old client can read");
        assert!(echo == message, "an old client got other bytes than its own");
        rounds.store(round + 1, Ordering::Relaxed);
        tokio::time::sleep(PACE).await;
    }
}
