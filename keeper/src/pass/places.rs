//! What a copy would write into, and remove, outside PGDATA, as found here and as the source sees it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use control::telemetry::Chain;

use crate::pass::Engine;
use crate::places::{Clear, Found, Obstacle, Place, PlaceKind, obstacle};
use crate::postgres::aside;
use crate::postgres::files::FileError;
use crate::postgres::owned::Owned;
use crate::postgres::source::{Source, SourceError};
use crate::postgres::survey::{self, Probe};
use crate::postgres::walk::NoAnswer;

/// What a copy needs.
#[derive(Default)]
pub(super) struct Needs {
    /// Where it writes outside PGDATA.
    pub places: Vec<Place>,
    /// Bytes in PGDATA; absent when the source did not report them.
    pub bytes: Option<u64>,
    /// What is in its way outside of these places.
    pub in_the_way: Option<(PathBuf, Obstacle)>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Hung(#[from] NoAnswer),
}

impl Engine {
    /// What a copy of this source needs. A directory that does not answer, or cannot be looked at, is in its way.
    pub(super) async fn needs(&self, source: &Source) -> Result<Needs, SourceError> {
        match self.look(source).await {
            Ok(needs) => Ok(needs),
            Err(LookError::Source(error)) => Err(error),
            Err(LookError::Hung(NoAnswer { path })) => Ok(Needs {
                in_the_way: Some((path, Obstacle::NoAnswer)),
                ..Needs::default()
            }),
        }
    }

    /// Sizes, which cost the source a walk through its files, are asked for only when nothing else is in the way.
    async fn look(&self, source: &Source) -> Result<Needs, LookError> {
        let mut places = self.places(source).await?;
        let mounted = self.walk(aside::mount_in_the_way).await?;
        if obstacle(&places).is_some() || mounted.is_some() {
            return Ok(Needs {
                places,
                bytes: None,
                in_the_way: mounted,
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
        let in_the_way = self
            .walk(move |data, owned| aside::shortage(data, owned, &clear))
            .await?;
        Ok(Needs {
            places,
            bytes,
            in_the_way,
        })
    }

    /// Looks for something that is in the way; what cannot be looked at is.
    async fn walk(
        &self,
        look: impl FnOnce(&Path, &Owned) -> Result<Option<(PathBuf, Obstacle)>, FileError> + Send + 'static,
    ) -> Result<Option<(PathBuf, Obstacle)>, NoAnswer> {
        let (data, owned) = (self.instance.config().data.clone(), Arc::clone(&self.owned));
        let found = self.walker.run(move || look(&data, &owned)).await?;
        Ok(found.unwrap_or_else(|why| {
            let data = self.instance.config().data.clone();
            Some((data, Obstacle::Unusable(Chain(&why).to_string())))
        }))
    }

    async fn places(&self, source: &Source) -> Result<Vec<Place>, LookError> {
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
        if let Some(target) = survey::wal_of(data, &self.owned).map_err(SourceError::from)? {
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

    async fn tablespace(&self, location: &Path, directory: &str) -> Result<Looked, NoAnswer> {
        let (data, owned) = (self.instance.config().data.clone(), Arc::clone(&self.owned));
        let (location, directory) = (location.to_owned(), directory.to_owned());
        let look = move || survey::look_at_tablespace(&data, &owned, &location, &directory);
        Ok(self.walker.run(look).await?.unwrap_or_else(cannot_look))
    }

    async fn wal(&self, target: &Path) -> Result<Looked, NoAnswer> {
        let (data, owned) = (self.instance.config().data.clone(), Arc::clone(&self.owned));
        let target = target.to_owned();
        let look = move || survey::look_at_wal(&data, &owned, &target);
        Ok(self.walker.run(look).await?.unwrap_or_else(cannot_look))
    }
}

type Looked = (Found, Option<Probe>);

#[expect(clippy::needless_pass_by_value, reason = "as unwrap_or_else gives it")]
fn cannot_look(why: FileError) -> Looked {
    (survey::unusable(&why), None)
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
