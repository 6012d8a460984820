//! What a server does that runs and takes no connections yet: how far a recovery is, as its process titles and its
//! files show. It needs no login.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::postgres::files;
use crate::postgres::pg_control::{self as control_file, ControlState};
use crate::postgres::process;
use crate::postgres::programs::Programs;
use crate::postgres::walker::{self, Walker};

/// What a server is busy with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryProgress {
    /// What its control file says.
    pub state: ControlState,
    /// What the title of its startup process says, such as `recovering 000000010000000000000003`.
    pub title: Option<String>,
    /// Name of the last WAL segment of the timeline in the title, up to which it may have to go.
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

/// How far the server of a data directory is that takes no connections yet; `None` when that cannot be found out.
/// Its processes and its WAL are looked at by `walker`; what does not answer in time is left out.
pub async fn progress(programs: &Programs, data: &Path, limit: Duration, walker: &Walker) -> Option<RecoveryProgress> {
    let control = control_file::read(programs, data, limit).await.ok()?;
    let data = data.to_owned();
    let looked = walker.run(move || {
        let title = startup_title_of(&data);
        let last_segment = title.as_deref().and_then(|title| last_segment(&data, title));
        (title, last_segment)
    });
    let (title, last_segment) = looked.await.unwrap_or_default();
    Some(RecoveryProgress {
        state: control.state,
        title,
        last_segment,
    })
}

/// The last segment of the timeline that a title names.
fn last_segment(data: &Path, title: &str) -> Option<String> {
    let segment = title.rsplit(' ').next().filter(|word| word.len() == 24)?;
    let timeline = segment.get(..8)?;
    let names = files::file_names(&data.join("pg_wal")).ok()?;
    let of_timeline = names
        .into_iter()
        .filter(|name| name.len() == 24 && name.starts_with(timeline));
    of_timeline.max()
}

/// What the startup process of this data directory shows as its title.
fn startup_title_of(data: &Path) -> Option<String> {
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        walker::progress_at(&entry.path());
        let title = startup_title(&fs::read(entry.path().join("cmdline")).ok()?)?;
        process::works_in(pid, data).then_some(title)
    })
}

/// What follows the word `startup` in the title of a startup process: `postgres: startup recovering …`, with the
/// cluster's name before it where there is one (PostgreSQL manual 28.1).
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
    fn the_title_of_the_startup_process_tells_the_segment() {
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

    /// Two servers of one host recover: each one's data have their own.
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
