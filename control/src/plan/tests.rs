//! The judgement, row by row of sentinel 15, and its properties. Tests go through [`plan`](super::plan) as the loop does.

mod cluster;
mod damage;
mod derived;
mod durations;
mod elections;
mod golden;
mod health;
mod properties;
mod proxies;
mod rows;
mod simulation;
