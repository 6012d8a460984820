//! What follows a complete pass beside the loop: the tablespaces of the instance are recorded as this keeper's, and old
//! data that were kept for the case that a copy fails are removed once the new server answers.

use std::sync::Arc;
use std::time::Duration;

use control::model::Problem;
use control::telemetry::Chain;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::warn;

use crate::postgres::aside;
use crate::postgres::files::FileError;
use crate::postgres::instance::Instance;
use crate::postgres::owned::Owned;
use crate::postgres::survey::{self, Stock};
use crate::problems::Kind;

/// The work that is under way, and what was logged of the last results.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    task: Option<JoinHandle<Result<Stock, FileError>>>,
    logged: Option<Result<(Stock, bool), String>>,
}

impl Upkeep {
    /// Begins the work unless it is under way. `has_neighbour`: another keeper of the cluster advertises our address;
    /// `answers`: so does the server, so that nobody needs the old data any more.
    pub(super) async fn begin(
        &mut self,
        instance: &Arc<Instance>,
        owned: &Arc<Owned>,
        has_neighbour: bool,
        answers: bool,
    ) {
        match &mut self.task {
            Some(task) if !task.is_finished() => return,
            Some(_) => {
                self.end(has_neighbour).await;
            }
            None => {}
        }
        let (data, owned) = (instance.config().data.clone(), Arc::clone(owned));
        self.task = Some(tokio::task::spawn_blocking(move || {
            // A location that cannot be marked is no reason to keep old data.
            let dropped = if answers { aside::drop_old(&owned) } else { Ok(()) };
            let stock = survey::take_stock(&data, &owned);
            dropped.and(stock)
        }));
    }

    /// Waits for the work that is under way: nothing else touches these directories meanwhile. Whether it has ended
    /// within the limit: a file system may not answer.
    pub(super) async fn end(&mut self, has_neighbour: bool) -> bool {
        let Some(task) = &mut self.task else { return true };
        let Ok(done) = timeout(END_LIMIT, task).await else {
            return false;
        };
        self.task = None;
        let done = done.expect("looking at and removing files does not panic");
        let done = done
            .map(|stock| (stock, has_neighbour))
            .map_err(|error| Chain(&error).to_string());
        if self.logged.as_ref() != Some(&done) {
            log(&done);
            self.logged = Some(done);
        }
        true
    }

    /// What an operator has to mend before it succeeds.
    pub(super) fn problem(&self) -> Option<Problem> {
        let error = self.logged.as_ref()?.as_ref().err()?;
        let text = format!("could not record the tablespaces, or remove old data: {error}");
        Some(Kind::Data.problem(&text, "mend what is named; it is tried again"))
    }
}

/// How long other work waits for it.
pub(super) const END_LIMIT: Duration = Duration::from_secs(10);

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
        Err(_) => return, // a problem, and logged as one
    };
    for directory in &stock.forgotten {
        warn!(
            directory = %directory.display(),
            "old data that nothing records: remove them when nobody needs them; no keeper does"
        );
    }
    for shared in &stock.shared {
        warn!(
            location = %shared.location.display(), with = %shared.with,
            "a tablespace directory of our instance is also used by another keeper or process and will not be emptied: \
             run one of the two on another host"
        );
    }
}
