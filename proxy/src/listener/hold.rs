//! Clients that wait for the next master (P-8): a socket and a small entry each. When they go on or are closed is
//! decided by the listener.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Duration;

use control::clock::Boottime;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;

use super::Counted;

/// How often held clients are looked through for dead ones, when there are as many as may be.
const LOOK_FOR_DEAD_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub(super) clients: VecDeque<Held>,
    looked_for_dead: Boottime,
}

/// A client that waits for the next master: its socket, of which nothing is read.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) client: OwnedFd,
    pub(super) until: Boottime,
    pub(super) counted: Counted,
}

impl Waiting {
    /// Whether there is room for one more, if need be after the dead are gone; and how many of those there were.
    pub(super) fn make_room(&mut self, max: usize, now: Boottime) -> (bool, usize) {
        let before = self.clients.len();
        if self.clients.len() >= max && now.since(self.looked_for_dead) >= LOOK_FOR_DEAD_EVERY {
            self.looked_for_dead = now;
            self.drop_dead();
        }
        (self.clients.len() < max, before - self.clients.len())
    }

    /// Forgets clients that are gone.
    fn drop_dead(&mut self) {
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
