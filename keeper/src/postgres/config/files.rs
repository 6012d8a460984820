//! The generated files of a server's configuration, and writing them. Their contents are rendered by `conf` and `hba`;
//! when they are written is left to `instance`.

use std::path::Path;

use tracing::warn;

use crate::postgres::config::conf::{self, Parameters, Recovery, RecoveryMode, StartMode};
use crate::postgres::config::hba;
use crate::postgres::config::instance::InstanceConfig;
use crate::postgres::config::pinned;
use crate::postgres::data::atomic_files;
use crate::postgres::data::cluster_files;
use crate::postgres::data::file_error::FileError;

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
    /// Writes the files that differ into PGDATA of `config`. `sockets` are the socket directories of the command line.
    pub(crate) fn write(
        &self,
        config: &InstanceConfig,
        mode: StartMode,
        sockets: Option<&str>,
    ) -> Result<(), FileError> {
        let data = &config.data;
        cluster_files::restrict_data_mode(data)?;
        let parameters = pinned::of_file(&self.parameters, sockets);
        match mode {
            StartMode::Normal => {
                let text = conf::render(&parameters, &self.recovery);
                atomic_files::write_if_changed(&data.join(conf::FILE), text.as_bytes())?;
            }
            StartMode::Temporary => {
                let has_file = data.join(conf::FILE).exists();
                let text = conf::render_temporary(has_file, &parameters, &self.recovery);
                atomic_files::write_if_changed(&data.join(conf::TEMPORARY_FILE), text.as_bytes())?;
            }
        }
        write_hba(data, &self.hba)?;
        match self.recovery.mode {
            RecoveryMode::Standby => {
                config.refresh_passfile()?;
                cluster_files::signal_standby(data)?;
            }
            RecoveryMode::Backup => {}
            RecoveryMode::None => cluster_files::remove_recovery_signal(data)?,
        }
        if let Some(aside) = cluster_files::set_aside_recovery_conf(data)? {
            warn!(to = %aside.display(), "renamed a recovery.conf, with which PostgreSQL does not start");
        }
        // The first start of existing data reads their settings of ALTER SYSTEM, too (keeper 5.2). Those of a backup are
        // left out: a base backup has recovery settings there.
        if mode == StartMode::Temporary && self.recovery.mode == RecoveryMode::None {
            return Ok(());
        }
        cluster_files::link_auto_conf(data)
    }
}

/// Writes `pg_hba.conf` only, if it differs.
pub(crate) fn write_hba(data: &Path, lines: &[String]) -> Result<(), FileError> {
    atomic_files::write_if_changed(&data.join(hba::FILE), hba::render(lines).as_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::time::Duration;

    use super::*;
    use crate::postgres::config::credentials::{AuthMethod, Login, Secret};
    use crate::postgres::data::walker;

    fn config(dir: &Path) -> InstanceConfig {
        let data = dir.join("postgres");
        fs::create_dir(&data).unwrap();
        let login = Login {
            user: "repluser".into(),
            method: AuthMethod::Md5,
            password: Some(Secret::new("secret")),
        };
        InstanceConfig {
            data,
            socket_dir: dir.display().to_string(),
            public_socket_dir: None,
            listen_addresses: "127.0.0.1".into(),
            port: 5432,
            superuser: login.clone(),
            replication: login,
            request_timeout: Duration::from_secs(10),
        }
    }

    /// Rule: keeper 12.12.1.
    #[test]
    fn each_file_is_progress_and_only_a_changed_one_is_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let mut files = ConfigFiles {
            hba: vec!["local all all reject".into()],
            recovery: Recovery::follow("host=a".into(), "stolon_a"),
            ..ConfigFiles::default()
        };
        let inodes = || {
            [
                "postgres/postgresql.conf",
                "postgres/pg_hba.conf",
                "replication.pgpass",
                "postgres/standby.signal",
            ]
            .map(|name| fs::metadata(dir.path().join(name)).unwrap().ino())
        };
        let (written, steps) = walker::count_steps(|| files.write(&config, StartMode::Normal, None));
        written.unwrap();
        assert!(steps >= 4 * 5, "{steps} steps for four files");
        let first = inodes();
        files.write(&config, StartMode::Normal, None).unwrap();
        assert_eq!(inodes(), first);
        files.hba.push("host all all all reject".into());
        files.write(&config, StartMode::Normal, None).unwrap();
        let second = inodes();
        assert_eq!((second[0], &second[2..]), (first[0], &first[2..]));
        assert!(
            fs::read_to_string(config.data.join(hba::FILE))
                .unwrap()
                .contains("host all all all reject")
        );
    }
}
