//! The generated files of a server's configuration, and writing them. Their contents are rendered by `conf` and `hba`;
//! when they are written is left to `instance`.

use std::path::Path;

use tracing::warn;

use crate::postgres::config::conf::{self, Parameters, Recovery, RecoveryMode, StartMode};
use crate::postgres::config::hba;
use crate::postgres::config::instance::InstanceConfig;
use crate::postgres::config::pinned;
use crate::postgres::data::file_error::FileError;
use crate::postgres::data::files;
use crate::postgres::data::whole_files;

/// Contents of the generated files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigFiles {
    /// Parameters of `postgresql.conf`.
    pub parameters: Parameters,
    /// Lines of `pg_hba.conf`.
    pub hba: Vec<String>,
    /// Recovery settings and the signal file.
    pub recovery: Recovery,
}

impl ConfigFiles {
    /// Writes the files into the data directory of `config`. `sockets` are the socket directories of the command line.
    pub(crate) fn write(
        &self,
        config: &InstanceConfig,
        mode: StartMode,
        sockets: Option<&str>,
    ) -> Result<(), FileError> {
        let data = &config.data;
        files::restrict_data_mode(data)?;
        let parameters = pinned::of_file(&self.parameters, sockets);
        match mode {
            StartMode::Normal => {
                let text = conf::render(&parameters, &self.recovery);
                whole_files::write_atomically(&data.join(conf::FILE), text.as_bytes())?;
            }
            StartMode::Temporary => {
                let has_file = data.join(conf::FILE).exists();
                let text = conf::render_temporary(has_file, &parameters, &self.recovery);
                whole_files::write_atomically(&data.join(conf::TEMPORARY_FILE), text.as_bytes())?;
            }
        }
        write_hba(data, &self.hba)?;
        match self.recovery.mode {
            RecoveryMode::Standby => {
                config.refresh_passfile()?;
                files::signal_standby(data)?;
            }
            RecoveryMode::None => files::remove_recovery_signal(data)?,
        }
        if let Some(aside) = files::set_aside_recovery_conf(data)? {
            warn!(to = %aside.display(), "renamed a recovery.conf, with which PostgreSQL does not start");
        }
        files::link_auto_conf(data)
    }
}

/// Writes `pg_hba.conf` only.
pub(crate) fn write_hba(data: &Path, lines: &[String]) -> Result<(), FileError> {
    whole_files::write_atomically(&data.join(hba::FILE), hba::render(lines).as_bytes())
}
