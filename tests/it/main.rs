//! End-to-end tests on real etcd and real PostgreSQL, with the four real programs; one file a theme.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod alarms;
mod configuration;
mod creation;
mod data;
mod doubles;
mod drivers;
mod failover;
mod fencing;
mod health;
mod keepers;
mod leaving;
mod lost_data;
mod outages;
mod playground;
mod problems;
mod processes;
mod refusals;
mod rejoin;
mod secrets;
mod sentinels;
mod walkthrough;
