//! Clients that wait for the next master (P-8): a socket and a small entry each. When they go on or are closed is
//! decided by the listener.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Duration;

use control::clock::Boottime;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;

use super::ConnectionCount;

/// How often held clients are looked through for dead ones, when there are as many as may be.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(super) struct HoldQueue {
    pub(super) clients: VecDeque<HeldClient>,
    last_check: Boottime,
}

/// A client that waits for the next master: its socket, of which nothing is read.
#[derive(Debug)]
pub(super) struct HeldClient {
    pub(super) client: OwnedFd,
    pub(super) until: Boottime,
    pub(super) count: ConnectionCount,
}

impl HoldQueue {
    /// Whether there is room for one more, if need be after the dead are gone; and how many of those there were.
    pub(super) fn make_room(&mut self, max: usize, now: Boottime) -> (bool, usize) {
        let before = self.clients.len();
        if self.clients.len() >= max && now.since(self.last_check) >= CHECK_INTERVAL {
            self.last_check = now;
            self.remove_closed();
        }
        (self.clients.len() < max, before - self.clients.len())
    }

    /// Forgets clients that are gone.
    fn remove_closed(&mut self) {
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let mut polled: Vec<_> = self
            .clients
            .iter()
            .map(|held| PollFd::new(&held.client, PollFlags::RDHUP))
            .collect();
        let zero = rustix::event::Timespec::default();
        if retry_on_intr(|| poll(&mut polled, Some(&zero))).is_err() {
            return; // no memory for it: all of them stay
        }
        let mut dead = polled
            .iter()
            .map(|fd| fd.revents().intersects(gone))
            .collect::<Vec<_>>()
            .into_iter();
        self.clients.retain(|_| !dead.next().unwrap_or(false));
    }
}
