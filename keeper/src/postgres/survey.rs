//! Looks at the directories outside PGDATA that belong to an instance or that a copy would write into, and records
//! those of a running instance as this keeper's. What follows from it `places` decides.

use std::fs;
use std::path::{Path, PathBuf};

use control::telemetry::Chain;

use crate::external_dirs::{ExternalDir, ExternalDirFacts, ExternalDirKind};
use crate::postgres::files::{self, FileError};
use crate::postgres::links::{self, locations, version_directory};
use crate::postgres::owned_dirs::{NEW_KIND, OwnedDirs, TablespaceDir, random_name};
use crate::postgres::trees::{self, DirMark};
use crate::postgres::usage;

/// The tablespace directories that the links of a whole PGDATA lead to, in-place ones left out.
pub fn linked(data: &Path) -> Result<Vec<TablespaceDir>, FileError> {
    let Some(directory) = version_directory(data)? else {
        return Ok(Vec::new());
    };
    let mut spaces = Vec::new();
    for location in locations(data)? {
        spaces.extend(space_at(&location, &directory)?);
    }
    Ok(spaces)
}

fn space_at(location: &Path, directory: &str) -> Result<Option<TablespaceDir>, FileError> {
    let mark = trees::mark(&location.join(directory))?;
    Ok(mark.map(|mark| TablespaceDir {
        location: location.to_owned(),
        directory: directory.to_owned(),
        mark,
    }))
}

/// Where the `pg_wal` of PGDATA leads, when it is a link; of data that are lost or half made, where it did.
pub fn wal_of(data: &Path, owned: &OwnedDirs) -> Result<Option<PathBuf>, FileError> {
    links::wal_of(data, owned.record().wal, &owned.name(NEW_KIND))
}

/// The same, when its content is this keeper's: PGDATA leads there, or it is still the recorded directory.
pub(crate) fn own_wal(data: &Path, owned: &OwnedDirs) -> Result<Option<PathBuf>, FileError> {
    let Some(wal) = wal_of(data, owned)? else {
        return Ok(None);
    };
    let is_linked = fs::read_link(data.join("pg_wal")).is_ok();
    let mark = trees::mark(&wal)?;
    let record = owned.record();
    let is_recorded = mark == record.wal_mark && mark.is_none_or(DirMark::proves);
    let is_ours = is_linked || mark.is_none() || is_recorded;
    Ok((is_ours && !record.not_ours.contains(&wal)).then_some(wal))
}

/// Where new WAL would go, when WAL lies there that is not this keeper's.
pub(crate) fn foreign_wal(data: &Path, owned: &OwnedDirs) -> Result<Option<PathBuf>, FileError> {
    let Some(wal) = wal_of(data, owned)? else {
        return Ok(None);
    };
    let is_foreign = own_wal(data, owned)?.is_none() && holds_wal(&wal)?;
    Ok(is_foreign.then_some(wal))
}

fn holds_wal(dir: &Path) -> Result<bool, FileError> {
    let entries = trees::entries(dir)?;
    Ok(entries.iter().any(|path| path.file_name().is_some_and(is_of_wal)))
}

/// Records where `pg_wal` leads.
pub(crate) fn record_wal(owned: &OwnedDirs, wal: Option<&Path>) -> Result<(), FileError> {
    let known = owned.record();
    if known.wal.as_deref() == wal && known.wal_mark.is_some() {
        return Ok(()); // another directory at that path is not ours for that
    }
    let mark = wal.map(trees::mark).transpose()?.flatten();
    owned.change(|record| (record.wal, record.wal_mark) = (wal.map(Path::to_owned), mark))
}

/// A tablespace of a running instance whose location somebody else uses too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedLocation {
    /// The location.
    pub location: PathBuf,
    /// Who.
    pub with: String,
}

/// What could not be looked at or recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SurveyFailure {
    /// The location or file.
    pub path: PathBuf,
    /// Why not.
    pub why: String,
}

/// What a running instance has outside PGDATA.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TablespaceSurvey {
    /// The locations of its tablespaces.
    pub locations: Vec<PathBuf>,
    /// Those that are not its alone.
    pub shared: Vec<SharedLocation>,
    /// Old data beside PGDATA that nothing records.
    pub unrecorded: Vec<PathBuf>,
    /// What could not be looked at; all the rest was.
    pub failed: Vec<SurveyFailure>,
}

