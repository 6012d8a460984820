//! Finds and ends the WAL senders of a server that shuts down. Before its shutdown checkpoint the server waits until they
//! have sent what there is, and after that until their receivers have confirmed it: up to `wal_sender_timeout`, when a standby
//! is suspended. Ending them ends that wait, and the shutdown stays clean.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use model::Lsn;
use rustix::process::Signal;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::postgres::data::walker::{FileSystemHung, Walker};
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
            Ok(ended) => info!(number = ended, "ending WAL senders, for which the shutdown waits"),
            Err(error) => warn!(%error, "cannot look for WAL senders"),
        }
    }
}

/// Returns the WAL senders of the server on a PGDATA as their titles show them: user, client and state, without the
/// position. A server that shuts down answers no query.
///
/// # Errors
/// A file system does not answer.
pub async fn connected(data: &Path, walker: &Walker) -> Result<BTreeSet<String>, FileSystemHung> {
    let data = data.to_owned();
    let find = move || {
        let senders = process::with_title(&data, |title| wal_sender(title).map(without_position));
        senders.map(|(_, sender)| sender).collect()
    };
    walker.run(find).await
}

fn without_position(sender: &str) -> String {
    let position = |word: &str| Lsn::parse(word).is_some();
    let cut = sender.rsplit_once(' ').filter(|(_, last)| position(last));
    cut.map_or(sender, |(sender, _)| sender).to_owned()
}

/// Sends SIGTERM to them, and returns how many there were.
fn end_all(data: &Path) -> usize {
    let senders = process::with_title(data, |title| wal_sender(title).map(drop)).filter_map(|(pid, ())| {
        // Looked at again once it is held, so that its id cannot be that of another process.
        let process = Process::open(pid).ok()??;
        wal_sender(&process::title_of(pid)?)?;
        process::works_in(pid, data).then_some(process)
    });
    senders.filter(|sender| sender.signal(Signal::TERM).is_ok()).count()
}

/// Returns what follows in the title of a WAL sender: `postgres: walsender …`.
fn wal_sender(title: &str) -> Option<&str> {
    let activity = title.strip_prefix("postgres: ")?;
    let after_cluster_name = || activity.split_once(": walsender ").map(|(_, rest)| rest);
    activity.strip_prefix("walsender ").or_else(after_cluster_name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;

    use super::*;

    #[test]
    fn the_title_names_a_wal_sender() {
        let activity = "repl 127.0.0.1(40112) streaming 0/5000060";
        assert_eq!(wal_sender(&format!("postgres: walsender {activity}")), Some(activity));
        for cluster_name in ["main", "prod: eu"] {
            let title = format!("postgres: {cluster_name}: walsender {activity}");
            assert_eq!(wal_sender(&title), Some(activity));
        }
        assert_eq!(without_position(activity), "repl 127.0.0.1(40112) streaming");
        assert_eq!(without_position("repl [local] idle"), "repl [local] idle");
        for other in [
            "postgres: checkpointer ",
            "postgres: walreceiver streaming 0/5000060",
            "postgres: walsender: checkpointer ",
            "vi postgres: walsender notes",
            "",
        ] {
            assert_eq!(wal_sender(other), None, "{other}");
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
        let found = connected(data[0].path(), &walker).await.unwrap();
        assert_eq!(found, ["repl 127.0.0.1(1) streaming".to_owned()].into());
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
