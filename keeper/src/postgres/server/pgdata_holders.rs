//! Finds and ends processes of the keeper's user that use PGDATA besides a regular server: leftovers of a killed server or
//! keeper, or programs started by hand. All of them end before the data are changed. How one process uses it is in
//! `pgdata_use`; holders of other directories are in `data::external_dir_holders`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use base::Chain;
use rustix::process::Signal;
use tokio::time::timeout;
use tracing::warn;

use crate::postgres::data::walker::{FileSystemHung, Walker};
use crate::postgres::server::pgdata_use::{PgDataPath, UseKind, use_by};
use crate::postgres::server::process::{self, Process};

/// Time limits of the signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndLimits {
    /// For a regular end.
    pub terminate: Duration,
    /// For the end after SIGKILL, which takes a moment where much memory is freed.
    pub killed: Duration,
}

impl Default for EndLimits {
    fn default() -> Self {
        Self {
            terminate: Duration::from_secs(2),
            killed: Duration::from_secs(5),
        }
    }
}

/// A process that uses PGDATA.
#[derive(Debug)]
pub struct PgDataHolder {
    pub process: Process,
    /// Its process title.
    pub program: String,
    /// How it uses PGDATA.
    pub how: UseKind,
}

/// Why PGDATA may still be in use.
#[derive(Debug)]
pub enum EndError {
    /// This process does not end.
    Remains(PgDataHolder),
    /// Reading the processes makes no progress.
    FileSystemHung(FileSystemHung),
}

impl From<FileSystemHung> for EndError {
    fn from(hung: FileSystemHung) -> Self {
        Self::FileSystemHung(hung)
    }
}

/// Returns all processes of this user that use PGDATA, except this one and its ancestors.
pub fn holders_of(data: &Path) -> Vec<PgDataHolder> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let spared = process::ancestors(own);
    let data_dir = PgDataPath::of(data);
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| *pid != own && !spared.contains(pid))
        .filter_map(|pid| {
            let (program, how) = use_by(pid, &data_dir)?;
            let process = Process::open(pid).ok()??;
            Some(PgDataHolder { process, program, how })
        })
        .collect()
}

/// Ends all of them: those of PostgreSQL by SIGQUIT, as a postmaster does when a child has crashed, others by SIGTERM,
/// and the remaining ones by SIGKILL.
///
/// # Errors
///
/// A process does not end, or reading the processes, which is done by `walker`, makes no progress.
pub async fn end_holders(data: &Path, limits: EndLimits, walker: &Walker) -> Result<(), EndError> {
    const ROUNDS: usize = 3; // a shell may start another program when its first one ends
    for round in 0..ROUNDS {
        let holders = find_holders(data, walker).await?;
        if holders.is_empty() {
            return Ok(());
        }
        for holder in &holders {
            warn!(
                pid = holder.process.pid(),
                program = holder.program,
                why = holder.how.as_str(),
                "stopping a process that uses PGDATA"
            );
        }
        let first_signal = |holder: &PgDataHolder| match process::is_postgres(holder.process.pid()) {
            true => Signal::QUIT,
            false => Signal::TERM,
        };
        if round == 0 && signal_all(&holders, first_signal, limits.terminate).await {
            continue;
        }
        signal_all(&holders, |_| Signal::KILL, limits.killed).await;
    }
    let left = find_holders(data, walker).await?.into_iter().next();
    left.map_or(Ok(()), |holder| Err(EndError::Remains(holder)))
}

/// The same as [`holders_of`], on a blocking thread: a host may have very many processes and descriptors, and paths of
/// processes may be on a file system that hangs.
async fn find_holders(data: &Path, walker: &Walker) -> Result<Vec<PgDataHolder>, FileSystemHung> {
    let data = data.to_owned();
    walker.run(move || holders_of(&data)).await
}

