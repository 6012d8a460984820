//! PostgreSQL's programs: where they are installed, running them, and what they report. The postmaster is in `server`.

pub mod command;
pub mod environment;
pub mod installation;
mod oom_score;
pub mod parameter_check;
mod parent_death;
pub mod pg_control;
pub mod wal_end;
