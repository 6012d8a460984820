//! The real stolon-proxy in front of fake masters, with a private etcd and this test in the sentinel's place.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod change;
mod complaints;
mod connections;
mod crowd;
mod fencing;
mod garbage;
mod masters;
mod names;
mod regulars;
mod rig;
mod routing;
mod scan;
mod starting;
mod storm;
mod vanished;
