//! Notifications to systemd (sd_notify(3)): started, status line, stopping, and the watchdog, only while the main loop
//! makes progress; and the socket that systemd passes. Without `NOTIFY_SOCKET` nothing is sent. What a program reports is
//! left to `health`.

use std::env;
use std::io;
use std::net::TcpListener;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;

use crate::health::{ProgramHealth, ServiceStatus};
use crate::notify::{send, status_line};

/// Interval of checks until the program has started.
const START_POLL: Duration = Duration::from_millis(20);
/// Minimum interval of status lines.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// Variables by which systemd passes its socket, the watchdog's time and listening sockets to a service. A child must not
/// inherit them: PostgreSQL would report its own state as the service's.
pub const VARIABLES: [&str; 7] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
];

/// Why a passed socket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// There are several.
    #[error("systemd passed {0} sockets: give the socket unit one ListenStream=, such as 5432 for every interface")]
    Count(usize),
    /// It is not a TCP socket, or does not listen.
    #[error(
        "the socket that systemd passed does not listen for TCP connections: use ListenStream= with a port and Accept=no"
    )]
    Kind(#[source] io::Error),
}

/// Set once the program stops.
static IS_STOPPING: AtomicBool = AtomicBool::new(false);
/// The thread that notifies.
static THREAD: OnceLock<Thread> = OnceLock::new();

/// Reports the health of the program to systemd from now on, on a thread of its own, if systemd started it with
/// `Type=notify`.
///
/// # Errors
/// The thread cannot be created.
pub fn report(health: ProgramHealth) -> io::Result<()> {
    if env::var_os("NOTIFY_SOCKET").is_none() {
        return Ok(());
    }
    let started = thread::Builder::new()
        .name("systemd".to_owned())
        .spawn(move || run(&health))?;
    // Only the first call has an effect on what `report_stopping` wakes.
    let _ = THREAD.set(started.thread().clone());
    Ok(())
}

/// Reports that the program stops. The socket may block, so its thread sends.
pub fn report_stopping() {
    IS_STOPPING.store(true, Ordering::Relaxed);
    if let Some(thread) = THREAD.get() {
        thread.unpark();
    }
}

/// Returns the listening socket that systemd passed, if it passed one (sd_listen_fds(3)).
///
/// # Errors
/// There are several, or it does not listen for TCP connections.
pub fn inherited_listener() -> Result<Option<TcpListener>, InheritError> {
    let mut passed = ListenFd::from_env();
    if passed.len() > 1 {
        return Err(InheritError::Count(passed.len()));
    }
    let Some(listener) = passed.take_tcp_listener(0).map_err(InheritError::Kind)? else {
        return Ok(None);
    };
    match rustix::net::sockopt::socket_acceptconn(&listener) {
        Ok(true) => Ok(Some(listener)),
        Ok(false) => Err(InheritError::Kind(io::ErrorKind::NotConnected.into())),
        Err(error) => Err(InheritError::Kind(error.into())),
    }
}

fn run(health: &ProgramHealth) {
    let watchdog_interval = sd_notify::watchdog_enabled().map(|timeout| timeout / 3);
    let interval = watchdog_interval.map_or(STATUS_INTERVAL, |interval| interval.min(STATUS_INTERVAL));
    let mut reported = Reported::default();
    while !IS_STOPPING.load(Ordering::Relaxed) {
        let is_fed = watchdog_interval.is_some() && health.is_alive();
        send(&reported.update(&health.status(), is_fed));
        let delay = match reported.is_started {
            true => interval,
            false => START_POLL.min(interval),
        };
        thread::park_timeout(delay);
    }
    send(&[NotifyState::Stopping]);
}

/// What systemd was notified of.
#[derive(Debug, Default)]
struct Reported {
    is_started: bool,
    line: String,
}

impl Reported {
    /// Returns what to notify of now. `is_fed`: the watchdog is fed.
    fn update(&mut self, status: &ServiceStatus, is_fed: bool) -> Vec<NotifyState<'_>> {
        let mut states = Vec::new();
        if status.is_started && !self.is_started {
            self.is_started = true;
            states.push(NotifyState::Ready);
        }
        if is_fed {
            states.push(NotifyState::Watchdog);
        }
        let line = status_line(&status.summary, status.not_ready.as_deref());
        if line != self.line {
            self.line = line;
            states.push(NotifyState::Status(&self.line));
        }
        states
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_is_notified_of_what_changed_and_the_watchdog_is_fed_while_the_loop_turns() {
        let mut reported = Reported::default();
        let mut sent = |is_started, summary: &str, is_fed| {
            let status = ServiceStatus {
                is_started,
                summary: summary.to_owned(),
                ..ServiceStatus::default()
            };
            let states = reported.update(&status, is_fed);
            let states: Vec<String> = states.iter().map(ToString::to_string).collect();
            states.join(" ")
        };
        assert_eq!(sent(false, "starting", true), "WATCHDOG=1 STATUS=starting");
        assert_eq!(sent(true, "leader", true), "READY=1 WATCHDOG=1 STATUS=leader");
        assert_eq!(sent(true, "leader", true), "WATCHDOG=1");
        assert_eq!(sent(true, "leader", false), "", "the loop hangs");
        assert_eq!(sent(false, "candidate", true), "WATCHDOG=1 STATUS=candidate");
    }
}
