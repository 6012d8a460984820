//! The task of the listener: follows the desired state, detects the end of the lease, and accepts clients while it
//! listens (proxy P-4, P-5). What becomes of a client is left to `admission`.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use base::Clock;
use base::clock::Boottime;
use rustix::net::SocketFlags;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::Config;
use super::accept_errors::AcceptErrors;
use super::admission::Admission;
use super::backend::Backend;
use super::disconnect::Disconnector;
use super::handle::{DesiredListener, ListenState, ListenerHandle};
use super::session_threads::SessionThreads;
use super::socket::{BoundSocket, bind};
use crate::metrics::Metrics;
use crate::relay::{BoottimeTimer, RelayThread, sys};

/// Length of the accept queue; the kernel limits it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// Accepts in a row before the other tasks of this thread run.
const ACCEPTS_MAX: usize = 32;
/// Delay between attempts to listen on an address that is taken.
const LISTEN_RETRY_DELAY: Duration = Duration::from_secs(1);

/// The task that follows the desired state, and accepts clients while it listens.
#[derive(Debug)]
pub struct Listener {
    config: Config,
    address: SocketAddr,
    desired: watch::Receiver<DesiredListener>,
    state: watch::Sender<ListenState>,
    bound: Option<BoundSocket>,
    /// A socket that systemd passed. It stays open: clients wait in its queue while no program accepts.
    inherited: Option<BoundSocket>,
    /// Until when clients of an inherited socket wait for the first route.
    first_route_deadline: Option<Boottime>,
    admission: Admission,
    accept_errors: AcceptErrors,
    disconnector: Disconnector,
    metrics: Arc<Metrics>,
    clock: Clock,
}

