//! Gathers facts about the directories outside PGDATA that belong to an instance or that a copy would write into, and
//! records those of a running instance as this keeper's. Decisions are in `external_dirs`.

use std::fs;
use std::path::{Path, PathBuf};

use base::Chain;

use crate::external_dirs::{ExternalDir, ExternalDirFacts, ExternalDirKind};
use crate::postgres::data::atomic_files;
use crate::postgres::data::external_dir_holders;
use crate::postgres::data::file_error::FileError;
use crate::postgres::data::identity::DirIdentity;
use crate::postgres::data::inspect;
use crate::postgres::data::links::{self, locations, version_directory};
use crate::postgres::data::owned_dirs::{NEW_KIND, OwnedDirs};
use crate::postgres::data::owned_record::TablespaceDir;
use crate::postgres::data::trees;

/// Returns the tablespace directories that PGDATA links to, without in-place ones.
pub fn linked(data: &Path) -> Result<Vec<TablespaceDir>, FileError> {
    let Some(directory) = version_directory(data)? else {
        return Ok(Vec::new());
    };
    let mut tablespaces = Vec::new();
    for location in locations(data)? {
        tablespaces.extend(tablespace_dir_at(&location, &directory)?);
    }
    Ok(tablespaces)
}

fn tablespace_dir_at(location: &Path, directory: &str) -> Result<Option<TablespaceDir>, FileError> {
    let identity = DirIdentity::of(&location.join(directory))?;
    Ok(identity.map(|identity| TablespaceDir {
        location: location.to_owned(),
        directory: directory.to_owned(),
        identity,
    }))
}

/// Returns the target of `pg_wal` if it is a link; of missing or incomplete data the recorded one.
pub fn wal_of(data: &Path, owned: &OwnedDirs) -> Result<Option<PathBuf>, FileError> {
    links::wal_of(data, owned.record().wal, &owned.name(NEW_KIND))
}

/// Returns the target of `pg_wal`, as [`wal_of`] does, if its contents belong to this keeper: PGDATA links to it, or it
/// still is the recorded directory.
pub(crate) fn own_wal(data: &Path, owned: &OwnedDirs) -> Result<Option<PathBuf>, FileError> {
    let Some(wal) = wal_of(data, owned)? else {
        return Ok(None);
    };
    let is_linked = fs::read_link(data.join("pg_wal")).is_ok();
    let identity = DirIdentity::of(&wal)?;
    let record = owned.record();
    let is_recorded = identity == record.wal_identity && identity.is_none_or(DirIdentity::proves);
    let is_ours = is_linked || identity.is_none() || is_recorded;
    Ok((is_ours && !record.not_ours.contains(&wal)).then_some(wal))
}

/// Returns the target of `pg_wal` if it contains WAL that does not belong to this keeper.
pub(crate) fn foreign_wal(data: &Path, owned: &OwnedDirs) -> Result<Option<PathBuf>, FileError> {
    let Some(wal) = wal_of(data, owned)? else {
        return Ok(None);
    };
    let is_foreign = own_wal(data, owned)?.is_none() && holds_wal(&wal)?;
    Ok(is_foreign.then_some(wal))
}

fn holds_wal(dir: &Path) -> Result<bool, FileError> {
    let entries = inspect::entries(dir)?;
    Ok(entries.iter().any(|path| path.file_name().is_some_and(is_of_wal)))
}

/// Records the target of `pg_wal`.
pub(crate) fn record_wal(owned: &OwnedDirs, wal: Option<&Path>) -> Result<(), FileError> {
    let known = owned.record();
    if known.wal.as_deref() == wal && known.wal_identity.is_some() {
        return Ok(()); // another directory at that path does not become ours
    }
    let identity = wal.map(DirIdentity::of).transpose()?.flatten();
    owned.change(|record| (record.wal, record.wal_identity) = (wal.map(Path::to_owned), identity))
}

/// A tablespace location of the running instance that is also used by another keeper or process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedLocation {
    pub location: PathBuf,
    /// Description of the other user.
    pub with: String,
}

