//! Reads data that are to be adopted, without changing them. Whether they are is decided by `reconcile::adoption`.

use std::path::Path;

use base::Chain;

use crate::executor::StepError;
use crate::postgres::data::cluster_files;
use crate::postgres::data::file_error::FileError;
use crate::postgres::instance::Instance;
use crate::postgres::programs::pg_control::{self, ControlState};
use crate::reconcile::{ExistingControl, ExistingData};

/// Returns what PGDATA holds.
pub(super) async fn existing_data(instance: &Instance) -> Result<ExistingData, StepError> {
    let look = |data: &Path| {
        Ok::<_, FileError>((
            cluster_files::data_major(data)?,
            cluster_files::unfinished_restore(data)?,
        ))
    };
    let (major, unfinished_restore) = instance.access().read(look).await?;
    let programs_major = instance.programs().version().await?.major;
    let mut existing = ExistingData {
        major,
        programs_major,
        control: Err("the programs are of another version".to_owned()),
        unfinished_restore,
    };
    if major == Some(programs_major) {
        let limit = instance.config().request_timeout;
        let control = pg_control::read(instance.programs(), &instance.config().data, limit).await;
        existing.control = match control {
            Ok(control) => Ok(ExistingControl {
                system_id: control.system_id.to_string(),
                is_of_standby: matches!(
                    control.state,
                    ControlState::ShutDownInRecovery | ControlState::ArchiveRecovery
                ),
            }),
            Err(failed) => Err(Chain(&failed).to_string()),
        };
    }
    Ok(existing)
}
