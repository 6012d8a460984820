//! The directories outside PGDATA and the space that a base backup needs, checked here and on the source. Whether a
//! copy is made is decided by `reconcile`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::Chain;
use tracing::info;

use crate::context::KeeperContext;
use crate::executor::StepError;
use crate::external_dirs::{ClearRequest, ExternalDir, ExternalDirFacts, ExternalDirKind, Obstacle, first_obstacle};
use crate::postgres::client::upstream::{UpstreamClient, UpstreamError};
use crate::postgres::data::file_error::FileError;
use crate::postgres::data::owned_dirs::OwnedDirs;
use crate::postgres::data::previous_data;
use crate::postgres::data::rewind_scope;
use crate::postgres::data::survey::{self, SharedDirProbe};
use crate::postgres::data::walker::{FileSystemHung, Walker};
use crate::postgres::programs::installation::Programs;
use crate::postgres::rewind;
use crate::reconcile::RewindFacts;

/// Requirements of a base backup.
#[derive(Default)]
pub(super) struct CopyNeeds {
    /// Directories outside PGDATA that it writes into.
    pub external_dirs: Vec<ExternalDir>,
    /// Bytes in PGDATA; `None` when the source did not report them.
    pub bytes: Option<u64>,
    /// Obstacles besides these directories.
    pub obstacle: Option<(PathBuf, Obstacle)>,
}

