//! Contents of the server's configuration: its files, its command line, its users and connection strings. Starting and
//! reloading a server with them is left to `instance`.

pub mod conf;
pub mod conninfo;
pub mod credentials;
pub mod files;
pub mod hba;
pub mod instance;
pub(crate) mod pinned;
