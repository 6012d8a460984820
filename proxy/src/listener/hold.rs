//! The queue of clients that wait for the next master (proxy P-8): a socket and a small entry each. When they are
//! connected or closed is decided by the listener.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Duration;

use base::clock::Boottime;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;

use crate::relay::ConnectionCount;

/// Shortest time between two checks of a full queue for clients that have gone away.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(super) struct HoldQueue {
    pub(super) clients: VecDeque<HeldClient>,
    last_check: Boottime,
}

/// A client that waits for the next master. Nothing is read from its socket.
#[derive(Debug)]
pub(super) struct HeldClient {
    pub(super) client: OwnedFd,
    pub(super) until: Boottime,
    pub(super) count: ConnectionCount,
}

impl HoldQueue {
    /// Makes room for one more client, by removing closed ones if the queue is full. Returns whether there is room, and
    /// how many were removed.
    pub(super) fn make_room(&mut self, max: usize, now: Boottime) -> (bool, usize) {
        let before = self.clients.len();
        if self.clients.len() >= max && now.since(self.last_check) >= CHECK_INTERVAL {
            self.last_check = now;
            self.remove_closed();
        }
        (self.clients.len() < max, before - self.clients.len())
    }

    /// Removes clients that have closed their connection.
    fn remove_closed(&mut self) {
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let mut polled: Vec<_> = self
            .clients
            .iter()
            .map(|held| PollFd::new(&held.client, PollFlags::RDHUP))
            .collect();
        let zero = rustix::event::Timespec::default();
        if retry_on_intr(|| poll(&mut polled, Some(&zero))).is_err() {
            return; // the kernel has no memory for it: keep all
        }
        let mut closed = polled
            .iter()
            .map(|fd| fd.revents().intersects(gone))
            .collect::<Vec<_>>()
            .into_iter();
        self.clients.retain(|_| !closed.next().unwrap_or(false));
    }
}