impl Listener {
    /// Returns a listener that does not listen yet. Its `run` must be spawned on one of `threads`.
    ///
    /// # Errors
    /// An inherited socket cannot be duplicated: no descriptor is left.
    pub fn new(
        config: Config,
        bound: BoundSocket,
        threads: Vec<RelayThread>,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> io::Result<(Self, ListenerHandle)> {
        let inherited = bound.duplicate_inherited()?;
        let (desired_tx, desired) = watch::channel(DesiredListener::default());
        // The kernel's queue of an inherited socket takes clients already.
        let first_state = match &inherited {
            Some(_) => ListenState::Listening,
            None => ListenState::Waiting,
        };
        let (state, state_rx) = watch::channel(first_state);
        let hold = config.hold;
        let clients = Arc::new(AtomicUsize::new(0));
        let address = bound.address;
        let handles = threads.iter().map(|thread| thread.handle().clone()).collect();
        let disconnector = Disconnector::new(handles, Arc::clone(&metrics), clock.clone());
        let handle = ListenerHandle::new(
            desired_tx,
            state_rx,
            Arc::clone(&clients),
            address,
            disconnector.clone(),
        );
        let threads = SessionThreads::new(&config, address, threads, &metrics, &clock);
        let admission = Admission::new(&config, threads, clients, Arc::clone(&metrics), clock.clone());
        let listener = Self {
            config,
            address,
            desired,
            state,
            bound: Some(bound),
            first_route_deadline: inherited.as_ref().map(|_| clock.now() + hold),
            inherited,
            admission,
            accept_errors: AcceptErrors::new(Arc::clone(&metrics), clock.clone()),
            disconnector,
            metrics,
            clock,
        };
        Ok((listener, handle))
    }

    /// Follows the desired state until `stop` is set in it. Returns an error only if the system has no timer for it.
    pub async fn run(mut self) -> io::Result<()> {
        let lease_timer = BoottimeTimer::new()?;
        let mut listening: Option<AsyncFd<OwnedFd>> = None;
        let mut was_leased = false;
        loop {
            let desired = self.desired.borrow_and_update().clone();
            if desired.stop {
                return Ok(());
            }
            let now = self.clock.now();
            let connections = desired.backend.as_ref().map_or(0, |backend| backend.clients());
            // Checked in every round, because the check-in that would close the route may be what hangs (fencing F-4).
            let disconnect_if_ended =
                |backend: &Arc<Backend>| self.disconnector.disconnect_at_lease_end(backend.gate(), now);
            if desired.backend.as_ref().is_some_and(disconnect_if_ended) {
                self.metrics.route.set_open(false, self.clock.wall());
            }
            let leased = desired.lease_end.is_some_and(|end| now < end);
            if was_leased && !leased {
                warn!(timeout = ?desired.proxy_timeout, connections, "check timeout timer fired");
                // Clients of an inherited socket would wait instead of being refused: they are accepted and closed.
                let stops_listening = self.config.stop_listening && self.inherited.is_none();
                if stops_listening && listening.take().is_some() {
                    self.set_state(ListenState::Stopped);
                    info!("Stopping listening");
                    // Bound but not listening: clients are refused, and no other process can take the port.
                    self.bound = bind(&self.config, self.address).ok();
                }
            }
            was_leased = leased;
            // A draining proxy does not bind again: it will not listen any more.
            if desired.drain && listening.take().is_some() {
                self.set_state(ListenState::Stopped);
                info!("Stopping listening");
            }
            let first_route_deadline = self.update_first_route_deadline(&desired, now);
            // Clients of an inherited socket wait in its queue whether or not there is a lease: they are closed instead.
            let may_accept = leased || self.inherited.is_some();
            let should_listen = may_accept && !desired.drain && first_route_deadline.is_none();
            if should_listen && listening.is_none() {
                listening = self.listen();
            }
            let first_hold_end = self.admission.release_held(&desired, now);
            // The route may end before the lease: an address that was only kept ends with the lease that confirmed it.
            let deadlines = [
                desired.lease_end.filter(|_| leased),
                desired.backend.as_ref().and_then(|backend| backend.gate().lease_end()),
            ];
            let next_deadline = deadlines.into_iter().flatten().min();
            let retry_listen = should_listen && listening.is_none();
            tokio::select! {
                biased; // a change of the desired state comes before the next client
                changed = self.desired.changed() => if changed.is_err() { return Ok(()) },
                fired = lease_timer.wait_until(next_deadline.unwrap_or_default()), if next_deadline.is_some() => fired?,
                () = tokio::time::sleep(LISTEN_RETRY_DELAY), if retry_listen => {}
                () = tokio::time::sleep(first_route_deadline.unwrap_or(now).since(now)), if first_route_deadline.is_some() => {}
                () = tokio::time::sleep(first_hold_end.unwrap_or(now).since(now)), if first_hold_end.is_some() => {}
                () = accept_batch(&self.admission, &self.accept_errors, listening.as_ref(), &desired), if listening.is_some() => {}
            }
        }
    }

    /// Starts to listen, on the socket that is bound already or on a new one.
    fn listen(&mut self) -> Option<AsyncFd<OwnedFd>> {
        let address = self.address;
        let bound = self.bound.take().map_or_else(|| self.bind_again(), Ok);
        let listening = bound.and_then(|bound| {
            bound.socket.listen(BACKLOG)?;
            sys::readable(bound.socket.into())
        });
        match listening {
            Ok(listening) => {
                info!(%address, "Starting proxying");
                self.set_state(ListenState::Listening);
                Some(listening)
            }
            Err(err) => {
                let failed = ListenState::Failed(err.to_string());
                if *self.state.borrow() != failed {
                    error!(%address, error = %err, "could not listen for clients, trying again");
                    self.set_state(failed);
                }
                None
            }
        }
    }

    /// Returns until when clients of an inherited socket wait for the first route, while they do: a proxy that was
    /// restarted is enabled a moment after its first check-in.
    fn update_first_route_deadline(&mut self, desired: &DesiredListener, now: Boottime) -> Option<Boottime> {
        let is_over = |limit: &Boottime| desired.backend.is_some() || *limit <= now;
        self.first_route_deadline = self.first_route_deadline.filter(|deadline| !is_over(deadline));
        self.first_route_deadline
    }

    fn bind_again(&self) -> io::Result<BoundSocket> {
        let inherited = self.inherited.as_ref().map(BoundSocket::duplicate_inherited);
        match inherited.transpose()?.flatten() {
            Some(inherited) => Ok(inherited),
            None => bind(&self.config, self.address),
        }
    }

    fn set_state(&self, state: ListenState) {
        self.metrics.connections.set_listening(state == ListenState::Listening);
        self.state.send_replace(state);
    }
}

/// Waits for clients and admits a batch of them. Cancelling it loses no client.
async fn accept_batch(
    admission: &Admission,
    errors: &AcceptErrors,
    listening: Option<&AsyncFd<OwnedFd>>,
    desired: &DesiredListener,
) {
    let Some(listening) = listening else { return };
    let Ok(mut ready) = listening.readable().await else {
        return;
    };
    for _ in 0..ACCEPTS_MAX {
        match ready.try_io(accept) {
            Ok(Ok(client)) => admission.admit(client, desired),
            Ok(Err(err)) => {
                if let Some(delay) = errors.handle(&err, || accept(listening).is_ok()) {
                    return tokio::time::sleep(delay).await;
                }
            }
            Err(_would_block) => return,
        }
    }
    tokio::task::yield_now().await;
}

fn accept(listening: &AsyncFd<OwnedFd>) -> io::Result<OwnedFd> {
    Ok(rustix::net::accept_with(
        listening,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
    )?)
}
