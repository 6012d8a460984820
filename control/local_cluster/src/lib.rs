//! A cluster on one machine: free ports, a directory that PostgreSQL's user may enter, the programs with their command
//! lines and logs, and the end of exactly what was started. Which programs are started when, and what is reported, is
//! left to its users: `stolonctl playground`, and the harness of the tests and benchmarks.

#![forbid(unsafe_code)]

mod cluster;
mod dir;
mod error;
mod etcd;
pub mod leftovers;
pub mod options;
mod port;
mod process;
pub mod processes;
mod unix_user;
pub mod wait;

pub use cluster::{LocalCluster, LocalProgram, ProgramKind};
pub use dir::{ClusterDir, PROGRAMS, missing_program};
pub use error::Error;
pub use etcd::EtcdMember;
pub use leftovers::PgLeftovers;
pub use port::Port;
pub use process::LoggedProcess;
pub use rustix::process::Signal;
pub use unix_user::UnixUser;
