//! End-to-end tests on real etcd and real PostgreSQL, with the four real programs; one file per subject.

#![allow(clippy::unwrap_used, reason = "a test fails at what it does not expect")]

mod alarms;
mod bad_input;
mod catching_up;
mod configuration;
mod dashboards;
mod data_directory;
mod drivers;
mod duplicate_uids;
mod existing_data;
mod failover;
mod fencing;
mod giving_up_data;
mod hung_data_directory;
mod hung_shutdown;
mod keeper_services;
mod keepers;
mod leftover_processes;
mod logins;
mod lost_cluster_data;
mod lost_data_directory;
mod lowered_parameters;
mod orders;
mod passwords;
mod playground;
mod problems;
mod register;
mod rejoin;
mod restore;
mod rewind;
mod sentinels;
mod services;
mod standby_clusters;
mod store_outages;
mod switchover;
mod synchronous;
mod synchronous_failures;
mod walkthrough;
