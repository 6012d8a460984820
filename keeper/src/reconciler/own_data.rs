//! Reads the end of the local data before a copy: facts on one side, failed reads on the other. What becomes of the data
//! is decided by `reconcile::rejoin`.

use base::Chain;
use tracing::warn;

use crate::executor::StepError;
use crate::postgres::data::history::{self, Ancestor, HistoryFileError};
use crate::postgres::instance::Instance;
use crate::postgres::programs::pg_control::{self, ControlState};
use crate::postgres::programs::wal_end::{self, WalEndError};
use crate::reconcile::{DataEnd, EndState, Fork};

/// Returns the end of the local data; `None` when there are none, or when they were read and are damaged.
///
/// # Errors
///
/// A read was not answered or failed, or a program did not run to its end. That proves nothing about the data: they must
/// not be set aside or removed for it (keeper 12.13.5).
pub(super) async fn own_end(instance: &Instance) -> Result<Option<DataEnd>, StepError> {
    if !instance.is_initialised().await? {
        return Ok(None);
    }
    let access = instance.access();
    let limit = instance.config().request_timeout;
    let end = match wal_end::wal_end(instance.programs(), access, limit).await {
        Ok(end) => end,
        Err(failed) => {
            if matches!(&failed, WalEndError::Control(failed) if failed.is_exit()) {
                access.read(pg_control::check_readable).await?;
            } else if !failed.proves_damage() {
                return Err(failed.into());
            }
            warn!(error = %Chain(&failed), "could not find the end of our data");
            return Ok(None);
        }
    };
    let history = match access.read(move |data| history::read_history(data, end.timeline)).await {
        Ok(Some(history)) => history,
        Ok(None) => return Ok(None),
        Err(HistoryFileError::File(failed)) if !failed.proves_damage() => return Err(failed.into()),
        Err(damaged) => {
            warn!(error = %Chain(&damaged), "could not read our history");
            return Ok(None);
        }
    };
    Ok(Some(DataEnd {
        system_id: end.control.system_id.to_string(),
        state: match end.control.state {
            ControlState::ShutDown => EndState::ShutDown,
            ControlState::ShutDownInRecovery => EndState::ShutDownInRecovery,
            _ => EndState::Unclean,
        },
        timeline: end.timeline,
        position: end.position.unwrap_or_default(),
        history: history.iter().map(fork).collect(),
        logs_hint_bits: end.control.wal_log_hints || end.control.has_checksums,
    }))
}

pub(super) fn fork(ancestor: &Ancestor) -> Fork {
    Fork {
        timeline: ancestor.timeline,
        switch_point: ancestor.switch_point,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::postgres::instance::test_instance;

    fn instance(dir: &Path, pg_controldata: &str, request_timeout: Duration) -> Instance {
        test_instance(dir, "pg_controldata", pg_controldata, request_timeout)
    }

    const LONG: Duration = Duration::from_secs(60);

    /// Rule: keeper 12.13.5. Each of these counted as data that were not shut down, and they were copied.
    #[tokio::test]
    async fn a_read_that_fails_is_an_error_and_never_a_reason_to_copy() {
        let dir = tempfile::tempdir().unwrap();
        let hung = instance(dir.path(), "exec sleep 1000", Duration::from_millis(100));
        let failed = own_end(&hung).await.unwrap_err();
        assert!(failed.to_string().contains("did not end within"), "{failed}");

        let dir = tempfile::tempdir().unwrap();
        let killed = instance(dir.path(), "kill -KILL $$", LONG);
        assert!(
            own_end(&killed).await.is_err(),
            "killed, as the kernel does without memory"
        );

        let dir = tempfile::tempdir().unwrap();
        let unreadable = instance(dir.path(), "exit 1", LONG);
        let control = unreadable.config().data.join("global/pg_control");
        fs::remove_file(&control).unwrap();
        fs::create_dir(&control).unwrap(); // reading it fails for root, too
        let failed = own_end(&unreadable).await.unwrap_err();
        assert!(failed.to_string().contains("global/pg_control"), "{failed}");
    }

    #[tokio::test]
    async fn damaged_data_have_no_end_and_are_copied() {
        for pg_controldata in [
            "exit 1",
            "echo nonsense",
            "echo WARNING: Calculated CRC checksum does not match",
        ] {
            let dir = tempfile::tempdir().unwrap();
            let damaged = instance(dir.path(), pg_controldata, LONG);
            assert_eq!(own_end(&damaged).await.unwrap(), None, "{pg_controldata}");
        }
    }
}
