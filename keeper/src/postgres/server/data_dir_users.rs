//! Finds and ends processes that use a data directory besides a regular server: leftovers of a killed server or keeper,
//! or programs started by hand. All of them end before the data are changed.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base::Chain;
use rustix::process::{Signal, geteuid};
use tokio::time::timeout;
use tracing::warn;

use crate::postgres::data::owned_dirs;
use crate::postgres::data::walker::{self, FileSystemHung, Walker};
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

/// A process that uses the data directory.
#[derive(Debug)]
pub struct DataDirUser {
    pub process: Process,
    /// Its process title.
    pub program: String,
    /// How it uses the data directory.
    pub how: UseKind,
}

/// Why the data directory may still be in use.
#[derive(Debug)]
pub enum EndError {
    /// This process does not end.
    Remains(DataDirUser),
    /// Reading the processes makes no progress.
    NoAnswer(FileSystemHung),
}

impl From<FileSystemHung> for EndError {
    fn from(hung: FileSystemHung) -> Self {
        Self::NoAnswer(hung)
    }
}

/// How a process uses a data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UseKind {
    /// An argument names it.
    Argument,
    /// A process of PostgreSQL has it as its working directory.
    WorkingDirectory,
    /// It has a file in the directory open for writing.
    OpenFile,
    /// A program of PostgreSQL uses it by `PGDATA`.
    Environment,
}

impl UseKind {
    /// Returns the reason for the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Argument => "an argument names the data directory",
            Self::WorkingDirectory => "its working directory is the data directory",
            Self::OpenFile => "it has a file of the data directory open for writing",
            Self::Environment => "its variable PGDATA names the data directory",
        }
    }
}

/// Returns all processes of this user that use the data directory, except this one and its ancestors.
pub fn users_of(data: &Path) -> Vec<DataDirUser> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let spared = process::ancestors(own);
    let data_dir = DataDirPath::of(data);
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| *pid != own && !spared.contains(pid))
        .filter_map(|pid| {
            let (program, how) = use_by(pid, &data_dir)?;
            let process = Process::open(pid).ok()??;
            Some(DataDirUser { process, program, how })
        })
        .collect()
}

/// Ends all of them: those of PostgreSQL by SIGQUIT, as a postmaster does when a child has crashed, others by SIGTERM,
/// and the remaining ones by SIGKILL.
///
/// # Errors
///
/// A process does not end, or reading the processes, which is done by `walker`, makes no progress.
pub async fn end_users(data: &Path, limits: EndLimits, walker: &Walker) -> Result<(), EndError> {
    const ROUNDS: usize = 3; // a shell may start another program when its first one ends
    for round in 0..ROUNDS {
        let workers = find_users(data, walker).await?;
        if workers.is_empty() {
            return Ok(());
        }
        for worker in &workers {
            warn!(
                pid = worker.process.pid(),
                program = worker.program,
                why = worker.how.as_str(),
                "stopping a process that uses the data directory"
            );
        }
        let gently = |worker: &DataDirUser| match process::is_postgres(worker.process.pid()) {
            true => Signal::QUIT,
            false => Signal::TERM,
        };
        if round == 0 && signal_all(&workers, gently, limits.terminate).await {
            continue;
        }
        signal_all(&workers, |_| Signal::KILL, limits.killed).await;
    }
    let left = find_users(data, walker).await?.into_iter().next();
    left.map_or(Ok(()), |worker| Err(EndError::Remains(worker)))
}

/// The same as [`users_of`], on a blocking thread: a host may have very many processes and descriptors, and paths of
/// processes may be on a file system that hangs.
async fn find_users(data: &Path, walker: &Walker) -> Result<Vec<DataDirUser>, FileSystemHung> {
    let data = data.to_owned();
    walker.run(move || users_of(&data)).await
}

async fn signal_all(workers: &[DataDirUser], signal: impl Fn(&DataDirUser) -> Signal, limit: Duration) -> bool {
    for worker in workers {
        if let Err(refused) = worker.process.signal(signal(worker)) {
            warn!(pid = worker.process.pid(), error = %Chain(&refused), "could not signal a process");
        }
    }
    let ended = async {
        for worker in workers {
            worker.process.ended().await;
        }
    };
    timeout(limit, ended).await.is_ok()
}

/// A data directory, which may be missing.
#[derive(Debug)]
struct DataDirPath {
    path: PathBuf,
    inode: Option<(u64, u64)>,
}

impl DataDirPath {
    fn of(data: &Path) -> Self {
        // If it is missing, its parent may still be reached through a link.
        let real = fs::canonicalize(data).ok().or_else(|| {
            let parent = fs::canonicalize(data.parent()?).ok()?;
            Some(parent.join(data.file_name()?))
        });
        Self {
            path: real.unwrap_or_else(|| data.to_owned()),
            inode: inode(data),
        }
    }

