//! Progress of a server that runs and does not accept connections yet, read from its process titles and files. Needs no
//! login.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::postgres::data::inspect;
use crate::postgres::data::walker::{self, Walker};
use crate::postgres::programs::installation::Programs;
use crate::postgres::programs::pg_control::{self, ControlState};
use crate::postgres::server::process;

/// Progress of a recovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryProgress {
    /// State in its control file.
    pub state: ControlState,
    /// Title of its startup process, such as `recovering 000000010000000000000003`.
    pub title: Option<String>,
    /// Name of the last WAL segment of the timeline in the title, up to which it may have to replay.
    pub last_segment: Option<String>,
}

impl fmt::Display for RecoveryProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            ControlState::CrashRecovery => "in crash recovery",
            ControlState::ArchiveRecovery | ControlState::ShutDownInRecovery => "in recovery as a standby",
            _ => "starting",
        })?;
        if let Some(title) = &self.title {
            write!(f, ", {title}")?;
        }
        match &self.last_segment {
            Some(last) => write!(f, " (last segment: {last})"),
            None => Ok(()),
        }
    }
}

/// Returns the progress of the server on a PGDATA that does not accept connections yet; `None` if unknown.
/// `walker` reads its processes and WAL; what hangs is left out.
pub async fn progress(programs: &Programs, data: &Path, limit: Duration, walker: &Walker) -> Option<RecoveryProgress> {
    let control = pg_control::read(programs, data, limit).await.ok()?;
    let data = data.to_owned();
    let result = walker.run(move || {
        let title = startup_title_of(&data);
        let last_segment = title.as_deref().and_then(|title| last_segment(&data, title));
        (title, last_segment)
    });
    let (title, last_segment) = result.await.unwrap_or_default();
    Some(RecoveryProgress {
        state: control.state,
        title,
        last_segment,
    })
}

/// Returns the last segment of the timeline in a title.
fn last_segment(data: &Path, title: &str) -> Option<String> {
    let segment = title.rsplit(' ').next().filter(|word| word.len() == 24)?;
    let timeline = segment.get(..8)?;
    let names = inspect::file_names(&data.join("pg_wal")).ok()?;
    let of_timeline = names
        .into_iter()
        .filter(|name| name.len() == 24 && name.starts_with(timeline));
    of_timeline.max()
}

/// Returns the title of the startup process of this PGDATA.
fn startup_title_of(data: &Path) -> Option<String> {
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        walker::progress_at(&entry.path());
        let title = startup_title(&fs::read(entry.path().join("cmdline")).ok()?)?;
        process::works_in(pid, data).then_some(title)
    })
}

/// Returns what follows `startup` in the title of a startup process: `postgres: startup recovering …`, with the cluster
/// name before it if there is one (PostgreSQL manual 28.1).
fn startup_title(cmdline: &[u8]) -> Option<String> {
    let title = String::from_utf8_lossy(cmdline.split(|byte| *byte == 0).next()?).into_owned();
    let (before, activity) = title.split_once("startup")?;
    let activity = activity.trim();
    (before.starts_with("postgres: ") && !activity.is_empty()).then(|| activity.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;

    use super::*;

    #[test]
    fn the_title_of_the_startup_process_contains_the_segment() {
        let title = |text: &str| startup_title(text.as_bytes());
        let recovering = Some("recovering 000000010000000000000003".to_owned());
        assert_eq!(
            title("postgres: startup recovering 000000010000000000000003\0\0"),
            recovering
        );
        assert_eq!(
            title("postgres: main: startup recovering 000000010000000000000003  \0"),
            recovering
        );
        assert_eq!(title("postgres: startup \0"), None);
        assert_eq!(title("postgres: checkpointer \0"), None);
        assert_eq!(title("vi startup notes\0"), None);
        assert_eq!(title(""), None);
    }

    /// Two servers of one host are in recovery: each PGDATA has its own title.
    #[test]
    fn the_title_is_that_of_the_server_of_this_data_directory() {
        let data = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let startup = |number: usize, title: &str| {
            let mut command = std::process::Command::new("sleep");
            command.arg0(title).arg("1000").current_dir(data[number].path());
            command.spawn().unwrap()
        };
        let mut children = [
            startup(0, "postgres: checkpointer"),
            startup(0, "postgres: startup recovering 00000001000000000000000A"),
            startup(1, "postgres: main: startup recovering 00000001000000000000000B"),
        ];
        let titles = data.each_ref().map(|data| {
            let mut looks = std::iter::repeat_with(|| startup_title_of(data.path())).take(2000);
            looks.find_map(|title| {
                std::thread::sleep(Duration::from_millis(5)); // a child sets its title when it executes
                title
            })
        });
        let nowhere = startup_title_of(&data[0].path().join("not there"));
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let recovering = |segment: &str| Some(format!("recovering {segment}"));
        assert_eq!(
            titles,
            [
                recovering("00000001000000000000000A"),
                recovering("00000001000000000000000B")
            ]
        );
        assert_eq!(nowhere, None);
    }

    #[test]
    fn a_progress_reads_as_one_line() {
        let progress = RecoveryProgress {
            state: ControlState::CrashRecovery,
            title: Some("recovering 000000010000000000000003".to_owned()),
            last_segment: Some("000000010000000000000009".to_owned()),
        };
        assert_eq!(
            progress.to_string(),
            "in crash recovery, recovering 000000010000000000000003 (last segment: 000000010000000000000009)"
        );
    }
}
