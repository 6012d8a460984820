//! One PostgreSQL instance: its programs, processes, files and SQL. It never hears of the cluster: names, paths,
//! maps, positions and timelines come in, facts go out; what to do with them is `converge`'s to say.
//!
//! Two things are deliberately absent. Nothing here serialises calls: one loop acts on an instance, and whoever
//! drops the future of an act has cancelled it (helper programs are killed, a server that was being started runs
//! on and is found by [`instance::Instance::running`]). And nothing here remembers what was last made known to
//! the server: that is the loop's snapshot.

pub mod aside;
pub mod at_work;
pub mod basebackup;
pub mod build;
pub mod changes;
mod child;
pub mod conf;
pub mod connect;
pub mod conninfo;
pub mod control;
pub mod credentials;
pub mod environment;
pub mod files;
pub mod hba;
pub mod helper;
pub mod history;
pub mod initdb;
pub mod instance;
pub mod layout;
pub mod links;
pub mod lock;
pub mod mounts;
pub mod observe;
pub mod owned;
mod pending;
pub(crate) mod pinned;
pub mod port;
pub mod position;
pub mod process;
pub mod programs;
pub mod recovery;
pub mod refusal;
pub mod replication;
pub mod roles;
pub mod room;
pub mod server;
pub mod session;
pub mod sockets;
pub mod source;
pub mod sql;
pub mod state;
pub mod survey;
pub mod trees;
pub mod trial;
pub mod usage;
pub mod walk;