    /// Whether a path, relative to a process's working directory, is the data directory or the directory in it in which
    /// new data are created.
    fn is(&self, path: &Path, cwd: &Path) -> bool {
        if path.as_os_str().is_empty() {
            return false;
        }
        let mut path = cwd.join(path);
        if path.file_name().is_some_and(owned_dirs::is_new) {
            path.pop();
        }
        let same_inode = self.inode.is_some() && inode(&path) == self.inode;
        same_inode || Self::of(&path).path == self.path
    }
}

/// Mount namespace of a process.
#[derive(Debug)]
enum MountView {
    /// The same as ours.
    Ours,
    /// Another one, or an unreadable one: a path proves nothing, an inode does. Holds its root directory.
    Other(PathBuf),
}

impl MountView {
    fn of(proc: &Path) -> Self {
        let mounts = |proc: &Path| fs::read_link(proc.join("ns/mnt")).ok();
        let theirs = mounts(proc);
        match theirs.is_some() && theirs == mounts(Path::new("/proc/self")) {
            true => Self::Ours,
            false => Self::Other(proc.join("root")),
        }
    }

    /// Whether a path of such a process is the data directory.
    fn is(&self, data_dir: &DataDirPath, path: &Path, cwd: &Path) -> bool {
        match self {
            Self::Ours => data_dir.is(path, cwd),
            Self::Other(_) if path.as_os_str().is_empty() => false,
            Self::Other(root) => {
                let path = cwd.join(path);
                let path = root.join(path.strip_prefix("/").unwrap_or(&path));
                data_dir.inode.is_some() && inode(&path) == data_dir.inode
            }
        }
    }

    /// Whether an open file of a process is the file at its path in our namespace.
    fn is_same_file(&self, open: &Path, path: &Path) -> bool {
        match self {
            Self::Ours => true,
            Self::Other(_) => inode(open).is_some_and(|open| inode(path) == Some(open)),
        }
    }
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// Returns the title of a process and how it uses the data, if it does. Other users' processes are skipped.
fn use_by(pid: i32, data_dir: &DataDirPath) -> Option<(String, UseKind)> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    walker::progress_at(&proc);
    if fs::metadata(&proc).ok()?.uid() != geteuid().as_raw() {
        return None;
    }
    let command: Vec<OsString> = fs::read(proc.join("cmdline"))
        .ok()?
        .split(|byte| *byte == 0)
        .map(|word| OsString::from_vec(word.to_vec()))
        .collect();
    let cwd = fs::read_link(proc.join("cwd")).unwrap_or_default();
    let executable = fs::read_link(proc.join("exe")).unwrap_or_default();
    let title = command.first().cloned().unwrap_or_default();
    let is_server = process::is_postgres(pid);
    let is_program = is_server || is_program_of_postgres(&title) || is_program_of_postgres(executable.as_os_str());
    let named = arguments_for_data(&command, is_program);
    let view = MountView::of(&proc);
    let how = if named.iter().any(|path| view.is(data_dir, path, &cwd)) {
        UseKind::Argument
    } else if is_server && data_dir.inode.is_some() && process::working_directory(pid) == data_dir.inode {
        UseKind::WorkingDirectory
    } else if writes_below(&proc, &data_dir.path, &view) {
        UseKind::OpenFile
    } else if (is_server || writes_to_pgdata(&title) || writes_to_pgdata(executable.as_os_str()))
        && named.is_empty()
        && variable(&proc, "PGDATA").is_some_and(|path| view.is(data_dir, &path, &cwd))
    {
        UseKind::Environment
    } else {
        return None;
    };
    Some((title.to_string_lossy().into_owned(), how))
}

/// Whether this is a program of PostgreSQL, such as `pg_basebackup`, `initdb` or `.pg_ctl-wrapped`.
fn is_program_of_postgres(path: &OsStr) -> bool {
    let name = Path::new(path).file_name().unwrap_or_default().to_string_lossy();
    let name = name.trim_start_matches('.');
    name.starts_with("pg_") || name.starts_with("initdb") || name.starts_with("postgres")
}

/// Whether a program uses the data directory in PGDATA and may write there. Clients such as pg_dump inherit the
/// variable, too.
fn writes_to_pgdata(path: &OsStr) -> bool {
    const PROGRAMS: [&str; 9] = [
        "postgres",
        "postmaster",
        "initdb",
        "pg_ctl",
        "pg_rewind",
        "pg_basebackup",
        "pg_resetwal",
        "pg_checksums",
        "pg_upgrade",
    ];
    let name = Path::new(path).file_name().unwrap_or_default().to_string_lossy();
    let name = name.trim_start_matches('.');
    PROGRAMS.contains(&name.strip_suffix("-wrapped").unwrap_or(name))
}