async fn signal_all(holders: &[PgDataHolder], signal: impl Fn(&PgDataHolder) -> Signal, limit: Duration) -> bool {
    for holder in holders {
        if let Err(refused) = holder.process.signal(signal(holder)) {
            warn!(pid = holder.process.pid(), error = %Chain(&refused), "could not signal a process");
        }
    }
    let ended = async {
        for holder in holders {
            holder.process.ended().await;
        }
    };
    timeout(limit, ended).await.is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::postgres::data::walker;
    use crate::postgres::programs::environment::RESTORE_DIRECTORY;

    /// A process that is killed when dropped.
    struct Killed(Child);

    impl Drop for Killed {
        fn drop(&mut self) {
            let _ = self.0.kill(); // it may have ended
            let _ = self.0.wait();
        }
    }

    fn sleeps(change: impl FnOnce(&mut Command) -> &mut Command) -> Killed {
        let mut command = Command::new("sleep");
        command.arg("1000").env_remove("PGDATA");
        change(&mut command);
        Killed(command.spawn().unwrap())
    }

    fn shell(script: &str, change: impl FnOnce(&mut Command) -> &mut Command) -> Killed {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::null());
        change(&mut command);
        Killed(command.spawn().unwrap())
    }

    fn found(data: &Path) -> Vec<(u32, UseKind)> {
        let mut found: Vec<_> = holders_of(data)
            .iter()
            .map(|holder| (u32::try_from(holder.process.pid()).unwrap(), holder.how))
            .collect();
        found.sort_by_key(|(pid, _)| *pid);
        found
    }

    /// Waits until the process is found.
    fn is_found(child: &Killed, how: UseKind, data: &Path) {
        let mut looks = std::iter::repeat_with(|| found(data)).take(2000);
        assert!(
            looks.any(|found| {
                std::thread::sleep(Duration::from_millis(5));
                found.contains(&(child.0.id(), how))
            }),
            "{how:?}: {:?}",
            found(data)
        );
    }

    #[test]
    fn only_processes_that_use_the_data_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("postgres");
        fs::create_dir(&data).unwrap();
        let path = data.to_str().unwrap();
        let bystanders = [
            sleeps(|command| command.current_dir(&data)), // somebody's shell
            sleeps(|command| command.env("PGDATA", &data)),
            sleeps(|command| command.arg0("pg_dump").env("PGDATA", &data)),
            sleeps(|command| command.env(RESTORE_DIRECTORY, dir.path().join("other/stolon-0123abcd.new"))),
            sleeps(|command| command.arg0("postgres_exporter").env("PGDATA", &data)),
            shell("exec sleep 1000 < \"$0\"/file", |command| {
                fs::write(data.join("file"), "").unwrap();
                command.arg(path)
            }),
            shell("read line; true", |command| command.args(["-D", "/elsewhere"])),
        ];
        assert_eq!(
            found(&data),
            [],
            "{:?}",
            bystanders.each_ref().map(|child| child.0.id())
        );

        let server = sleeps(|command| command.arg0("postgres: walwriter").current_dir(&data));
        is_found(&server, UseKind::WorkingDirectory, &data);
        let copy = shell("read line; true", |command| command.args(["-v", "-D", path]));
        is_found(&copy, UseKind::Argument, &data);
        let glued = shell("read line; true", |command| command.arg(format!("--pgdata={path}/.")));
        is_found(&glued, UseKind::Argument, &data);
        let relative = shell("read line; true", |command| {
            command.args(["-D", "postgres"]).current_dir(dir.path())
        });
        is_found(&relative, UseKind::Argument, &data);
        let writer = shell("exec sleep 1000 > \"$0\"/file", |command| command.arg(path));
        is_found(&writer, UseKind::OpenFile, &data);
        let control = sleeps(|command| command.arg0("pg_ctl").env("PGDATA", &data));
        is_found(&control, UseKind::Environment, &data);
        let restoring = sleeps(|command| command.env(RESTORE_DIRECTORY, data.join("stolon-0123abcd.new")));
        is_found(&restoring, UseKind::RestoreCommand, &data);

        // a copy creates the directory, so it may be missing
        fs::remove_dir_all(&data).unwrap();
        is_found(&copy, UseKind::Argument, &data);
    }

    /// The working directory of another server is on a file system that hangs.
    #[tokio::test]
    async fn a_hanging_search_is_abandoned_and_reported() {
        let dir = tempfile::tempdir().unwrap();
        let walker = Walker::new(Duration::from_millis(50));
        let (answer, waits) = std::sync::mpsc::channel::<()>();
        let hung = walker.run(move || {
            walker::progress_at(Path::new("/proc/1000"));
            waits.recv()
        });
        assert!(hung.await.is_err());
        let ended = end_holders(dir.path(), EndLimits::default(), &walker).await;
        assert!(matches!(ended, Err(EndError::FileSystemHung(hung)) if hung.path == Path::new("/proc/1000")));
        drop(answer);
    }

    #[test]
    fn each_process_is_a_step_of_a_search() {
        let dir = tempfile::tempdir().unwrap();
        let _others = [sleeps(|command| command), sleeps(|command| command)];
        let (_, steps) = walker::count_steps(|| holders_of(dir.path()));
        assert!(steps >= 2, "{steps}");
    }

    #[tokio::test]
    async fn processes_that_ignore_sigterm_are_killed() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("postgres");
        let path = data.to_str().unwrap();
        let mut willing = shell("read line; true", |command| command.args(["-D", path]));
        let mut stubborn = shell("trap '' TERM; read line; true", |command| command.args(["-D", path]));
        is_found(&willing, UseKind::Argument, &data);
        is_found(&stubborn, UseKind::Argument, &data);
        let limits = EndLimits {
            terminate: Duration::from_millis(300),
            killed: Duration::from_secs(60),
        };
        end_holders(&data, limits, &Walker::default()).await.unwrap();
        assert_eq!(found(&data), []);
        assert!(!willing.0.wait().unwrap().success());
        assert!(!stubborn.0.wait().unwrap().success());
    }
}