/// A location or file that could not be read or recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SurveyFailure {
    pub path: PathBuf,
    pub why: String,
}

/// Directories of a running instance outside PGDATA.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TablespaceSurvey {
    /// The locations of its tablespaces.
    pub locations: Vec<PathBuf>,
    /// Shared locations.
    pub shared: Vec<SharedLocation>,
    /// Old data beside PGDATA that are not recorded.
    pub unrecorded: Vec<PathBuf>,
    /// Failures; everything else was surveyed.
    pub failed: Vec<SurveyFailure>,
}

impl TablespaceSurvey {
    /// Returns the result, if there is one; otherwise notes the failure, once per path.
    fn note_failure<T>(&mut self, path: &Path, result: Result<T, FileError>) -> Option<T> {
        let failed = result.as_ref().err().map(|why| SurveyFailure {
            path: path.to_owned(),
            why: Chain(why).to_string(),
        });
        if self.failed.iter().all(|known| known.path != path) {
            self.failed.extend(failed);
        }
        result.ok()
    }
}

/// Records the tablespaces of a complete PGDATA as this keeper's, marks their locations, drops missing ones from the
/// record, and returns which are shared. A location that cannot be read is noted and does not affect the others.
pub fn survey_instance(data: &Path, owned: &OwnedDirs) -> TablespaceSurvey {
    let mut survey = TablespaceSurvey::default();
    let links = version_directory(data).and_then(|directory| Ok((directory, locations(data)?)));
    let Some((directory, targets)) = survey.note_failure(data, links) else {
        return survey;
    };
    let not_ours = owned.record().not_ours;
    let mut found = Vec::new();
    for location in targets.iter().filter(|_| directory.is_some()) {
        let tablespace = tablespace_dir_at(location, directory.as_deref().unwrap_or_default());
        found.extend(survey.note_failure(location, tablespace).flatten());
    }
    survey.locations = found.iter().map(|tablespace| tablespace.location.clone()).collect();
    found.retain(|tablespace| !not_ours.contains(&tablespace.path()));
    record(data, owned, &found, &mut survey);
    for tablespace in &found {
        let marked = owned.put_marker(&tablespace.location);
        survey.note_failure(&tablespace.location, marked);
    }
    let servers = external_dir_holders::servers_of(&survey.locations, data);
    for (location, server) in survey.locations.clone().iter().zip(servers) {
        let keeper = survey.note_failure(location, owned.other_keeper(location)).flatten();
        let keeper = keeper.map(|dir| format!("the keeper of {}", dir.display()));
        let server = server.map(|server| format!("process {} ({})", server.pid, server.program));
        if let Some(with) = keeper.or(server) {
            let location = location.clone();
            survey.shared.push(SharedLocation { location, with });
        }
    }
    survey.unrecorded = survey
        .note_failure(data, unrecorded_old_data(data, owned))
        .unwrap_or_default();
    survey
}

/// Replaces the recorded tablespaces by the found ones, but keeps those that may be unmounted.
fn record(data: &Path, owned: &OwnedDirs, found: &[TablespaceDir], survey: &mut TablespaceSurvey) {
    let before = owned.record().tablespaces;
    let mut kept = found.to_vec();
    for tablespace in &before {
        if kept.iter().any(|kept| kept.path() == tablespace.path()) {
            continue;
        }
        let identity = survey.note_failure(&tablespace.location, DirIdentity::of(&tablespace.path()));
        let is_there = identity.is_none_or(|identity| identity == Some(tablespace.identity));
        // A location without the marker is on a file system that is not mounted.
        if is_there || !owned.has_marker(&tablespace.location) {
            kept.push(tablespace.clone());
        }
    }
    let wal = wal_of(data, owned).and_then(|wal| {
        let identity = wal.as_deref().map(DirIdentity::of).transpose()?.flatten();
        Ok((wal, identity))
    });
    let wal = survey.note_failure(data, wal);
    let changed = owned.change(|record| {
        record.tablespaces.clone_from(&kept);
        if let Some(wal) = wal {
            (record.wal, record.wal_identity) = wal;
        }
    });
    survey.note_failure(data, changed);
    let is_kept = |location: &Path| kept.iter().any(|kept| kept.location == location);
    for gone in before.iter().filter(|tablespace| !is_kept(&tablespace.location)) {
        if gone.location.exists() {
            survey.note_failure(&gone.location, owned.remove_marker(&gone.location));
        }
    }
}

