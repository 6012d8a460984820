//! Ends the WAL senders of a server that shuts down. Before its shutdown checkpoint it waits until they have sent what
//! there is, and after that until their standbys have received it: up to `wal_sender_timeout`, when a standby is suspended.
//! Ending them ends that wait, and the shutdown stays clean.

use std::convert::Infallible;
use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::postgres::data::walker::{self, Walker};
use crate::postgres::server::process::{self, Process};

/// Interval of looking for them.
const POLL: Duration = Duration::from_secs(1);

/// Ends the WAL senders of the server on a PGDATA after a second, and again every second, until it is dropped.
pub async fn end_repeatedly(data: &Path, walker: &Walker) -> Infallible {
    loop {
        sleep(POLL).await;
        let data = data.to_owned();
        match walker.run(move || end_all(&data)).await {
            Ok(0) => {}
            Ok(ended) => info!(walSenders = ended, "ending WAL senders, for which the shutdown waits"),
            Err(error) => warn!(%error, "cannot look for WAL senders"),
        }
    }
}

/// Sends SIGTERM to them, and returns how many there were.
fn end_all(data: &Path) -> usize {
    let Ok(processes) = fs::read_dir("/proc") else { return 0 };
    let senders = processes.flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        walker::progress_at(&entry.path());
        let is_sender = || fs::read(entry.path().join("cmdline")).is_ok_and(|cmdline| is_wal_sender(&cmdline));
        if !is_sender() {
            return None;
        }
        // Looked at again once it is held, so that its id cannot be that of another process.
        let process = Process::open(pid).ok()??;
        (is_sender() && process::works_in(pid, data)).then_some(process)
    });
    senders.filter(|sender| sender.signal(Signal::TERM).is_ok()).count()
}

/// Returns whether this is the title of a WAL sender: `postgres: walsender …`, with the cluster name before it if there is
/// one (PostgreSQL manual 28.1).
fn is_wal_sender(cmdline: &[u8]) -> bool {
    let title = String::from_utf8_lossy(cmdline);
    let Some(activity) = title.strip_prefix("postgres: ") else {
        return false;
    };
    activity.starts_with("walsender ") || activity.contains(": walsender ")
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;

    use super::*;

    #[test]
    fn the_title_names_a_wal_sender() {
        let is = |title: &str| is_wal_sender(title.as_bytes());
        assert!(is("postgres: walsender repl 127.0.0.1(40112) streaming 0/5000060\0\0"));
        assert!(is("postgres: main: walsender repl [local] streaming 0/5000060\0"));
        for other in [
            "postgres: checkpointer \0",
            "postgres: walreceiver streaming 0/5000060\0",
            "postgres: walsender: checkpointer \0",
            "vi postgres: walsender notes\0",
            "",
        ] {
            assert!(!is(other), "{other}");
        }
    }

    /// Two servers of one host shut down.
    #[tokio::test]
    async fn only_those_of_this_data_directory_are_ended() {
        let data = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let start = |number: usize, title: &str| {
            let mut command = std::process::Command::new("sleep");
            command.arg0(title).arg("1000").current_dir(data[number].path());
            command.spawn().unwrap()
        };
        let mut sender = start(0, "postgres: walsender repl 127.0.0.1(1) streaming 0/1");
        let mut others = [
            start(0, "postgres: checkpointer "),
            start(1, "postgres: walsender repl 127.0.0.1(2) streaming 0/1"),
        ];
        let walker = Walker::default();
        let ended = async {
            while sender.try_wait().unwrap().is_none() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            () = ended => {}
            never = end_repeatedly(data[0].path(), &walker) => match never {},
            () = sleep(Duration::from_secs(60)) => panic!("it is not ended"),
        }
        for other in &mut others {
            assert!(other.try_wait().unwrap().is_none(), "it runs on");
            other.kill().unwrap();
            other.wait().unwrap();
        }
    }
}
