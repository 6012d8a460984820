//! Messages to systemd's notification socket (sd_notify(3)). Without `NOTIFY_SOCKET` nothing is sent. What a running program
//! reports is left to `systemd`.

use std::env;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;

/// Limit of the report of a failure.
const FAILURE_LIMIT: Duration = Duration::from_secs(1);

/// Reports why the program ends as its last status line, within a second. `systemctl status` shows that line also while
/// the unit waits for its next start, when it shows no log line of the attempt before.
pub(crate) fn report_failure(reason: &str) {
    if env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let line = status_line(reason, None);
    let (sent, is_sent) = mpsc::channel();
    // The socket may block.
    let sender = thread::Builder::new().spawn(move || {
        send(&[NotifyState::Status(&line)]);
        // After a second the receiver is gone.
        let _ = sent.send(());
    });
    if sender.is_ok() {
        // The program ends either way.
        let _ = is_sent.recv_timeout(FAILURE_LIMIT);
    }
}

/// Returns a status line: what the program does, and why it does not do its job.
pub(crate) fn status_line(summary: &str, not_ready: Option<&str>) -> String {
    let line = match (summary, not_ready) {
        (summary, None) => summary.to_owned(),
        ("", Some(reason)) => reason.to_owned(),
        (summary, Some(reason)) => format!("{summary}: {reason}"),
    };
    // A line break would begin another assignment.
    line.replace(['\n', '\r'], " ")
}

/// Sends a message; an error is only logged.
pub(crate) fn send(states: &[NotifyState<'_>]) {
    if states.is_empty() {
        return;
    }
    if let Err(error) = sd_notify::notify(states) {
        // Without systemd nothing waits for the notification; systemd logs a timeout of its own.
        tracing::debug!(%error, "could not notify systemd");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_line_has_the_reason_and_no_line_break() {
        assert_eq!(status_line("leader", None), "leader");
        assert_eq!(status_line("", Some("starting")), "starting");
        assert_eq!(status_line("standby", Some("down:\nwhy")), "standby: down: why");
    }
}
