//! What follows a complete pass beside the loop: the tablespaces of the instance are recorded as this keeper's, and old
//! data that were kept for the case that a copy fails are removed.

use std::sync::Arc;

use control::telemetry::Chain;
use tokio::task::JoinHandle;
use tracing::warn;

use crate::postgres::aside;
use crate::postgres::files::FileError;
use crate::postgres::instance::Instance;
use crate::postgres::owned::Owned;
use crate::postgres::survey::{self, Stock};

/// The work that is under way, and what was logged of the last results.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    task: Option<JoinHandle<Result<Stock, FileError>>>,
    logged: Option<Result<(Stock, bool), String>>,
}

impl Upkeep {
    /// Begins the work unless it is under way. `has_neighbour`: another keeper of the cluster advertises our address.
    pub(super) async fn begin(&mut self, instance: &Arc<Instance>, owned: &Arc<Owned>, has_neighbour: bool) {
        match &mut self.task {
            Some(task) if !task.is_finished() => return,
            Some(_) => self.end(has_neighbour).await,
            None => {}
        }
        let (data, owned) = (instance.config().data.clone(), Arc::clone(owned));
        self.task = Some(tokio::task::spawn_blocking(move || {
            // A location that cannot be marked is no reason to keep old data.
            let (stock, dropped) = (survey::take_stock(&data, &owned), aside::drop_old(&owned));
            dropped.and(stock)
        }));
    }

    /// Waits for the work that is under way: nothing else touches these directories meanwhile.
    pub(super) async fn end(&mut self, has_neighbour: bool) {
        let Some(task) = self.task.take() else { return };
        let done = task.await.expect("looking at and removing files does not panic");
        let done = done
            .map(|stock| (stock, has_neighbour))
            .map_err(|error| Chain(&error).to_string());
        if self.logged.as_ref() != Some(&done) {
            log(&done);
            self.logged = Some(done);
        }
    }
}

fn log(done: &Result<(Stock, bool), String>) {
    let stock = match done {
        Ok((stock, has_neighbour)) => {
            if *has_neighbour && stock.shared.is_empty() && !stock.locations.is_empty() {
                warn!(
                    tablespaces = stock.locations.len(),
                    "another keeper on this host would use the same tablespace directories: run one of the two on \
                     another host"
                );
            }
            stock
        }
        Err(error) => return warn!(%error, "could not record the tablespaces, or remove old data"),
    };
    for shared in &stock.shared {
        warn!(
            location = %shared.location.display(), with = %shared.with,
            "a tablespace directory of our instance is also used by another keeper or process and will not be emptied: \
             run one of the two on another host"
        );
    }
}
