//! Ends the WAL senders of a server that shuts down. Before its shutdown checkpoint it waits until they have sent what
//! there is, and after that until their standbys have received it: up to `wal_sender_timeout`, when a standby is suspended.
//! Ending them ends that wait, and the shutdown stays clean.

use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::postgres::data::walker::Walker;
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
    let senders = process::with_title(data, wal_sender).filter_map(|(pid, ())| {
        // Looked at again once it is held, so that its id cannot be that of another process.
        let process = Process::open(pid).ok()??;
        wal_sender(&process::title_of(pid)?)?;
        process::works_in(pid, data).then_some(process)
    });
    senders.filter(|sender| sender.signal(Signal::TERM).is_ok()).count()
}

/// Picks the title of a WAL sender: `postgres: walsender …`.
fn wal_sender(title: &str) -> Option<()> {
    let activity = title.strip_prefix("postgres: ")?;
    let is_sender = activity.starts_with("walsender ") || activity.contains(": walsender ");
    is_sender.then_some(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;

    use super::*;

    #[test]
    fn the_title_names_a_wal_sender() {
        let is = |title: &str| wal_sender(title).is_some();
        assert!(is("postgres: walsender repl 127.0.0.1(40112) streaming 0/5000060"));
        assert!(is("postgres: main: walsender repl [local] streaming 0/5000060"));
        for other in [
            "postgres: checkpointer ",
            "postgres: walreceiver streaming 0/5000060",
            "postgres: walsender: checkpointer ",
            "vi postgres: walsender notes",
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
