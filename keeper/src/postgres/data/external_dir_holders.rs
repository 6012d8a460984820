//! Finds processes of any user that use a directory outside PGDATA, before it is emptied. In doubt a process counts as a
//! holder (as in fuser(1)): the directory is then not emptied, and the process is left alone. Processes that use PGDATA
//! are in `server::pgdata_holders`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::postgres::data::identity::FileId;
use crate::postgres::data::walker;

/// A process that uses a directory outside PGDATA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalDirHolder {
    /// Its process id.
    pub pid: i32,
    /// Its name.
    pub program: String,
}

/// Returns a process that has `dir` or something below it open, mapped or as its working directory, or a server whose
/// tablespace or `pg_wal` is at `location`. Processes that work in `own`, this keeper's PGDATA, and this process do not
/// count. What other users' processes use is visible only to root.
pub fn holder_of(location: &Path, dir: &Path, own: &Path) -> Option<ExternalDirHolder> {
    let real = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let uses = |process: &PathBuf| {
        walker::progress_at(process);
        let cwd = process.join("cwd");
        let names_it = || {
            fs::read_link(&cwd).is_ok_and(|cwd| cwd.starts_with(&real))
                || has_open(process, &real)
                || maps(process, &real)
        };
        is_served_from(location, process) || (names_it() && has_the_same_view(process, &real))
    };
    others(own).find(uses).map(|process| dir_holder(&process))
}

/// Returns for each location a server other than ours whose tablespace or `pg_wal` is there, in one pass over the
/// processes.
pub fn servers_of(locations: &[PathBuf], own: &Path) -> Vec<Option<ExternalDirHolder>> {
    let mut found = vec![None; locations.len()];
    if locations.is_empty() {
        return found; // each process costs several system calls
    }
    for process in others(own) {
        for (location, server) in locations.iter().zip(&mut found) {
            if server.is_none() && is_served_from(location, &process) {
                *server = Some(dir_holder(&process));
            }
        }
    }
    found
}

/// Returns the other processes, as directories in `/proc`.
fn others(own: &Path) -> impl Iterator<Item = PathBuf> {
    let path = fs::canonicalize(own).ok();
    let own = FileId::of(own).ok();
    let is_own = move |process: &PathBuf| {
        let cwd = process.join("cwd");
        let has_the_path = path.is_some() && fs::read_link(&cwd).ok() == path;
        has_the_path || (is_server(process) && own.is_some() && FileId::of(&cwd).ok() == own)
    };
    let me = std::process::id().to_string();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(move |entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.bytes().all(|byte| byte.is_ascii_digit()) && name != me
        })
        .map(|entry| entry.path())
        .filter(move |process| !is_own(process))
}

/// Whether a process belongs to PostgreSQL, by the name of its program (`.postgres-wrapped` counts, too). Only the
/// working directories of such processes are read: others may be on a file system that hangs.
fn is_server(process: &Path) -> bool {
    let program = fs::read_to_string(process.join("comm")).unwrap_or_default();
    program.contains("postgres") || program.contains("postmaster")
}

fn is_served_from(location: &Path, process: &Path) -> bool {
    if !is_server(process) {
        return false;
    }
    let Ok(location) = FileId::of(location) else {
        return false;
    };
    let is_location = |path: PathBuf| FileId::of(&path).is_ok_and(|found| found == location);
    let pgdata = process.join("cwd");
    walker::progress_at(&pgdata);
    let links = fs::read_dir(pgdata.join("pg_tblspc")).into_iter().flatten().flatten();
    let mut links = links.map(|entry| entry.path()).chain([pgdata.join("pg_wal")]);
    links.any(|link| match fs::read_link(&link) {
        Ok(target) => is_location(in_view_of(process, &link, &target)),
        Err(_) => is_location(link),
    })
}

/// Returns a path in the mount namespace of a process (proc_pid_root(5)).
fn in_view_of(process: &Path, link: &Path, target: &Path) -> PathBuf {
    match target.strip_prefix("/") {
        Ok(below) => process.join("root").join(below),
        Err(_) => link.parent().unwrap_or(link).join(target),
    }
}