impl TablespaceSurvey {
    /// The result, if there is one; otherwise what failed is noted, once for each path.
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

/// Records the tablespaces of a whole PGDATA as this keeper's, marks their locations, forgets those that are gone, and
/// returns which are shared. A location that cannot be looked at is noted, and keeps nothing from the others.
pub fn survey_instance(data: &Path, owned: &OwnedDirs) -> TablespaceSurvey {
    let mut stock = TablespaceSurvey::default();
    let links = version_directory(data).and_then(|directory| Ok((directory, locations(data)?)));
    let Some((directory, targets)) = stock.note_failure(data, links) else {
        return stock;
    };
    let not_ours = owned.record().not_ours;
    let mut found = Vec::new();
    for location in targets.iter().filter(|_| directory.is_some()) {
        let space = space_at(location, directory.as_deref().unwrap_or_default());
        found.extend(stock.note_failure(location, space).flatten());
    }
    stock.locations = found.iter().map(|space| space.location.clone()).collect();
    found.retain(|space| !not_ours.contains(&space.path()));
    record(data, owned, &found, &mut stock);
    for space in &found {
        let marked = owned.put_marker(&space.location);
        stock.note_failure(&space.location, marked);
    }
    let servers = usage::servers_of(&stock.locations, data);
    for (location, server) in stock.locations.clone().iter().zip(servers) {
        let keeper = stock.note_failure(location, owned.other_keeper(location)).flatten();
        let keeper = keeper.map(|dir| format!("the keeper of {}", dir.display()));
        let server = server.map(|server| format!("process {} ({})", server.pid, server.program));
        if let Some(with) = keeper.or(server) {
            let location = location.clone();
            stock.shared.push(SharedLocation { location, with });
        }
    }
    stock.unrecorded = stock
        .note_failure(data, unrecorded_old_data(data, owned))
        .unwrap_or_default();
    stock
}

/// Replaces the recorded tablespaces by those that were found, but keeps what may only be away.
fn record(data: &Path, owned: &OwnedDirs, found: &[TablespaceDir], stock: &mut TablespaceSurvey) {
    let before = owned.record().tablespaces;
    let mut kept = found.to_vec();
    for space in &before {
        if kept.iter().any(|kept| kept.path() == space.path()) {
            continue;
        }
        let mark = stock.note_failure(&space.location, trees::mark(&space.path()));
        let is_there = mark.is_none_or(|mark| mark == Some(space.mark));
        // One whose location lost the marker as well is on a file system that is not mounted.
        if is_there || !owned.has_marker(&space.location) {
            kept.push(space.clone());
        }
    }
    let wal = wal_of(data, owned).and_then(|wal| {
        let mark = wal.as_deref().map(trees::mark).transpose()?.flatten();
        Ok((wal, mark))
    });
    let wal = stock.note_failure(data, wal);
    let changed = owned.change(|record| {
        record.tablespaces.clone_from(&kept);
        if let Some(wal) = wal {
            (record.wal, record.wal_mark) = wal;
        }
    });
    stock.note_failure(data, changed);
    let is_kept = |location: &Path| kept.iter().any(|kept| kept.location == location);
    for gone in before.iter().filter(|space| !is_kept(&space.location)) {
        if gone.location.exists() {
            stock.note_failure(&gone.location, owned.remove_marker(&gone.location));
        }
    }
}

/// Old data beside PGDATA that are not recorded, such as those of another start of this directory's life.
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
    Ok(trees::entries(dir)?.into_iter().filter(is_old).collect())
}

/// A file in a place that shows whether another server sees the same directory; removed when dropped.
#[derive(Debug)]
pub struct SharedDirProbe {
    /// What the other server is asked for: an absolute path, or one below its PGDATA.
    pub path_on_source: String,
    path: PathBuf,
}

impl Drop for SharedDirProbe {
    fn drop(&mut self) {
        // An empty file with a random name that stays behind when this fails does no harm.
        let _ = fs::remove_file(&self.path);
    }
}

