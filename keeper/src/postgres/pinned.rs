//! The settings that a server gets on its command line, where no file can change them: where it is and which files it
//! reads (PostgreSQL manual 20.1.2: the command line wins over the configuration file).

use std::path::Path;

use crate::postgres::conf;
use crate::postgres::hba;
use crate::postgres::instance::{Config, Start};

/// Name of the file with user name maps, as initdb makes it.
const IDENT_FILE: &str = "pg_ident.conf";

/// Name and value of each such setting.
pub(crate) fn settings(config: &Config, kind: Start) -> Vec<(&'static str, String)> {
    let file = |name: &str| config.data.join(name).display().to_string();
    let conf = match kind {
        Start::Normal => conf::FILE,
        Start::Temporary => conf::TEMPORARY_FILE,
    };
    let mut settings = fixed(&config.data);
    settings.extend([
        ("config_file", file(conf)),
        ("hba_file", file(hba::FILE)),
        ("listen_addresses", config.listen_addresses.clone()),
        ("port", config.port.to_string()),
        ("unix_socket_directories", config.free_socket_directories()),
    ]);
    settings
}

/// Those that do not depend on how the server is started.
pub(crate) fn fixed(data: &Path) -> Vec<(&'static str, String)> {
    vec![
        ("data_directory", data.display().to_string()),
        ("ident_file", data.join(IDENT_FILE).display().to_string()),
    ]
}