/// Returns old data beside PGDATA that are not recorded.
fn unrecorded_old_data(data: &Path, owned: &OwnedDirs) -> Result<Vec<PathBuf>, FileError> {
    let (Some(dir), Some(name)) = (data.parent(), data.file_name()) else {
        return Ok(Vec::new());
    };
    let beginning = format!("{}.old-", name.to_string_lossy());
    let recorded = owned.record().old.map(|old| old.directory);
    let is_old = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&beginning) && Some(path) != recorded.as_ref()
    };
    Ok(inspect::entries(dir)?.into_iter().filter(is_old).collect())
}

/// A file in a directory that shows whether another server uses the same directory; removed when dropped.
#[derive(Debug)]
pub struct SharedDirProbe {
    /// Path for the other server: absolute, or relative to its PGDATA.
    pub path_on_source: String,
    path: PathBuf,
}

impl Drop for SharedDirProbe {
    fn drop(&mut self) {
        // A leftover empty file with a random name does no harm.
        let _ = fs::remove_file(&self.path);
    }
}

/// Gathers the facts about a tablespace location of the source, and a probe for checking whether the source shares it.
pub fn survey_tablespace(
    data: &Path,
    owned: &OwnedDirs,
    location: &Path,
    directory: &str,
) -> Result<(ExternalDirFacts, Option<SharedDirProbe>), FileError> {
    let path = location.join(directory);
    let is_recorded = owned
        .record()
        .tablespaces
        .iter()
        .any(|tablespace| tablespace.path() == path);
    if is_recorded && DirIdentity::of(&path)?.is_none() && !owned.has_marker(location) {
        let facts = ExternalDirFacts {
            missing_marker: Some(owned.marker(location)),
            ..ExternalDirFacts::default()
        };
        return Ok((facts, None));
    }
    if let Err(why) = trees::create(location) {
        return Ok((unusable_facts(&why), None));
    }
    let probe = match probe(owned, location, location) {
        Ok(probe) => probe,
        Err(why) => return Ok((unusable_facts(&why), None)),
    };
    let holder = external_dir_holders::holder_of(location, &path, data);
    let found = ExternalDirFacts {
        unusable: None,
        holds_data: DirIdentity::of(&path)?.is_some(),
        is_source_dir: false,
        other_keeper: owned.other_keeper(location)?,
        user: holder.map(|holder| (holder.program, holder.pid)),
        is_ours: is_ours(&own_tablespaces(data, owned)?, &path)?,
        missing_marker: None,
    };
    Ok((found, Some(probe)))
}

/// Returns the tablespace directories of this keeper: those that PGDATA links to unless it is unfinished, and the
/// recorded ones. If both have a path, PGDATA's is used.
pub(crate) fn own_tablespaces(data: &Path, owned: &OwnedDirs) -> Result<Vec<TablespaceDir>, FileError> {
    let is_unfinished = DirIdentity::of(&data.join(owned.name(NEW_KIND)))?.is_some();
    let mut tablespaces = if is_unfinished { Vec::new() } else { linked(data)? };
    for tablespace in owned
        .record()
        .tablespaces
        .into_iter()
        .filter(|tablespace| tablespace.identity.proves())
    {
        if tablespaces.iter().all(|known| known.path() != tablespace.path()) {
            tablespaces.push(tablespace);
        }
    }
    let not_ours = owned.record().not_ours;
    tablespaces.retain(|tablespace| !not_ours.contains(&tablespace.path()));
    Ok(tablespaces)
}