/// Returns the arguments that may name a data directory: the values of `-D` and `--pgdata`, and every argument of a
/// program of PostgreSQL.
fn arguments_for_data(command: &[OsString], is_program: bool) -> Vec<PathBuf> {
    const LONG: [&str; 2] = ["--pgdata", "--target-pgdata"];
    let mut found = Vec::new();
    let mut words = command.iter().skip(1).peekable();
    while let Some(word) = words.next() {
        let bytes = word.as_bytes();
        let value = |rest: &[u8]| PathBuf::from(OsStr::from_bytes(rest));
        if bytes == b"-D" || LONG.iter().any(|name| word == *name) {
            found.extend(words.peek().map(PathBuf::from));
        } else if let Some(rest) = bytes.strip_prefix(b"-D") {
            found.push(value(rest));
        } else if let Some(rest) = LONG
            .iter()
            .find_map(|name| bytes.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
        {
            found.push(value(rest));
        } else if is_program && !bytes.starts_with(b"-") && bytes.contains(&b'/') {
            found.push(PathBuf::from(word));
        }
    }
    found
}

/// Whether a process has a file below `dir` open for writing (proc_pid_fd(5), proc_pid_fdinfo(5)).
fn writes_below(proc: &Path, dir: &Path, view: &MountView) -> bool {
    let Ok(open) = fs::read_dir(proc.join("fd")) else {
        return false;
    };
    open.flatten().any(|descriptor| {
        let is_below = fs::read_link(descriptor.path())
            .is_ok_and(|file| file.starts_with(dir) && view.is_same_file(&descriptor.path(), &file));
        is_below && is_for_writing(&proc.join("fdinfo").join(descriptor.file_name()))
    })
}

fn is_for_writing(info: &Path) -> bool {
    const ACCESS_MODE: u32 = 3; // O_ACCMODE; 0 is O_RDONLY
    let text = fs::read_to_string(info).unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    flags
        .and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok())
        .is_some_and(|flags| flags & ACCESS_MODE != 0)
}

fn variable(proc: &Path, name: &str) -> Option<PathBuf> {
    let environment = fs::read(proc.join("environ")).ok()?;
    let value = environment
        .split(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
    Some(PathBuf::from(OsStr::from_bytes(value)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    use super::*;

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
        let mut found: Vec<_> = users_of(data)
            .iter()
            .map(|worker| (u32::try_from(worker.process.pid()).unwrap(), worker.how))
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

        // a copy creates the directory, so it may be missing
        fs::remove_dir_all(&data).unwrap();
        is_found(&copy, UseKind::Argument, &data);
    }

    #[test]
    fn a_path_of_a_process_with_other_mounts_proves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("postgres");
        fs::create_dir(&data).unwrap();
        let data_dir = DataDirPath::of(&data);
        // Another volume at the same path, as in another container.
        let root = dir.path().join("root");
        fs::create_dir_all(root.join(data.strip_prefix("/").unwrap())).unwrap();
        let other = MountView::Other(root.clone());
        let cwd = Path::new("/");
        assert!(MountView::Ours.is(&data_dir, &data, cwd));
        assert!(!other.is(&data_dir, &data, cwd));
        assert!(!MountView::Other(root.join("not there")).is(&data_dir, &data, cwd));
        // The same volume at another path.
        let shared = MountView::Other(dir.path().to_owned());
        assert!(shared.is(&data_dir, Path::new("/postgres"), cwd));
        assert!(shared.is(&data_dir, Path::new("postgres"), cwd));

        fs::write(data.join("file"), "").unwrap();
        fs::write(root.join("file"), "").unwrap();
        assert!(other.is_same_file(&data.join("file"), &data.join("file")));
        assert!(!other.is_same_file(&root.join("file"), &data.join("file")));
        assert!(matches!(MountView::of(Path::new("/proc/self")), MountView::Ours));
        assert!(matches!(MountView::of(Path::new("/proc/0")), MountView::Other(_)));
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
        let ended = end_users(dir.path(), EndLimits::default(), &walker).await;
        assert!(matches!(ended, Err(EndError::NoAnswer(hung)) if hung.path == Path::new("/proc/1000")));
        drop(answer);
    }

    #[test]
    fn each_process_is_a_step_of_a_search() {
        let dir = tempfile::tempdir().unwrap();
        let _others = [sleeps(|command| command), sleeps(|command| command)];
        let (_, steps) = walker::count_steps(|| users_of(dir.path()));
        assert!(steps >= 2, "{steps}");
    }

    #[test]
    fn the_working_directory_is_known_without_its_file_system() {
        let dir = tempfile::tempdir().unwrap();
        let child = sleeps(|command| command.current_dir(dir.path()));
        let pid = i32::try_from(child.0.id()).unwrap();
        assert_eq!(process::working_directory(pid), inode(dir.path()));
        assert_eq!(process::working_directory(0), None);
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
        end_users(&data, limits, &Walker::default()).await.unwrap();
        assert_eq!(found(&data), []);
        assert!(!willing.0.wait().unwrap().success());
        assert!(!stubborn.0.wait().unwrap().success());
    }
}
