//! Finds PostgreSQL's programs and their version. Running them is left to `command`.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use crate::postgres::programs::command::{self, CommandError};
use crate::postgres::programs::environment;

/// Oldest supported major.
pub const OLDEST_MAJOR: u32 = 13;
/// Newest known major; a newer one is used with a warning.
pub const NEWEST_MAJOR: u32 = 18;

/// Programs that a keeper needs.
const NEEDED: [&str; 5] = ["postgres", "initdb", "pg_ctl", "pg_basebackup", "pg_controldata"];

/// Directories of each major in distributions: Debian's and the PostgreSQL project's RPMs.
const STANDARD_DIRS: [(&str, &str); 2] = [("/usr/lib/postgresql", "bin"), ("/usr", "bin")];

/// A version of PostgreSQL, as its programs print it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 15 in `15.4`.
    pub major: u32,
    /// 4 in `15.4`; 0 if missing, as in `16beta1`.
    pub minor: u32,
}

impl Version {
    /// Parses the output of `postgres -V`: the first number group after `(PostgreSQL)` (keeper 3.5, T4).
    pub fn parse(output: &str) -> Option<Self> {
        let (_, rest) = output.split_once("(PostgreSQL)")?;
        let mut numbers = rest.split_whitespace().next()?.split('.').map(leading_number);
        let major = numbers.next()??;
        let minor = numbers.next().flatten().unwrap_or(0);
        Some(Self { major, minor })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

fn leading_number(text: &str) -> Option<u32> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .map_or(text, |end| &text[..end]);
    digits.parse().ok()
}

/// Why these programs were chosen, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgramsSource {
    /// `--pg-bin-path` names them.
    Given,
    /// Found in the search path.
    Path,
    /// They have the major of PGDATA.
    DataVersion,
    /// They are the newest in the standard directories.
    Newest,
}

impl fmt::Display for ProgramsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Given => "given by --pg-bin-path",
            Self::Path => "found in PATH",
            Self::DataVersion => "same major as PGDATA",
            Self::Newest => "newest installed",
        })
    }
}