/// Whether a path is the same directory for the process as for us. Unknown counts as yes.
fn has_the_same_view(process: &Path, dir: &Path) -> bool {
    let theirs = FileId::of(&in_view_of(process, dir, dir));
    theirs.is_err() || theirs.ok() == FileId::of(dir).ok()
}

fn has_open(process: &Path, dir: &Path) -> bool {
    let open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    open.filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|path| path.starts_with(dir))
}

/// The path follows the first slash of a line (proc_pid_maps(5)).
fn maps(process: &Path, dir: &Path) -> bool {
    let text = fs::read(process.join("maps")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines()
        .filter_map(|line| line.find('/').map(|at| Path::new(&line[at..])))
        .any(|path| path.starts_with(dir))
}

fn dir_holder(process: &Path) -> ExternalDirHolder {
    let pid = process.file_name().and_then(|name| name.to_str()?.parse().ok());
    let program = fs::read_to_string(process.join("comm")).unwrap_or_default();
    ExternalDirHolder {
        pid: pid.unwrap_or(0),
        program: program.trim_end().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process that is ready once it has written a line, and is killed when dropped.
    struct Running(Child);

    impl Running {
        fn new(script: &str, dir: &Path) -> Self {
            Self::of("sleep", script, dir)
        }

        fn of(program: &str, script: &str, dir: &Path) -> Self {
            let mut command = Command::new("/bin/sh");
            command.arg("-c").arg(format!("{script}; echo up; exec {program} 1000"));
            command.current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped());
            let mut child = command.spawn().unwrap();
            let mut line = [0; 3];
            std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
            Self(child)
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.0.kill(); // it may have ended by itself
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_process_in_a_directory_or_with_an_open_file_there_uses_it() {
        let dir = tempfile::tempdir().unwrap();
        let (space, version) = (dir.path().join("space"), dir.path().join("space/PG_15_1"));
        let own = dir.path().join("own");
        for made in [&version, &own, &dir.path().join("elsewhere")] {
            fs::create_dir_all(made).unwrap();
        }
        fs::write(version.join("file"), "x").unwrap();
        let used = || holder_of(&space, &version, &own);
        assert_eq!(used(), None);
        for (script, at) in [
            ("true", version.clone()),
            ("exec 5<$PWD/../space/PG_15_1/file", dir.path().join("elsewhere")),
        ] {
            let running = Running::new(script, &at);
            let pid = i32::try_from(running.0.id()).unwrap();
            assert_eq!(used().map(|holder| holder.pid), Some(pid), "{script}");
        }
        assert_eq!(used(), None);
    }

    #[test]
    fn a_server_whose_tablespace_it_is_uses_it_unless_it_is_our_own() {
        let dir = tempfile::tempdir().unwrap();
        let (space, pgdata) = (dir.path().join("space"), dir.path().join("pgdata"));
        for made in [&space, &pgdata.join("pg_tblspc")] {
            fs::create_dir_all(made).unwrap();
        }
        symlink(&space, pgdata.join("pg_tblspc/16385")).unwrap();
        let link = dir.path().join("link");
        symlink(&space, &link).unwrap();
        let program = dir.path().join("postgres");
        symlink("/bin/sleep", &program).unwrap();
        let running = Running::of(&program.display().to_string(), "true", &pgdata);
        let process = PathBuf::from(format!("/proc/{}", running.0.id()));
        while !is_server(&process) {
            std::thread::yield_now(); // the shell becomes the program a moment after its line
        }
        let other = dir.path().join("other");
        assert!(holder_of(&link, &link.join("PG_15_1"), &other).is_some());
        let locations = [dir.path().join("own"), space];
        assert!(matches!(&servers_of(&locations, &other)[..], [None, Some(_)]));
        assert_eq!(servers_of(&locations, &pgdata), [None, None]);
    }
}
