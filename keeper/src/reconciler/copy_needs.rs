//! What a copy would write into, and remove, outside PGDATA, as found here and as the source sees it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use control::telemetry::Chain;

use crate::external_dirs::{ClearRequest, ExternalDir, ExternalDirFacts, ExternalDirKind, Obstacle, first_obstacle};
use crate::postgres::files::FileError;
use crate::postgres::owned_dirs::OwnedDirs;
use crate::postgres::previous_data;
use crate::postgres::survey::{self, SharedDirProbe};
use crate::postgres::upstream::{UpstreamClient, UpstreamError};
use crate::postgres::walker::FileSystemHung;
use crate::reconciler::Reconciler;

/// What a copy needs.
#[derive(Default)]
pub(super) struct CopyNeeds {
    /// Where it writes outside PGDATA.
    pub external_dirs: Vec<ExternalDir>,
    /// Bytes in PGDATA; absent when the source did not report them.
    pub bytes: Option<u64>,
    /// What is in its way outside of these places.
    pub obstacle: Option<(PathBuf, Obstacle)>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum CopyNeedsError {
    #[error(transparent)]
    Source(#[from] UpstreamError),
    #[error(transparent)]
    Hung(#[from] FileSystemHung),
}

impl Reconciler {
    /// What a copy of this source needs. A directory that does not answer, or cannot be looked at, is in its way.
    pub(super) async fn needs(&self, source: &UpstreamClient) -> Result<CopyNeeds, UpstreamError> {
        match self.gather_needs(source).await {
            Ok(needs) => Ok(needs),
            Err(CopyNeedsError::Source(error)) => Err(error),
            Err(CopyNeedsError::Hung(FileSystemHung { path })) => Ok(CopyNeeds {
                obstacle: Some((path, Obstacle::NoAnswer)),
                ..CopyNeeds::default()
            }),
        }
    }

    /// Sizes, which cost the source a walk through its files, are asked for only when nothing else is in the way.
    async fn gather_needs(&self, source: &UpstreamClient) -> Result<CopyNeeds, CopyNeedsError> {
        let mut places = self.external_dirs(source).await?;
        let mounted = self.find_obstacle(previous_data::mount_obstacle).await?;
        if first_obstacle(&places).is_some() || mounted.is_some() {
            return Ok(CopyNeeds {
                external_dirs: places,
                bytes: None,
                obstacle: mounted,
            });
        }
        let mut bytes = source.bytes(None).await;
        let wal = source.bytes_of_wal().await;
        let has_place_for_wal = places.iter().any(|place| place.kind == ExternalDirKind::Wal);
        if !has_place_for_wal {
            bytes = bytes.zip(wal).map(|(data, wal)| data.saturating_add(wal));
        }
        for place in &mut places {
            place.bytes = match &place.kind {
                ExternalDirKind::Wal => wal,
                ExternalDirKind::Tablespace { .. } => source.bytes(place.path.to_str()).await,
            };
        }
        let clear = ClearRequest {
            db: String::new(),
            bytes,
            external_dirs: places.clone(),
            lacked_room: false,
        };
        let in_the_way = self
            .find_obstacle(move |data, owned| previous_data::shortage(data, owned, &clear))
            .await?;
        Ok(CopyNeeds {
            external_dirs: places,
            bytes,
            obstacle: in_the_way,
        })
    }

    /// Looks for something that is in the way; what cannot be looked at is.
    async fn find_obstacle(
        &self,
        look: impl FnOnce(&Path, &OwnedDirs) -> Result<Option<(PathBuf, Obstacle)>, FileError> + Send + 'static,
    ) -> Result<Option<(PathBuf, Obstacle)>, FileSystemHung> {
        let (data, owned) = (self.instance.config().data.clone(), Arc::clone(&self.owned));
        let found = self.walker.run(move || look(&data, &owned)).await?;
        Ok(found.unwrap_or_else(|why| {
            let data = self.instance.config().data.clone();
            Some((data, Obstacle::Unusable(Chain(&why).to_string())))
        }))
    }

    async fn external_dirs(&self, source: &UpstreamClient) -> Result<Vec<ExternalDir>, CopyNeedsError> {
        let extent = source.extent().await?;
        let data = &self.instance.config().data;
        let mut places = Vec::new();
        for location in &extent.locations {
            let path = PathBuf::from(location);
            // What lies in PGDATA is copied with it.
            if path.starts_with(data) {
                continue;
            }
            let found = self.survey_tablespace(&path, &extent.directory).await?;
            places.push(ExternalDir {
                path,
                kind: ExternalDirKind::Tablespace {
                    directory: extent.directory.clone(),
                },
                bytes: None,
                found: with_source_view(source, found).await?,
            });
        }
        if let Some(target) = survey::wal_of(data, &self.owned).map_err(UpstreamError::from)? {
            let found = self.survey_wal(&target).await?;
            places.push(ExternalDir {
                path: target,
                kind: ExternalDirKind::Wal,
                bytes: None,
                found: with_source_view(source, found).await?,
            });
        }
        Ok(places)
    }

    async fn survey_tablespace(&self, location: &Path, directory: &str) -> Result<Surveyed, FileSystemHung> {
        let (data, owned) = (self.instance.config().data.clone(), Arc::clone(&self.owned));
        let (location, directory) = (location.to_owned(), directory.to_owned());
        let look = move || survey::survey_tablespace(&data, &owned, &location, &directory);
        Ok(self.walker.run(look).await?.unwrap_or_else(unusable_dir))
    }

    async fn survey_wal(&self, target: &Path) -> Result<Surveyed, FileSystemHung> {
        let (data, owned) = (self.instance.config().data.clone(), Arc::clone(&self.owned));
        let target = target.to_owned();
        let look = move || survey::survey_wal(&data, &owned, &target);
        Ok(self.walker.run(look).await?.unwrap_or_else(unusable_dir))
    }
}

type Surveyed = (ExternalDirFacts, Option<SharedDirProbe>);

#[expect(clippy::needless_pass_by_value, reason = "as unwrap_or_else gives it")]
fn unusable_dir(why: FileError) -> Surveyed {
    (survey::unusable_facts(&why), None)
}

async fn with_source_view(
    source: &UpstreamClient,
    (found, probe): Surveyed,
) -> Result<ExternalDirFacts, UpstreamError> {
    let is_the_source_s = match &probe {
        Some(probe) => source.can_see(&probe.path_on_source).await?,
        None => false,
    };
    Ok(ExternalDirFacts {
        is_source_dir: is_the_source_s,
        ..found
    })
}
