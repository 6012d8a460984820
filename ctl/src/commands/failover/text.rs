//! What `failover` prints before it asks. Pure.

use std::fmt::Write as _;

use base::printable;
use model::Timestamp;

use super::assess::{DbHealth, FailoverReport, Member, Missing, RecordedDb, SyncSets};

/// Most members of a set, and other keepers, that are printed.
const LISTED_MAX: usize = 20;

/// Returns what may be missing after a failover.
pub(super) fn report(of: &FailoverReport, wall: Timestamp) -> String {
    let FailoverReport { master, target, .. } = of;
    let mut out = format!(
        "Master to be replaced: keeper {}, db {}\n",
        name(&master.keeper),
        name(&master.db)
    );
    push(&mut out, &state(master.state, wall));
    push(&mut out, &format!("last known position {}", position(master)));
    push_heading(
        &mut out,
        &format!("New master: keeper {}, db {}", name(&target.keeper), name(&target.db)),
    );
    push(&mut out, &format!("position {}", position(target)));
    push(&mut out, &missing(of));
    push(
        &mut out,
        "the master may have written more than is known; all that the new one lacks is lost",
    );
    if let Some(sets) = &of.sets {
        push_sets(&mut out, sets, wall);
    }
    if !of.ahead.is_empty() {
        push_heading(
            &mut out,
            "Others that have more, and are copied again from the new master:",
        );
        for other in of.ahead.iter().take(LISTED_MAX) {
            let keeper = name(&other.keeper);
            push(
                &mut out,
                &format!("keeper {keeper}: {}, {}", position(other), state(other.state, wall)),
            );
        }
        push_rest(&mut out, of.ahead.len());
    }
    out.push('\n');
    out
}

fn push(out: &mut String, line: &str) {
    let _ = writeln!(out, "  {line}"); // a String takes everything
}

fn push_heading(out: &mut String, line: &str) {
    let _ = writeln!(out, "{line}"); // a String takes everything
}

fn push_rest(out: &mut String, count: usize) {
    if count > LISTED_MAX {
        push(out, &format!("and {} more", count - LISTED_MAX));
    }
}

/// Names come from the store, where any program may have put them.
fn name(uid: &impl AsRef<str>) -> String {
    printable(uid.as_ref()).into_owned()
}

fn position(of: &RecordedDb) -> String {
    format!("{} on timeline {}", of.position, of.timeline)
}

fn state(state: DbHealth, wall: Timestamp) -> String {
    match state {
        DbHealth::Healthy => "healthy".to_owned(),
        DbHealth::NotConverged => "healthy, but it has not applied its spec".to_owned(),
        DbHealth::PostgresFailed => "keeper healthy, PostgreSQL not".to_owned(),
        DbHealth::KeeperFailed(since) if since.is_zero() => "keeper not healthy".to_owned(),
        DbHealth::KeeperFailed(since) => {
            format!("keeper not healthy since {since}, {}", ago(wall.since(since).as_secs()))
        }
    }
}

fn ago(seconds: u64) -> String {
    let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds} s ago"),
        (0, _) => format!("{minutes} min {} s ago", seconds % 60),
        _ => format!("{hours} h {minutes} min ago"),
    }
}

fn missing(of: &FailoverReport) -> String {
    match of.missing {
        Missing::Bytes(bytes) if bytes > 0 => format!("{bytes} bytes behind the last known position of the master"),
        Missing::Bytes(_) => "not behind the last known position of the master".to_owned(),
        Missing::LeftTimeline { timeline, at } => {
            format!("another timeline: it lacks what the master wrote on timeline {timeline} since {at}")
        }
        Missing::MasterLeftTimeline { timeline, at } => {
            format!("another timeline: it lacks what was written since timeline {timeline} was left at {at}")
        }
        Missing::Unknown => "another timeline: how much it lacks is not known".to_owned(),
    }
}

fn push_sets(out: &mut String, sets: &SyncSets, wall: Timestamp) {
    let standbys = if sets.min == 1 { "standby" } else { "standbys" };
    push_heading(
        out,
        &format!("Synchronous replication, at least {} {standbys}:", sets.min),
    );
    push_members(out, "commits wait for", &sets.wanted, wall);
    push_members(out, "known to be in sync", &sets.known, wall);
}

fn push_members(out: &mut String, what: &str, members: &[Member], wall: Timestamp) {
    if members.is_empty() {
        push(out, &format!("{what}: nobody"));
    }
    for member in members.iter().take(LISTED_MAX) {
        let who = match &member.found {
            Some((keeper, found)) => format!("keeper {}, {}", name(keeper), state(*found, wall)),
            None => format!("db {}, which is gone", name(&member.db)),
        };
        push(out, &format!("{what}: {who}"));
    }
    push_rest(out, members.len());
}
