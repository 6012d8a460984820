//! The queue of clients that wait for the next master (proxy P-8): a socket and a small entry each. When they are
//! connected or closed is decided by `admission`.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use base::clock::Boottime;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;

use crate::metrics::{HoldOutcome, Metrics, RefusalReason};
use crate::relay::ConnectionCount;

/// Shortest time between two checks of a full queue for clients that have gone away.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// The held clients, oldest first. All wait for the same time, so the oldest expires first.
#[derive(Debug)]
pub(super) struct HoldQueue {
    clients: VecDeque<HeldClient>,
    max: usize,
    timeout: Duration,
    last_check: Boottime,
    metrics: Arc<Metrics>,
}

/// A client that waits for the next master. Nothing is read from its socket.
#[derive(Debug)]
struct HeldClient {
    client: OwnedFd,
    until: Boottime,
    count: ConnectionCount,
}

impl HoldQueue {
    /// Returns an empty queue that holds at most `max` clients, each for `timeout`; zero disables holding.
    pub(super) fn new(max: usize, timeout: Duration, metrics: Arc<Metrics>) -> Self {
        Self {
            clients: VecDeque::new(),
            max,
            timeout,
            last_check: Boottime::default(),
            metrics,
        }
    }

    /// Holds a client, or closes it if there is no room.
    pub(super) fn hold(&mut self, client: OwnedFd, count: ConnectionCount, now: Boottime) {
        if self.has_room(now) {
            let until = now + self.timeout;
            self.clients.push_back(HeldClient { client, until, count });
        } else {
            self.metrics.connections.count_refused(RefusalReason::HoldFull);
        }
        self.report_length();
    }

    /// Takes all clients out, oldest first, to connect each.
    pub(super) fn connect_all(&mut self, mut connect: impl FnMut(OwnedFd, ConnectionCount)) {
        while let Some(held) = self.clients.pop_front() {
            self.metrics.connections.count_hold_outcome(HoldOutcome::Connected);
            connect(held.client, held.count);
        }
        self.report_length();
    }

    /// Closes the clients that have waited too long.
    pub(super) fn close_expired(&mut self, now: Boottime) {
        while self.first_end().is_some_and(|end| end <= now) {
            self.clients.pop_front();
            self.metrics.connections.count_hold_outcome(HoldOutcome::Expired);
        }
        self.report_length();
    }

    /// Closes all clients.
    pub(super) fn close_all(&mut self, now: Boottime) {
        self.close_expired(now);
        while self.clients.pop_front().is_some() {
            self.metrics.connections.count_hold_outcome(HoldOutcome::RouteClosed);
        }
        self.report_length();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Returns when the first client will have waited too long.
    pub(super) fn first_end(&self) -> Option<Boottime> {
        self.clients.front().map(|held| held.until)
    }

    /// Whether there is room for one more client. Removes closed ones if the queue is full.
    fn has_room(&mut self, now: Boottime) -> bool {
        if self.clients.len() >= self.max && now.since(self.last_check) >= CHECK_INTERVAL {
            self.last_check = now;
            self.remove_closed();
        }
        self.clients.len() < self.max
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
        let before = self.clients.len();
        self.clients.retain(|_| !closed.next().unwrap_or(false));
        for _ in self.clients.len()..before {
            self.metrics.connections.count_hold_outcome(HoldOutcome::Abandoned);
        }
    }

    fn report_length(&self) {
        self.metrics.connections.set_held(self.clients.len());
    }
}
