//! Progress of a server that runs and does not accept connections yet, read from its process titles and files. Needs no
//! login.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use crate::postgres::data::inspect;
use crate::postgres::data::walker::Walker;
use crate::postgres::programs::installation::Programs;
use crate::postgres::programs::pg_control::{self, ControlState};
use crate::postgres::server::process;
use crate::wal_segment::WalSegment;

/// Progress of a recovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryProgress {
    /// State in its control file.
    pub state: ControlState,
    /// Title of its startup process, such as `recovering 000000010000000000000003`.
    pub title: Option<String>,
    /// Name of the last WAL segment of the timeline in the title, up to which it may have to replay.
    pub last_segment: Option<String>,
    /// How far replay is between the last checkpoint and the last segment.
    pub replayed: Option<ReplayedSegments>,
}

/// A number of WAL segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayedSegments {
    pub done: u64,
    /// Upper bound of all: the last ones may be recycled files without WAL.
    pub most: u64,
}

impl ReplayedSegments {
    /// Returns them for these segments, by number; `None` if they are not in this order.
    fn between(first: u64, current: u64, last: u64) -> Option<Self> {
        Some(Self {
            done: current.checked_sub(first)?,
            most: last
                .checked_sub(current)?
                .checked_add(current - first)?
                .checked_add(1)?,
        })
    }

    /// Returns the most seconds left if replay goes on as fast as in the time so far; `None` before the first segment.
    pub fn seconds_left(self, elapsed: Duration) -> Option<u64> {
        let left = self.most.saturating_sub(self.done);
        elapsed.as_secs().checked_mul(left)?.checked_div(self.done)
    }
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
        if let Some(last) = &self.last_segment {
            write!(f, " (last segment: {last})")?;
        }
        match self.replayed {
            Some(ReplayedSegments { done, most }) => {
                let percent = done.saturating_mul(100) / most.max(1);
                write!(f, ", {done} of at most {most} segments replayed ({percent} %)")
            }
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
    let replayed = || {
        let number = |name: &str| Some(WalSegment::parse(name, control.layout.segment_bytes)?.number);
        let current = number(title.as_deref()?.rsplit(' ').next()?)?;
        let first = control.redo.0.checked_div(control.layout.segment_bytes)?;
        ReplayedSegments::between(first, current, number(last_segment.as_deref()?)?)
    };
    Some(RecoveryProgress {
        state: control.state,
        replayed: replayed(),
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

/// Returns the activity in the title of the startup process of this PGDATA.
fn startup_title_of(data: &Path) -> Option<String> {
    let (_, title) = process::with_title(data, startup_title).next()?;
    Some(title)
}

/// Returns what follows `startup` in the title of a startup process: `postgres: startup recovering …`.
fn startup_title(title: &str) -> Option<String> {
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
        let title = startup_title;
        let recovering = Some("recovering 000000010000000000000003".to_owned());
        assert_eq!(
            title("postgres: startup recovering 000000010000000000000003"),
            recovering
        );
        assert_eq!(
            title("postgres: main: startup recovering 000000010000000000000003  "),
            recovering
        );
        assert_eq!(title("postgres: startup "), None);
        assert_eq!(title("postgres: checkpointer "), None);
        assert_eq!(title("vi startup notes"), None);
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
            replayed: ReplayedSegments::between(1, 3, 9),
        };
        assert_eq!(
            progress.to_string(),
            "in crash recovery, recovering 000000010000000000000003 (last segment: 000000010000000000000009), \
             2 of at most 9 segments replayed (22 %)"
        );
    }

    #[test]
    fn segments_are_counted_from_the_last_checkpoint_and_give_the_time_left() {
        assert_eq!(ReplayedSegments::between(4, 3, 9), None);
        assert_eq!(ReplayedSegments::between(1, 9, 3), None);
        let left = |done| ReplayedSegments { done, most: 9 }.seconds_left(Duration::from_secs(20));
        assert_eq!((left(0), left(2), left(9)), (None, Some(70), Some(0)));
    }
}
