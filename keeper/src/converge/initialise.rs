//! A db uid that is not the local one: the instance is built again as the init mode says (keeper 5, 6).

use std::path::PathBuf;

use control::model::DbInitMode;

use crate::places::{Clear, Obstacle, obstacle};

use crate::converge::{
    Data, Diverged, Line, LocalDb, Plan, Seen, Server, Sets, StartAs, Step, Target, TargetRole, Then, Unchanged,
    Upstream, is_half_made, judge_keep, judge_source,
};

pub(crate) fn initialise(seen: &Seen<'_>, target: &Target) -> Plan {
    let local = &seen.local.db.uid;
    let mut steps = Vec::new();
    if is_half_made(seen) {
        steps.push(Step::Tell(Line::HalfMade { db: local.clone() }));
    }
    if *local != target.db {
        steps.push(Step::Tell(Line::DbDiffers {
            local: local.clone(),
            wanted: target.db.clone(),
        }));
    }
    let mut plan = match &target.spec.init_mode {
        DbInitMode::New => new(seen, target),
        DbInitMode::Resync => resync(seen, target),
        DbInitMode::None => Plan::hold(Unchanged::DataLost), // keeper I5
        mode => Plan::hold(Unchanged::UnknownInitMode(mode.as_str().to_owned())),
    };
    steps.append(&mut plan.steps);
    Plan { steps, ..plan }
}

/// Saved before anything is destroyed (keeper I4).
fn begun(target: &Target) -> Step {
    Step::SaveDb(LocalDb {
        uid: target.db.clone(),
        generation: 0,
        initializing: true,
    })
}

/// Data of unknown origin are not removed.
fn unclaimed(seen: &Seen<'_>) -> Option<(PathBuf, Obstacle)> {
    let found = seen.local.unclaimed.clone()?;
    Some((found, Obstacle::Unclaimed))
}

/// More than what initdb makes.
const NEW_BYTES: u64 = 256 << 20;

/// An empty database cluster (keeper 5.1, N1 to N8).
fn new(seen: &Seen<'_>, target: &Target) -> Plan {
    if let Some((path, obstacle)) = unclaimed(seen) {
        return Plan::hold(Unchanged::Obstacle(path, obstacle));
    }
    let sets = seen.sets.cloned().unwrap_or_default();
    let mut steps = vec![Step::Tell(Line::Initializing), begun(target)];
    if *seen.server != Server::Down {
        steps.push(Step::Stop);
    }
    steps.extend([
        Step::ClearData(Clear {
            db: target.db.to_string(),
            bytes: Some(NEW_BYTES),
            places: Vec::new(),
            lacked_room: false,
        }),
        Step::Initdb(target.spec.new_config.clone().unwrap_or_default()),
        Step::StartTemporarily(sets),
        Step::WaitReady,
    ]);
    if target.spec.include_previous_config {
        steps.push(Step::ReadInitParameters);
    }
    steps.extend([Step::SetUpRoles, Step::Stop, Step::MarkComplete(target.db.clone())]);
    Plan {
        steps,
        then: Then::LookAgain,
    }
}

/// A standby made from the instance that it is to follow (keeper 5.4), with every condition looked at before anything
/// is destroyed (keeper W10).
fn resync(seen: &Seen<'_>, target: &Target) -> Plan {
    let upstream = match &target.role {
        TargetRole::Standby(upstream) => upstream,
        TargetRole::Lost => return Plan::hold(Unchanged::FollowedDbMissing),
        TargetRole::Master => return Plan::hold(Unchanged::UnknownRole("master with init mode resync".to_owned())),
        TargetRole::Other(role) => return Plan::hold(Unchanged::UnknownRole(role.clone())),
    };
    let mut steps = vec![Step::Tell(Line::Resyncing)];
    if *seen.server != Server::Down {
        steps.push(Step::Stop);
        return Plan {
            steps,
            then: Then::LookAgain,
        };
    }
    if seen.local.data == Data::Absent {
        steps.push(Step::Tell(Line::NotInitialized));
    }
    steps.push(Step::Tell(Line::RoleStandby {
        followed: upstream.db.clone(),
    }));
    let has_nothing_to_keep = seen.local.data == Data::Absent || is_half_made(seen);
    if let Some(pause) = seen.known.copy_waits.filter(|_| has_nothing_to_keep) {
        return Plan::hold(Unchanged::CopyFailed(pause));
    }
    let Some(copy) = seen.copy else {
        return Plan {
            steps,
            then: Then::AskSource(upstream.clone()),
        };
    };
    if let Err(why) = judge_source(&target.recorded, &copy.source) {
        return Plan::hold(Unchanged::WrongSource(upstream.clone(), why));
    }
    let kept = match &copy.own {
        _ if seen.local.data == Data::Absent => Err(Diverged::NoData),
        _ if seen.known.kept_in_vain.as_ref() == Some(&target.db) => Err(Diverged::DidNotStream),
        _ if is_half_made(seen) => Err(Diverged::HalfMade), // K1
        Some(own) => judge_keep(own, &copy.source).map(|()| own.position),
        None => Err(Diverged::NotShutDown),
    };
    match kept {
        Ok(end) => {
            let sets = first_start(with_upstream(seen, upstream));
            steps.extend([
                Step::Tell(Line::DataKept { end }),
                begun(target),
                Step::MarkStandby,
                Step::Start(StartAs::Standby, sets),
                Step::CheckStreams(target.db.clone()),
                Step::MarkComplete(target.db.clone()),
            ]);
        }
        Err(why) => {
            let in_the_way = unclaimed(seen)
                .or_else(|| obstacle(&copy.places))
                .or_else(|| copy.in_the_way.clone());
            if let Some((path, obstacle)) = in_the_way {
                return Plan::hold(Unchanged::Obstacle(path, obstacle));
            }
            let clear = Clear {
                db: target.db.to_string(),
                bytes: copy.bytes,
                places: copy.places.clone(),
                lacked_room: seen.known.lacked_room,
            };
            steps.extend([
                begun(target),
                Step::ClearData(clear),
                Step::Tell(Line::Copying {
                    from: upstream.clone(),
                    why,
                }),
                Step::CopyFrom(upstream.clone(), copy.places.clone()),
                Step::Tell(Line::Synced),
                Step::MarkComplete(target.db.clone()),
            ]);
        }
    }
    Plan {
        steps,
        then: Then::LookAgain,
    }
}

/// The wanted configuration of a standby of `upstream`.
pub(crate) fn with_upstream(seen: &Seen<'_>, upstream: &Upstream) -> Sets {
    Sets {
        upstream: Some(upstream.clone()),
        ..seen.sets.cloned().unwrap_or_default()
    }
}

/// The configuration for the first start of data that were just made; the pass ends with a reload of the wanted one.
///
/// What clients wrote into a new master before its pass is complete would be lost if that pass failed, for then the
/// data are made again (keeper R12): until then it says read only. A new standby tries again quickly when its source
/// is not ready, instead of every five seconds.
pub(crate) fn first_start(mut sets: Sets) -> Sets {
    let (name, value) = match sets.upstream {
        None => ("default_transaction_read_only", "on"),
        Some(_) => ("wal_retrieve_retry_interval", "500ms"),
    };
    sets.parameters
        .entry(name.to_owned())
        .or_insert_with(|| value.to_owned());
    sets
}
