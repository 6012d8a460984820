//! One PostgreSQL instance: its programs, processes, files and SQL. This module does not read the cluster data: it gets
//! names, paths, parameters, positions, timelines and single parts of a spec, and returns facts. What to do with them is
//! decided by `reconcile`; only what may be emptied outside PGDATA is checked here once more (`external_dirs`).
//!
//! `instance` is its main interface. Below it, imports run one way: `client` → `server` → `programs` → `config` →
//! `data`.
//!
//! Calls are not serialised here: a single loop changes the instance, and dropping the future of a call cancels it
//! (programs are killed; a server that is being started keeps running and is found by [`instance::Instance::running`]).
//! The configuration that the server last read is not stored here either; the reconciler has it.

pub mod basebackup;
pub mod client;
pub mod config;
pub mod data;
pub mod initdb;
pub mod instance;
pub mod observe;
pub mod programs;
pub mod recovery_target;
pub mod restore;
pub mod restore_error;
pub mod rewind;
pub mod server;
pub mod transfer;