/// Why no programs can be used.
#[derive(Debug, thiserror::Error)]
pub enum ProgramsError {
    /// No directory contains them.
    #[error(
        "PostgreSQL's programs were not found in PATH, /usr/lib/postgresql/*/bin or /usr/pgsql-*/bin: install \
         PostgreSQL {OLDEST_MAJOR} to {NEWEST_MAJOR}, or name their directory with --pg-bin-path"
    )]
    NotFound,
    /// The standard directories contain only other majors.
    #[error(
        "no programs of PostgreSQL {major} found, the version of PGDATA: install PostgreSQL {major}, or \
         name their directory with --pg-bin-path"
    )]
    NoSuchMajor {
        /// Major of PGDATA.
        major: u32,
    },
    /// One of them is missing in the directory.
    #[error(
        "{} has no program {program}: name the directory of PostgreSQL's programs with --pg-bin-path (on Debian \
         /usr/lib/postgresql/<major>/bin)", dir.display()
    )]
    Missing {
        /// The directory.
        dir: PathBuf,
        /// The missing program.
        program: &'static str,
    },
    /// The version is too old.
    #[error(
        "PostgreSQL {version} in {} is not supported: install one of {OLDEST_MAJOR} to {NEWEST_MAJOR}", dir.display()
    )]
    TooOld {
        /// The directory.
        dir: PathBuf,
        version: Version,
    },
    /// The output of `postgres -V` contains no version.
    #[error("{} -V printed no version: {output:?}", program.display())]
    Version {
        /// The program.
        program: PathBuf,
        /// Its output.
        output: String,
    },
    /// `postgres -V` could not be run.
    #[error("ask for the version of PostgreSQL's programs")]
    Run(#[from] CommandError),
    /// The program's file cannot be read.
    #[error("look at {}", program.display())]
    Stat {
        /// The program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A directory of PostgreSQL's programs.
#[derive(Debug)]
pub struct Programs {
    dir: PathBuf,
    source: ProgramsSource,
    version: Mutex<Option<(FileStamp, Version)>>,
}

/// Identity of the program's file, to detect an upgrade (keeper W23).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileStamp {
    device: u64,
    inode: u64,
    modified: (i64, i64),
}

impl Programs {
    /// Finds the programs: in `given`, otherwise in `path` (the search path), otherwise in the standard directories:
    /// those of `data_major` if there is a PGDATA, else the newest.
    pub fn find(given: Option<&Path>, path: Option<&OsStr>, data_major: Option<u32>) -> Result<Self, ProgramsError> {
        Self::find_in(given, path, data_major, &standard_directories())
    }

    fn find_in(
        given: Option<&Path>,
        path: Option<&OsStr>,
        data_major: Option<u32>,
        standard: &[(u32, PathBuf)],
    ) -> Result<Self, ProgramsError> {
        if let Some(dir) = given {
            return Self::of(dir.to_path_buf(), ProgramsSource::Given);
        }
        if let Some(dir) = path.and_then(in_search_path) {
            return Self::of(dir, ProgramsSource::Path);
        }
        let complete = || standard.iter().filter(|(_, dir)| missing_in(dir).is_none());
        if let Some(major) = data_major {
            return match complete().find(|(candidate, _)| *candidate == major) {
                Some((_, dir)) => Self::of(dir.clone(), ProgramsSource::DataVersion),
                None if standard.is_empty() => Err(ProgramsError::NotFound),
                None => Err(ProgramsError::NoSuchMajor { major }),
            };
        }
        match complete().max_by_key(|(major, _)| *major) {
            Some((_, dir)) => Self::of(dir.clone(), ProgramsSource::Newest),
            None => Err(ProgramsError::NotFound),
        }
    }

    fn of(dir: PathBuf, source: ProgramsSource) -> Result<Self, ProgramsError> {
        match missing_in(&dir) {
            Some(program) => Err(ProgramsError::Missing { dir, program }),
            None => Ok(Self {
                dir,
                source,
                version: Mutex::new(None),
            }),
        }
    }

    /// Returns their directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns why they were chosen.
    pub fn source(&self) -> ProgramsSource {
        self.source
    }

    /// Whether a program is there; those without which no keeper starts always are.
    pub fn has(&self, program: &str) -> bool {
        is_program(&self.path(program))
    }

    /// Returns the path of a program.
    pub fn path(&self, program: &str) -> PathBuf {
        self.dir.join(program)
    }

    /// Returns the version of `postgres`; cached until its file changes (a package upgrade). Fails if it is too old;
    /// warning about one newer than [`NEWEST_MAJOR`] is left to the caller.
    pub async fn version(&self) -> Result<Version, ProgramsError> {
        let program = self.path("postgres");
        let stamp = stamp(&program)?;
        let known = *self.version.lock().expect("no thread panics while holding the version");
        if let Some((seen, version)) = known
            && seen == stamp
        {
            return Ok(version);
        }
        let mut command = environment::command(&program);
        command.arg("-V");
        let output = command::output(command, VERSION_LIMIT).await?;
        let version = Version::parse(&output).ok_or_else(|| ProgramsError::Version {
            program: program.clone(),
            output,
        })?;
        if version.major < OLDEST_MAJOR {
            return Err(ProgramsError::TooOld {
                dir: self.dir.clone(),
                version,
            });
        }
        *self.version.lock().expect("no thread panics while holding the version") = Some((stamp, version));
        Ok(version)
    }
}

/// Time limit for printing the version.
const VERSION_LIMIT: Duration = Duration::from_secs(10);

fn stamp(program: &Path) -> Result<FileStamp, ProgramsError> {
    let metadata = fs::metadata(program).map_err(|source| ProgramsError::Stat {
        program: program.to_path_buf(),
        source,
    })?;
    Ok(FileStamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
    })
}