/// Whether a directory is one of `tablespaces`, even if its location is a different path to it through a link.
fn is_ours(tablespaces: &[TablespaceDir], path: &Path) -> Result<bool, FileError> {
    let found = DirIdentity::of(path)?;
    Ok(tablespaces
        .iter()
        .any(|tablespace| Some(tablespace.identity) == found && path.ends_with(&tablespace.directory)))
}

/// Gathers the facts about the target of `pg_wal`, which belongs to this keeper if its PGDATA links to it or its record
/// lists it, and a probe for checking whether the source shares it.
pub fn survey_wal(
    data: &Path,
    owned: &OwnedDirs,
    target: &Path,
) -> Result<(ExternalDirFacts, Option<SharedDirProbe>), FileError> {
    if !target.is_dir() {
        let why = format!("{}, where pg_wal leads, is not there", target.display());
        return Ok((
            ExternalDirFacts {
                unusable: Some(why),
                ..ExternalDirFacts::default()
            },
            None,
        ));
    }
    let probe = match probe(owned, target, Path::new("pg_wal")) {
        Ok(probe) => probe,
        Err(why) => return Ok((unusable_facts(&why), None)),
    };
    let holder = external_dir_holders::holder_of(target, target, data);
    let found = ExternalDirFacts {
        holds_data: holds_wal(target)?,
        user: holder.map(|holder| (holder.program, holder.pid)),
        is_ours: own_wal(data, owned)?.as_deref() == Some(target),
        ..ExternalDirFacts::default()
    };
    Ok((found, Some(probe)))
}

pub(crate) fn unusable_facts(why: &FileError) -> ExternalDirFacts {
    ExternalDirFacts {
        unusable: Some(Chain(why).to_string()),
        ..ExternalDirFacts::default()
    }
}

/// Writes a probe into `dir`, which the other server has as `known_as`.
fn probe(owned: &OwnedDirs, dir: &Path, known_as: &Path) -> Result<SharedDirProbe, FileError> {
    let name = owned.name(&format!("probe.{}", owned.random_name()));
    let path = dir.join(&name);
    atomic_files::write_atomically(&path, b"")?;
    Ok(SharedDirProbe {
        path_on_source: known_as.join(name).to_string_lossy().into_owned(),
        path,
    })
}

/// Whether PostgreSQL creates such a name in `pg_wal`: a segment, with or without a suffix, a history file, or a
/// directory.
pub fn is_of_wal(name: &std::ffi::OsStr) -> bool {
    let name = name.to_string_lossy();
    let (stem, ending) = name.split_once('.').unwrap_or((&name, ""));
    let is_hex = |length| stem.len() == length && stem.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
    matches!(&*name, "archive_status" | "summaries" | "xlogtemp")
        || name.starts_with("xlogtemp.")
        || is_hex(24)
        || (is_hex(8) && ending == "history")
}

/// Returns the tablespace directories of the data in PGDATA, with what was found at each.
pub fn own_external_dirs(data: &Path, owned: &OwnedDirs) -> Result<Vec<ExternalDir>, FileError> {
    let tablespaces = own_tablespaces(data, owned)?;
    let mut external_dirs = Vec::new();
    for tablespace in tablespaces.clone() {
        let path = tablespace.path();
        let holder = external_dir_holders::holder_of(&tablespace.location, &path, data);
        external_dirs.push(ExternalDir {
            bytes: None,
            found: ExternalDirFacts {
                holds_data: DirIdentity::of(&path)?.is_some(),
                other_keeper: owned.other_keeper(&tablespace.location)?,
                user: holder.map(|holder| (holder.program, holder.pid)),
                is_ours: is_ours(&tablespaces, &path)?,
                ..ExternalDirFacts::default()
            },
            path: tablespace.location,
            kind: ExternalDirKind::Tablespace {
                directory: tablespace.directory,
            },
        });
    }
    Ok(external_dirs)
}

#[cfg(test)]
mod tests;
