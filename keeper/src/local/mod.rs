//! The keeper's own data directory: its lock, its state files, the uid, and the processes that ran on it. PostgreSQL's
//! data in it are left to `postgres`.

pub mod boot_history;
pub mod lock;
pub mod state;
pub mod state_files;
pub mod uid;