/// What a tablespace of the source finds here, but for what only the source can tell; a probe for that.
pub fn survey_tablespace(
    data: &Path,
    owned: &OwnedDirs,
    location: &Path,
    directory: &str,
) -> Result<(ExternalDirFacts, Option<SharedDirProbe>), FileError> {
    let path = location.join(directory);
    let is_recorded = owned.record().tablespaces.iter().any(|space| space.path() == path);
    if is_recorded && trees::mark(&path)?.is_none() && !owned.has_marker(location) {
        let is_away = ExternalDirFacts {
            missing_marker: Some(owned.marker(location)),
            ..ExternalDirFacts::default()
        };
        return Ok((is_away, None));
    }
    if let Err(why) = trees::create(location) {
        return Ok((unusable_facts(&why), None));
    }
    let probe = match probe(owned, location, location) {
        Ok(probe) => probe,
        Err(why) => return Ok((unusable_facts(&why), None)),
    };
    let user = usage::user_of(location, &path, data);
    let found = ExternalDirFacts {
        unusable: None,
        holds_data: trees::mark(&path)?.is_some(),
        is_source_dir: false,
        other_keeper: owned.other_keeper(location)?,
        user: user.map(|user| (user.program, user.pid)),
        is_ours: is_ours(&own_spaces(data, owned)?, &path)?,
        missing_marker: None,
    };
    Ok((found, Some(probe)))
}

/// The tablespace directories of this keeper: those that its PGDATA, unless that is unfinished, leads to, and those that
/// are recorded. Where both name one path, the record is the older one.
pub(crate) fn own_spaces(data: &Path, owned: &OwnedDirs) -> Result<Vec<TablespaceDir>, FileError> {
    let is_unfinished = trees::mark(&data.join(owned.name(NEW_KIND)))?.is_some();
    let mut spaces = if is_unfinished { Vec::new() } else { linked(data)? };
    for space in owned
        .record()
        .tablespaces
        .into_iter()
        .filter(|space| space.mark.proves())
    {
        if spaces.iter().all(|known| known.path() != space.path()) {
            spaces.push(space);
        }
    }
    let not_ours = owned.record().not_ours;
    spaces.retain(|space| !not_ours.contains(&space.path()));
    Ok(spaces)
}

/// Whether a directory is one of them; its location may be written in another way, through a link.
fn is_ours(spaces: &[TablespaceDir], path: &Path) -> Result<bool, FileError> {
    let found = trees::mark(path)?;
    Ok(spaces
        .iter()
        .any(|space| Some(space.mark) == found && path.ends_with(&space.directory)))
}

/// The same for the target of `pg_wal`, which is this keeper's because its PGDATA, or its record, leads there.
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
    let user = usage::user_of(target, target, data);
    let found = ExternalDirFacts {
        holds_data: holds_wal(target)?,
        user: user.map(|user| (user.program, user.pid)),
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

/// Writes a probe into `dir`, which the other server knows as `known_as`.
fn probe(owned: &OwnedDirs, dir: &Path, known_as: &Path) -> Result<SharedDirProbe, FileError> {
    let name = owned.name(&format!("probe.{}", random_name()));
    let path = dir.join(&name);
    files::write_atomically(&path, b"")?;
    Ok(SharedDirProbe {
        path_on_source: known_as.join(name).to_string_lossy().into_owned(),
        path,
    })
}

/// Whether a name in a `pg_wal` is one that PostgreSQL gives: a segment, with an ending or not, a history file, a
/// directory of the WAL.
pub fn is_of_wal(name: &std::ffi::OsStr) -> bool {
    let name = name.to_string_lossy();
    let (stem, ending) = name.split_once('.').unwrap_or((&name, ""));
    let is_hex = |length| stem.len() == length && stem.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
    matches!(&*name, "archive_status" | "summaries" | "xlogtemp")
        || name.starts_with("xlogtemp.")
        || is_hex(24)
        || (is_hex(8) && ending == "history")
}

/// The places of an instance that is to be replaced by something that has no tablespaces: its own tablespaces.
pub fn own_external_dirs(data: &Path, owned: &OwnedDirs) -> Result<Vec<ExternalDir>, FileError> {
    let spaces = own_spaces(data, owned)?;
    let mut places = Vec::new();
    for space in spaces.clone() {
        let path = space.path();
        let user = usage::user_of(&space.location, &path, data);
        places.push(ExternalDir {
            bytes: None,
            found: ExternalDirFacts {
                holds_data: trees::mark(&path)?.is_some(),
                other_keeper: owned.other_keeper(&space.location)?,
                user: user.map(|user| (user.program, user.pid)),
                is_ours: is_ours(&spaces, &path)?,
                ..ExternalDirFacts::default()
            },
            path: space.location,
            kind: ExternalDirKind::Tablespace {
                directory: space.directory,
            },
        });
    }
    Ok(places)
}

#[cfg(test)]
mod tests;