/// Returns the directory of the first `postgres` in the search path, with symbolic links resolved: the directory of a
/// link may contain no other programs, or a distribution's wrappers that choose a version of their own
/// (`/usr/bin/pg_basebackup` of postgresql-common).
fn in_search_path(path: &OsStr) -> Option<PathBuf> {
    let entry = std::env::split_paths(path).find(|dir| is_program(&dir.join("postgres")))?;
    let resolved = fs::canonicalize(entry.join("postgres")).ok()?;
    let target_dir = resolved.parent()?.to_path_buf();
    Some(if missing_in(&target_dir).is_none() {
        target_dir
    } else {
        entry
    })
}

fn missing_in(dir: &Path) -> Option<&'static str> {
    NEEDED.into_iter().find(|program| !is_program(&dir.join(program)))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o111 != 0)
}

fn standard_directories() -> Vec<(u32, PathBuf)> {
    let mut found = Vec::new();
    for (root, bin) in STANDARD_DIRS {
        let Ok(entries) = fs::read_dir(root) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let major = if root == "/usr" {
                name.strip_prefix("pgsql-")
            } else {
                Some(&*name)
            };
            if let Some(major) = major.and_then(|major| major.parse().ok()) {
                found.push((major, entry.path().join(bin)));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn versions_are_parsed() {
        // Table: keeper T4.
        for (output, major, minor) in [
            ("postgres (PostgreSQL) 9.5.7", 9, 5),
            ("postgres (PostgreSQL) 9.6.7\n", 9, 6),
            ("postgres (PostgreSQL) 10beta1", 10, 0),
            ("postgres (PostgreSQL) 10.1.2", 10, 1),
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", 15, 18),
        ] {
            assert_eq!(Version::parse(output), Some(Version { major, minor }), "{output}");
        }
        assert_eq!(Version::parse("postgres"), None);
        assert_eq!(Version::parse("postgres (PostgreSQL) devel"), None);
    }

    fn programs(dir: &Path, names: &[&str]) {
        fs::create_dir_all(dir).unwrap();
        for name in names {
            fs::write(dir.join(name), "").unwrap();
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    #[test]
    fn a_link_in_the_search_path_leads_to_the_directory_behind_it() {
        let root = tempfile::tempdir().unwrap();
        let (real, links) = (root.path().join("15/bin"), root.path().join("links"));
        programs(&real, &NEEDED);
        programs(&links, &["pg_basebackup"]); // a wrapper beside the link
        symlink(real.join("postgres"), links.join("postgres")).unwrap();
        let found = Programs::find_in(None, Some(links.as_os_str()), None, &[]).unwrap();
        assert_eq!(found.dir(), fs::canonicalize(&real).unwrap());
        assert_eq!(found.source(), ProgramsSource::Path);
    }

    #[test]
    fn standard_directories_provide_the_major_of_the_data_or_the_newest() {
        let root = tempfile::tempdir().unwrap();
        let dir = |major: u32| root.path().join(major.to_string());
        for major in [13, 15] {
            programs(&dir(major), &NEEDED);
        }
        programs(&dir(17), &["pg_basebackup"]); // only the client package
        let standard = [13, 15, 17].map(|major| (major, dir(major)));
        let find = |data_major| Programs::find_in(None, None, data_major, &standard);
        assert_eq!(find(Some(13)).unwrap().dir(), dir(13));
        assert_eq!(find(None).unwrap().dir(), dir(15));
        assert!(matches!(find(Some(17)), Err(ProgramsError::NoSuchMajor { major: 17 })));
        assert!(matches!(
            Programs::find_in(None, None, None, &[]),
            Err(ProgramsError::NotFound)
        ));
    }

    #[test]
    fn a_given_directory_is_used_unchanged_or_refused() {
        let root = tempfile::tempdir().unwrap();
        programs(root.path(), &["postgres"]);
        let refused = Programs::find_in(Some(root.path()), None, None, &[]);
        assert!(matches!(refused, Err(ProgramsError::Missing { program: "initdb", .. })));
    }
}
