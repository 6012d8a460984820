//! One PostgreSQL instance: its programs, processes, files and SQL. It never hears of the cluster: names, paths,
//! maps, positions and timelines come in, facts go out; what to do with them is `converge`'s to say.
//!
//! Two things are deliberately absent. Nothing here serialises calls: one loop acts on an instance, and whoever
//! drops the future of an act has cancelled it (helper programs are killed, a server that was being started runs
//! on and is found by [`instance::Instance::running`]). And nothing here remembers what was last made known to
//! the server: that is the loop's snapshot.

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
