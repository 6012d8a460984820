//! Tests of the planner: the table of sentinel 15, and properties. They call [`plan`](super::plan) as the loop does.

mod candidates;
mod cluster;
mod damage;
mod describe;
mod durations;
mod elections;
mod former_masters;
mod golden;
mod health;
mod initialisation;
mod invariants;
mod properties;
mod proxies;
mod random_clusters;
mod requested;
mod routine;
mod rows;
mod simulation;
mod standby_clusters;
mod standbys;
mod steady_rows;
mod synchronous;
mod synchronous_rows;