/// Why the requirements are unknown.
#[derive(Debug, thiserror::Error)]
enum CopyNeedsError {
    #[error(transparent)]
    Source(#[from] UpstreamError),
    #[error(transparent)]
    Hung(#[from] FileSystemHung),
}

/// Finds out what copies need.
#[derive(Debug)]
pub(super) struct CopySurvey {
    /// PGDATA.
    data: PathBuf,
    owned: Arc<OwnedDirs>,
    /// Reads the directories.
    walker: Walker,
}

impl CopySurvey {
    pub(super) fn new(context: &KeeperContext) -> Self {
        Self {
            data: context.instance.config().data.clone(),
            owned: Arc::clone(&context.owned),
            walker: context.walker.clone(),
        }
    }

    /// Returns what a copy of this source needs. A directory that hangs or cannot be read is an obstacle.
    pub(super) async fn needs(&self, source: &UpstreamClient) -> Result<CopyNeeds, UpstreamError> {
        match self.gather_needs(source).await {
            Ok(needs) => Ok(needs),
            Err(CopyNeedsError::Source(error)) => Err(error),
            Err(CopyNeedsError::Hung(FileSystemHung { path })) => Ok(CopyNeeds {
                obstacle: Some((path, Obstacle::FileSystemHung)),
                ..CopyNeeds::default()
            }),
        }
    }

    /// Returns what a copy of this source needs. Sizes are queried last and only when there is no obstacle: the source
    /// walks through all its files for them.
    async fn gather_needs(&self, source: &UpstreamClient) -> Result<CopyNeeds, CopyNeedsError> {
        let mut external_dirs = self.external_dirs(source).await?;
        let mounted = self.find_obstacle(previous_data::mount_obstacle).await?;
        if first_obstacle(&external_dirs).is_some() || mounted.is_some() {
            return Ok(CopyNeeds {
                external_dirs,
                bytes: None,
                obstacle: mounted,
            });
        }
        let mut bytes = source.bytes(None).await;
        let wal = source.bytes_of_wal().await;
        let has_wal_dir = external_dirs
            .iter()
            .any(|external_dir| external_dir.kind == ExternalDirKind::Wal);
        if !has_wal_dir {
            bytes = bytes.zip(wal).map(|(data, wal)| data.saturating_add(wal));
        }
        for external_dir in &mut external_dirs {
            external_dir.bytes = match &external_dir.kind {
                ExternalDirKind::Wal => wal,
                ExternalDirKind::Tablespace { .. } => source.bytes(external_dir.path.to_str()).await,
            };
        }
        let clear = ClearRequest {
            db: String::new(),
            bytes,
            external_dirs: external_dirs.clone(),
            ran_out_of_space: false,
        };
        let obstacle = self
            .find_obstacle(move |data, owned| previous_data::shortage(data, owned, &clear))
            .await?;
        Ok(CopyNeeds {
            external_dirs,
            bytes,
            obstacle,
        })
    }

    /// Looks for an obstacle; a directory that cannot be read is one.
    async fn find_obstacle(
        &self,
        look: impl FnOnce(&Path, &OwnedDirs) -> Result<Option<(PathBuf, Obstacle)>, FileError> + Send + 'static,
    ) -> Result<Option<(PathBuf, Obstacle)>, FileSystemHung> {
        let (data, owned) = (self.data.clone(), Arc::clone(&self.owned));
        let found = self.walker.run(move || look(&data, &owned)).await?;
        Ok(found.unwrap_or_else(|why| {
            let data = self.data.clone();
            Some((data, Obstacle::Unusable(Chain(&why).to_string())))
        }))
    }

    /// Returns what pg_rewind depends on, besides the end of the data.
    pub(super) async fn rewind_facts(&self, programs: &Programs, needs: &CopyNeeds) -> Result<RewindFacts, StepError> {
        let (data, owned) = (self.data.clone(), Arc::clone(&self.owned));
        let outside = self.walker.run(move || rewind_scope::outside(&data, &owned)).await??;
        let tablespace = needs
            .external_dirs
            .iter()
            .find(|external_dir| external_dir.kind != ExternalDirKind::Wal)
            .map(|tablespace| tablespace.path.clone());
        let used_by_another = || first_obstacle(&needs.external_dirs).map(|(path, _)| path);
        let outside = outside.or(tablespace).or_else(used_by_another);
        if let Some(path) = &outside {
            info!(path = %path.display(), "not rewinding: pg_rewind would change what is there, too");
        }
        Ok(RewindFacts {
            has_program: programs.has(rewind::PROGRAM),
            outside,
        })
    }

    async fn external_dirs(&self, source: &UpstreamClient) -> Result<Vec<ExternalDir>, CopyNeedsError> {
        let extent = source.extent().await?;
        let data = &self.data;
        let mut external_dirs = Vec::new();
        for location in &extent.locations {
            let path = PathBuf::from(location);
            // Tablespaces inside PGDATA are copied with it.
            if path.starts_with(data) {
                continue;
            }
            let found = self.survey_tablespace(&path, &extent.directory).await?;
            external_dirs.push(ExternalDir {
                path,
                kind: ExternalDirKind::Tablespace {
                    directory: extent.directory.clone(),
                },
                bytes: None,
                found: with_source_view(source, found).await?,
            });
        }
        let (at, owned) = (data.clone(), Arc::clone(&self.owned));
        let wal = self.walker.run(move || survey::wal_of(&at, &owned)).await?;
        if let Some(target) = wal.map_err(UpstreamError::from)? {
            let found = self.survey_wal(&target).await?;
            external_dirs.push(ExternalDir {
                path: target,
                kind: ExternalDirKind::Wal,
                bytes: None,
                found: with_source_view(source, found).await?,
            });
        }
        Ok(external_dirs)
    }

    async fn survey_tablespace(&self, location: &Path, directory: &str) -> Result<Surveyed, FileSystemHung> {
        let (data, owned) = (self.data.clone(), Arc::clone(&self.owned));
        let (location, directory) = (location.to_owned(), directory.to_owned());
        let look = move || survey::survey_tablespace(&data, &owned, &location, &directory);
        Ok(self.walker.run(look).await?.unwrap_or_else(unusable_dir))
    }

    async fn survey_wal(&self, target: &Path) -> Result<Surveyed, FileSystemHung> {
        let (data, owned) = (self.data.clone(), Arc::clone(&self.owned));
        let target = target.to_owned();
        let look = move || survey::survey_wal(&data, &owned, &target);
        Ok(self.walker.run(look).await?.unwrap_or_else(unusable_dir))
    }
}

/// What was found at a directory, and the file by which the source can recognise the same directory.
type Surveyed = (ExternalDirFacts, Option<SharedDirProbe>);

#[expect(clippy::needless_pass_by_value, reason = "as unwrap_or_else passes it")]
fn unusable_dir(why: FileError) -> Surveyed {
    (survey::unusable_facts(&why), None)
}

/// Adds whether the directory is the source's own.
async fn with_source_view(
    source: &UpstreamClient,
    (found, probe): Surveyed,
) -> Result<ExternalDirFacts, UpstreamError> {
    let is_source_dir = match &probe {
        Some(probe) => source.can_see(&probe.path_on_source).await?,
        None => false,
    };
    Ok(ExternalDirFacts { is_source_dir, ..found })
}
