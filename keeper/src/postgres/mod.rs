//! One PostgreSQL instance: its programs, processes, files and SQL. This module does not depend on the cluster data: it
//! gets names, paths, parameters, positions and timelines and returns facts. What to do with them is decided by
//! `reconcile`.
//!
//! Calls are not serialised here: a single loop changes the instance, and dropping the future of a call cancels it
//! (programs are killed; a server that is being started keeps running and is found by [`instance::Instance::running`]).
//! The configuration that the server last read is not remembered here either; the reconciler keeps it.

pub mod basebackup;
pub mod changes;
pub mod command;
pub mod conf;
pub mod connect;
pub mod conninfo;
pub mod credentials;
pub mod data_build;
pub mod data_dir_users;
pub mod environment;
pub mod files;
pub mod free_space;
pub mod hba;
pub mod history;
pub mod initdb;
pub mod instance;
pub mod layout;
pub mod links;
pub mod lock;
pub mod mounts;
pub mod observe;
pub mod owned_dirs;
pub mod parameter_check;
mod parent_death;
pub mod pg_control;
pub(crate) mod pinned;
pub mod port;
pub mod position;
pub mod previous_data;
pub mod process;
pub mod programs;
pub mod recovery;
pub mod refusal;
pub mod replication;
pub mod roles;
pub mod server;
pub mod session_settings;
pub mod sockets;
pub mod sql;
mod sql_session;
pub mod state;
pub mod survey;
pub mod trees;
pub mod upstream;
pub mod usage;
pub mod walker;
