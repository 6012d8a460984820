//! The settings that the keeper pins on the server's command line, where no file can override them: its location and
//! its configuration files (PostgreSQL manual 20.1.2: the command line takes precedence over the configuration file).

use std::path::Path;

use crate::postgres::config::conf::{self, Parameters, StartMode};
use crate::postgres::config::hba;
use crate::postgres::config::instance::InstanceConfig;

/// Name of the file with user name maps, created by initdb.
const IDENT_FILE: &str = "pg_ident.conf";

const SOCKETS: &str = "unix_socket_directories";

/// Returns name and value of each pinned setting.
pub(crate) fn settings(config: &InstanceConfig, mode: StartMode, sockets: &str) -> Vec<(&'static str, String)> {
    let file = |name: &str| config.data.join(name).display().to_string();
    let conf = match mode {
        StartMode::Normal => conf::FILE,
        StartMode::Temporary => conf::TEMPORARY_FILE,
    };
    let mut settings = fixed(&config.data);
    settings.extend([
        ("config_file", file(conf)),
        ("hba_file", file(hba::FILE)),
        ("listen_addresses", config.listen_addresses.clone()),
        ("port", config.port.to_string()),
        (SOCKETS, sockets.to_owned()),
    ]);
    settings
}

/// Returns name and value of each pinned setting of a single-user server, which has no sockets.
pub(crate) fn single_user(data: &Path) -> Vec<(&'static str, String)> {
    let mut settings = fixed(data);
    settings.push(("config_file", data.join(conf::FILE).display().to_string()));
    settings.push(("log_destination", "stderr".to_owned()));
    settings
}

/// Returns the parameters of the file with the socket directories of the command line: others would be pending restart
/// after each reload.
pub(crate) fn of_file(parameters: &Parameters, sockets: Option<&str>) -> Parameters {
    let mut parameters = parameters.clone();
    if let (Some(written), Some(sockets)) = (parameters.get_mut(SOCKETS), sockets) {
        sockets.clone_into(written);
    }
    parameters
}

/// Returns the pinned settings that do not depend on the start mode.
pub(crate) fn fixed(data: &Path) -> Vec<(&'static str, String)> {
    vec![
        ("data_directory", data.display().to_string()),
        ("ident_file", data.join(IDENT_FILE).display().to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_the_socket_directories_of_the_command_line() {
        let of = |pairs: &[(&str, &str)]| -> Parameters {
            let pairs = pairs.iter();
            pairs
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect()
        };
        let all = of(&[(SOCKETS, "/private,/tmp"), ("work_mem", "4MB")]);
        assert_eq!(of_file(&all, None), all);
        let left_out = of(&[(SOCKETS, "/private"), ("work_mem", "4MB")]);
        assert_eq!(of_file(&all, Some("/private")), left_out);
        assert_eq!(of_file(&of(&[]), Some("/private")), of(&[]));
    }
}
