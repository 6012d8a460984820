//! What a copy would write into, and remove, outside PGDATA, as found here and as the source sees it.

use std::path::{Path, PathBuf};

use crate::pass::Engine;
use crate::places::{Clear, Found, Obstacle, Place, PlaceKind, obstacle};
use crate::postgres::aside;
use crate::postgres::files::FileError;
use crate::postgres::source::{Source, SourceError};
use crate::postgres::survey::{self, Probe};

/// What a copy needs.
pub(super) struct Needs {
    /// Where it writes outside PGDATA.
    pub places: Vec<Place>,
    /// Bytes in PGDATA; absent when the source did not report them.
    pub bytes: Option<u64>,
    /// The file system that has no room for it, even without the old data.
    pub shortage: Option<(PathBuf, Obstacle)>,
}

impl Engine {
    /// What a copy of this source needs. Sizes, which cost the source a walk through its files, are asked for only when
    /// nothing else is in the way.
    pub(super) async fn needs(&self, source: &Source) -> Result<Needs, SourceError> {
        let mut places = self.places(source).await?;
        if obstacle(&places).is_some() {
            return Ok(Needs {
                places,
                bytes: None,
                shortage: None,
            });
        }
        let mut bytes = source.bytes(None).await;
        let wal = source.bytes_of_wal().await;
        let has_place_for_wal = places.iter().any(|place| place.kind == PlaceKind::Wal);
        if !has_place_for_wal {
            bytes = bytes.zip(wal).map(|(data, wal)| data.saturating_add(wal));
        }
        for place in &mut places {
            place.bytes = match &place.kind {
                PlaceKind::Wal => wal,
                PlaceKind::Tablespace { .. } => source.bytes(place.path.to_str()).await,
            };
        }
        let clear = Clear {
            db: String::new(),
            bytes,
            places: places.clone(),
            lacked_room: false,
        };
        let (data, owned) = (self.instance.config().data.clone(), self.owned.clone());
        let shortage = blocking(move || aside::shortage(&data, &owned, &clear)).await?;
        Ok(Needs {
            places,
            bytes,
            shortage,
        })
    }

    async fn places(&self, source: &Source) -> Result<Vec<Place>, SourceError> {
        let extent = source.extent().await?;
        let data = &self.instance.config().data;
        let mut places = Vec::new();
        for location in &extent.locations {
            let path = PathBuf::from(location);
            // What lies in PGDATA is copied with it.
            if path.starts_with(data) {
                continue;
            }
            let found = self.tablespace(&path, &extent.directory).await?;
            places.push(Place {
                path,
                kind: PlaceKind::Tablespace {
                    directory: extent.directory.clone(),
                },
                bytes: None,
                found: seen_by(source, found).await?,
            });
        }
        if let Some(target) = survey::wal_of(data, &self.owned)? {
            let found = self.wal(&target).await?;
            places.push(Place {
                path: target,
                kind: PlaceKind::Wal,
                bytes: None,
                found: seen_by(source, found).await?,
            });
        }
        Ok(places)
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
async fn blocking<T: Send + 'static>(
    look: impl FnOnce() -> Result<T, FileError> + Send + 'static,
) -> Result<T, FileError> {
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
