//! What lies on disk: PGDATA, its trees, tablespaces and WAL, and what of that belongs to this keeper. Needs
//! no server; changes only on a thread of its own (`changes`).

pub mod access;
pub mod atomic_files;
pub mod changes;
pub mod cluster_files;
pub mod external_dir_holders;
pub mod file_error;
pub mod file_status;
pub mod free_space;
pub mod history;
pub mod identity;
pub mod inspect;
pub mod layout;
pub mod links;
pub mod lock_files;
pub mod mounts;
pub mod owned_dirs;
pub mod owned_record;
pub mod pgdata;
pub mod previous_data;
pub mod rewind_scope;
pub mod scratch_file;
pub mod staging;
pub mod survey;
pub mod trees;
pub mod wal_layout;
pub mod wal_segments;
pub mod walker;
