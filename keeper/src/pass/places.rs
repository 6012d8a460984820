//! What a copy would write into outside PGDATA, as found here and as the source sees it.

use std::path::{Path, PathBuf};

use crate::pass::Engine;
use crate::places::{Found, Place, PlaceKind};
use crate::postgres::files::FileError;
use crate::postgres::source::{Source, SourceError};
use crate::postgres::survey::{self, Probe};

impl Engine {
    /// The places of a copy of this source, and the size of its PGDATA.
    pub(super) async fn places(&self, source: &Source) -> Result<(Vec<Place>, Option<u64>), SourceError> {
        let extent = source.extent().await?;
        let mut places = Vec::new();
        for (location, bytes) in &extent.locations {
            let path = PathBuf::from(location);
            // What lies in PGDATA is copied with it.
            if path.starts_with(&self.instance.config().data) {
                continue;
            }
            let found = self.tablespace(&path, &extent.directory).await?;
            places.push(Place {
                path,
                kind: PlaceKind::Tablespace {
                    directory: extent.directory.clone(),
                },
                bytes: bytes.unwrap_or(0),
                found: seen_by(source, found).await?,
            });
        }
        let data = &self.instance.config().data;
        if let Some(target) = survey::wal_of(data, &self.owned)? {
            let found = self.wal(&target).await?;
            places.push(Place {
                path: target,
                kind: PlaceKind::Wal,
                bytes: 0, // counted with PGDATA
                found: seen_by(source, found).await?,
            });
        }
        Ok((places, extent.bytes))
    }

    async fn tablespace(&self, location: &Path, directory: &str) -> Result<Looked, FileError> {
        let (data, owned) = (self.instance.config().data.clone(), self.owned.clone());
        let (location, directory) = (location.to_owned(), directory.to_owned());
        blocking(move || survey::look_at_tablespace(&data, &owned, &location, &directory)).await
    }

    async fn wal(&self, target: &Path) -> Result<Looked, FileError> {
        let (data, owned, target) = (
            self.instance.config().data.clone(),
            self.owned.clone(),
            target.to_owned(),
        );
        blocking(move || survey::look_at_wal(&data, &owned, &target)).await
    }
}

type Looked = (Found, Option<Probe>);

/// Directories on a network file system that hangs do not hold up the keeper.
async fn blocking(look: impl FnOnce() -> Result<Looked, FileError> + Send + 'static) -> Result<Looked, FileError> {
    tokio::task::spawn_blocking(look)
        .await
        .expect("looking at directories does not panic")
}

async fn seen_by(source: &Source, (found, probe): Looked) -> Result<Found, SourceError> {
    let is_the_source_s = match &probe {
        Some(probe) => source.sees(&probe.asked).await?,
        None => false,
    };
    Ok(Found {
        is_the_source_s,
        ..found
    })
}
