//! The notes of a plan: what was decided, what was not, and why. How often they are logged is left to the loop.

use std::fmt;

use crate::failover_refusal::FailoverRefusal;
use crate::switchover_reason::SwitchoverReason;
use model::{DbUid, KeeperUid, Lsn, OrderKind, ProxyUid};

/// Declares the notes with their level, message and fields (sentinel 13).
macro_rules! notes {
    ($($(#[$doc:meta])* $level:ident $name:ident $message:literal { $($key:literal = $field:ident: $kind:ty),* $(,)? })+) => {
        /// One note of a plan. Messages that operators of Go stolon know keep their words, fields are named as in the JSON
        /// (sentinel 13).
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
        #[expect(missing_docs, reason = "the fields are named as they are printed")]
        pub enum Note {
            $($(#[$doc])* $name { $($field: $kind),* },)+
        }

        impl Note {
            /// Returns the constant part of the message.
            pub fn message(&self) -> &'static str {
                match self {
                    $(Self::$name { .. } => $message,)+
                }
            }

            /// Writes the note to the log.
            pub fn log(&self) {
                match self {
                    $(Self::$name { $($field),* } => tracing::$level!($($key = %$field,)* $message),)+
                }
            }
        }
    };
}

notes! {
    /// Phase initializing: the keeper of the first master is chosen (sentinel I-1).
    info FindingInitialMaster "trying to find initial master" {}
    /// The first master is initialised on this keeper (sentinel I-1).
    info Initializing "initializing cluster" { "keeper" = keeper: KeeperUid }
    /// The first master is not initialised yet (sentinel I-4).
    info WaitingForDb "waiting for db" { "db" = db: DbUid, "keeper" = keeper: KeeperUid }
    /// The first master is initialised (sentinel I-4).
    info DbInitialized "db initialized" { "db" = db: DbUid, "keeper" = keeper: KeeperUid }
    /// The first master was not initialised within initTimeout (sentinel I-5).
    info DbFailedToInitialize "db failed to initialize" { "db" = db: DbUid, "keeper" = keeper: KeeperUid }
    /// A new keeper was added to the cluster data (sentinel H-6).
    info KeeperRegistered "keeper registered" { "keeper" = keeper: KeeperUid }
    /// The keeper of a db does not report (sentinel H-12).
    warn NoKeeperInfo "no keeper info available" { "db" = db: DbUid, "keeper" = keeper: KeeperUid }
    /// The keeper of a db reports no db state (sentinel H-12).
    warn NoDbState "no db state available" { "db" = db: DbUid, "keeper" = keeper: KeeperUid }
    /// The keeper of a db reports the state of another db (sentinel H-12).
    warn UnexpectedDb "received db state for unexpected db uid" {
        "receivedDB" = received: DbUid, "db" = db: DbUid, "keeper" = keeper: KeeperUid,
    }
    /// A keeper without a db was not healthy for deadKeeperRemovalInterval (sentinel N-1).
    info RemovingDeadKeeper "removing old dead keeper" { "keeper" = keeper: KeeperUid }
    /// The master is unhealthy (sentinel N-4).
    info MasterFailed "master db is failed" { "db" = db: DbUid, "keeper" = keeper: KeeperUid }
    /// The master did not converge within convergenceTimeout (sentinel N-4).
    info MasterNotConverged "db not converged" { "db" = db: DbUid, "keeper" = keeper: KeeperUid }
    /// The master did not converge in time but serves, so it is not replaced (sentinel W-10).
    info MasterSlow "master db has not applied its new spec within convergenceTimeout" { "db" = db: DbUid, "keeper" = keeper: KeeperUid }
    /// The last election is too recent for another one.
    info ElectionDelayed "delaying election after a recent one" {
        "db" = db: DbUid, "keeper" = keeper: KeeperUid, "elections" = elections: u32,
    }
    /// First run: the cluster data has the master as failed, its keeper reports it healthy.
    info MasterSeemsWell "master db is failed in the cluster data, but its keeper reports it healthy: deciding in the next round" {
        "db" = db: DbUid, "keeper" = keeper: KeeperUid,
    }
    /// An election waits for proxies that may still forward to an earlier master (fencing F-10).
    info ElectionWaitsForProxies "waiting for proxies to close before another election" {
        "proxies" = proxies: ProxyList, "generation" = generation: i64,
    }
    /// The master was stopped in an orderly shutdown of its keeper (extensions ).
    info MasterLeft "master db stopped cleanly and its keeper left" {
        "db" = db: DbUid, "keeper" = keeper: KeeperUid, "lsn" = lsn: Lsn,
    }
    /// A synchronous master was stopped, not cleanly, and its keeper left (synchronous SY-12).
    info MasterLeftUnclean "master db stopped and its keeper left" { "db" = db: DbUid, "keeper" = keeper: KeeperUid }
    /// The master has to be replaced (sentinel N-5); also after it left, with the text of Go stolon.
    info FindingMaster "trying to find a standby to replace failed master" {}
    /// A standby lags by more than maxStandbyLag (sentinel C-10).
    info TooFarBehind "ignoring keeper since its behind that maximum xlog position" {
        "db" = db: DbUid, "dbXLogPos" = at: Lsn, "masterXLogPos" = master: Lsn,
    }
    /// A standby lacks WAL that the master wrote before its clean stop (extensions ).
    info MissingWal "ignoring keeper since it has not received all that the master wrote" {
        "db" = db: DbUid, "dbXLogPos" = at: Lsn, "lsn" = lsn: Lsn,
    }
    /// A standby's keeper has `--can-be-master=false` (sentinel C-12).
    info MayNotBeMaster "ignoring keeper since it cannot be master (--can-be-master=false)" {
        "db" = db: DbUid, "keeper" = keeper: KeeperUid,
    }
    /// A standby's keeper is leaving, or its instance is stopped.
    info CandidateLeaving "ignoring keeper since it is stopping" { "db" = db: DbUid, "keeper" = keeper: KeeperUid }
    /// A db cannot be elected for another reason (sentinel N-5).
    info NotEligible "ignoring keeper since its db cannot be elected" {
        "db" = db: DbUid, "keeper" = keeper: KeeperUid, "reason" = reason: &'static str,
    }
    /// The proxies are closed so that a former master can be elected (sentinel C-12, extensions ).
    info ClosingForFormerMaster "closing proxies before going back to a former master" {
        "db" = db: DbUid, "keeper" = keeper: KeeperUid,
    }
    /// The request of an operator cannot be carried out (synchronous SY-20).
    warn FailoverRefused "ignoring an operator's request for a failover" {
        "keeper" = keeper: KeeperUid, "reason" = reason: FailoverRefusal,
    }
    /// The proxies are closed so that the db that an operator asked for can be elected (synchronous SY-20).
    info ClosingAsRequested "closing proxies before electing the db that an operator asked for" {
        "db" = db: DbUid, "keeper" = keeper: KeeperUid,
    }
    /// A db is elected although it may lack what was acknowledged (synchronous SY-20).
    warn ElectingAsRequested "electing the db that an operator asked for: what it lacks is lost" {
        "keeper" = keeper: KeeperUid, "request" = request: String,
    }
    /// A switchover can begin, or go on, once this has passed (extensions X-2).
    info SwitchoverWaits "the switchover waits" { "switchover" = switchover: String, "reason" = reason: SwitchoverReason }
    /// A keeper is ordered to do something for a switchover (extensions ).
    info Ordering "ordering the keeper of the master" {
        "keeper" = keeper: KeeperUid, "order" = order: OrderKind, "switchover" = switchover: String,
    }
    /// An order belongs to no switchover that is requested (extensions ).
    info DeletingOrder "deleting the order of a keeper" { "keeper" = keeper: KeeperUid }
    /// The proxies are closed before the master is stopped (extensions X-2).
    info ClosingForSwitchover "closing proxies for a switchover" {
        "db" = db: DbUid, "switchover" = switchover: String,
    }
    /// The master was stopped on the order of a switchover, and a standby has received everything (extensions X-2).
    info MasterStoppedByOrder "master db stopped cleanly, as a switchover ordered" {
        "db" = db: DbUid, "keeper" = keeper: KeeperUid, "lsn" = lsn: Lsn,
    }
    /// A switchover was not begun (extensions X-2).
    warn SwitchoverRefused "refusing a switchover" { "switchover" = switchover: String, "reason" = reason: SwitchoverReason }
    /// A switchover was begun and has failed; the old master stays, or another one was elected (extensions ).
    warn SwitchoverAborted "giving up a switchover" { "switchover" = switchover: String, "reason" = reason: SwitchoverReason }
    /// The new master of a switchover is announced (extensions X-2).
    info SwitchoverDone "switchover done" { "switchover" = switchover: String, "keeper" = keeper: KeeperUid }
    /// A db is elected as master (sentinel N-5).
    info Electing "electing db as the new master" {
        "db" = db: DbUid, "keeper" = keeper: KeeperUid, "from" = from: DbUid, "xLogPos" = at: Lsn,
    }
    /// No standby that a synchronous master waits for is known to be in sync (sentinel N-5). Here and in the next note
    /// `reported` is Go stolon's name for the known set, and `spec` for the wanted one.
    warn NoCommonStandby "cannot choose synchronous standby since there are no common elements between the latest master reported synchronous standbys and the db spec ones" {
        "reported" = reported: DbList, "spec" = spec: DbList,
    }
    /// None of the standbys that were in sync can be elected (sentinel N-5).
    warn NoStandbyInSync "cannot choose synchronous standby since there's not match between the possible masters and the usable synchronousStandbys" {
        "reported" = reported: DbList, "spec" = spec: DbList, "common" = common: DbList,
    }
    /// The master has failed and no db can replace it (sentinel N-8).
    error NoEligibleMasters "no eligible masters" {}
    /// A former master is removed (sentinel N-14).
    info RemovingFormerMaster "removing old master db" { "db" = db: DbUid, "keeper" = keeper: KeeperUid }
    /// A former master is kept as fallback (sentinel N-14).
    info KeepingFormerMaster "keeping former master db as a fallback" {
        "db" = db: DbUid, "keeper" = keeper: KeeperUid,
    }
    /// A standby does not belong to the master's cluster (sentinel N-15).
    info RemovingInvalid "removing invalid db" { "db" = db: DbUid, "keeper" = keeper: KeeperUid }
    /// A standby's keeper reports that it does not have the data.
    warn RemovingLost "removing db since its keeper has lost the data" { "db" = db: DbUid, "keeper" = keeper: KeeperUid }
    /// A db has another system identifier than the master (sentinel C-6).
    info OtherSystem "invalid db since the postgres systemdID is different that the master one" {
        "db" = db: DbUid, "keeper" = keeper: KeeperUid, "dbSystemdID" = own: String, "masterSystemID" = master: String,
    }
    /// A db is on a later timeline than the master (sentinel C-7).
    info TimelineAhead "followed instance timeline < than our timeline" {
        "followedTimeline" = followed: u64, "timeline" = own: u64,
    }
    /// A db reached the master's timeline from another position (sentinel C-7).
    info ForkedElsewhere "followed instance timeline forked at a different xlog pos than our timeline" {
        "followedTimeline" = followed: u64, "timeline" = own: u64,
        "followedXlogpos" = followed_at: Lsn, "xlogpos" = at: Lsn,
    }
    /// A db is past the position where the master left its timeline (sentinel C-7).
    info ForkedBefore "followed instance timeline forked before our current state" {
        "followedTimeline" = followed: u64, "timeline" = own: u64,
        "followedXlogpos" = followed_at: Lsn, "xlogpos" = at: Lsn,
    }
    /// The master no longer has the WAL that a standby needs (sentinel C-9).
    info CannotSync "db won't be able to sync due to missing required wals on master" {
        "db" = db: DbUid, "keeper" = keeper: KeeperUid, "requiredWAL" = required: String, "olderMasterWAL" = oldest: String,
    }
    /// The master reports a malformed name of its oldest WAL file (sentinel C-9).
    warn BadWalName "master reports an oldest WAL file whose name is malformed" { "olderMasterWAL" = oldest: String }
    /// A standby that cannot catch up is removed (sentinel N-16).
    info RemovingUnsyncable "removing db that won't be able to sync due to missing wals on current master" {
        "db" = db: DbUid, "keeper" = keeper: KeeperUid,
    }
    /// A standby that the commits were to wait for was removed before it was in sync (sentinel S-2).
    info PendingSyncRemoved "one of the new synchronousStandbys has been removed" {
        "masterDB" = master: DbUid, "db" = db: DbUid,
    }
    /// A standby that the commits were to wait for failed or leaves before it was in sync (sentinel S-2).
    info PendingSyncNotGood "one of the new synchronousStandbys is not in good state" {
        "masterDB" = master: DbUid, "db" = db: DbUid,
    }
    /// The commits wait for the standbys that are in sync only (sentinel S-2).
    info SyncSetReduced "setting the expected sync-standbys to the current known in sync sync-standbys" {
        "masterDB" = master: DbUid, "inSyncStandbys" = known: DbList, "synchronousStandbys" = wanted: DbList,
    }
    /// The set changes further once all of its standbys are in sync (sentinel S-3).
    info SyncSetPending "waiting for new defined synchronous standbys to be in sync" {
        "masterDB" = master: DbUid, "inSyncStandbys" = known: DbList, "synchronousStandbys" = wanted: DbList,
    }
    /// A synchronous standby has no db any more (sentinel S-4).
    info SyncStandbyRemoved "removing non existent db from synchronousStandbys" {
        "masterDB" = master: DbUid, "db" = db: DbUid,
    }
    /// A synchronous standby has failed, or its keeper is leaving (sentinel S-5; synchronous SY-13).
    info SyncStandbyFailed "removing failed synchronous standby" { "masterDB" = master: DbUid, "db" = db: DbUid }
    /// There are more synchronous standbys than maxSynchronousStandbys (sentinel S-6).
    info SyncStandbyInExcess "removing synchronous standby in excess" { "masterDB" = master: DbUid, "db" = db: DbUid }
    /// A standby's keeper has `--can-be-synchronous-replica=false` (sentinel S-7).
    info MayNotBeSynchronous "cannot choose standby as synchronous (--can-be-synchronous-replica=false)" {
        "db" = db: DbUid, "keeper" = keeper: KeeperUid,
    }
    /// The commits are to wait for a further standby (sentinel S-7).
    info AddingSyncStandby "adding new synchronous standby in good state trying to reach MaxSynchronousStandbys" {
        "masterDB" = master: DbUid, "synchronousStandbyDB" = db: DbUid,
    }
    /// The commits go on waiting for a standby that is not good, because too few others are there (sentinel S-8).
    info KeepingSyncStandby "adding previous synchronous standby to reach MinSynchronousStandbys" {
        "masterDB" = master: DbUid, "synchronousStandbyDB" = db: DbUid, "required" = required: usize,
    }
    /// The set of synchronous standbys changes (sentinel S-12).
    info SyncSetChanged "synchronousStandbys changed" {
        "masterDB" = master: DbUid, "prevSynchronousStandbys" = previous: DbList, "synchronousStandbys" = next: DbList,
    }
    /// Commits wait, and no rule of the sentinel ends that (synchronous SY-18).
    warn SyncStandbysMissing "commits wait for synchronous standbys that are missing: start their keepers, add a keeper, or lower minSynchronousStandbys" {
        "masterDB" = master: DbUid, "synchronousStandbys" = wanted: DbList, "missing" = missing: usize,
    }
    /// A standby is removed that is not good, while enough are (sentinel N-19).
    info RemovingNotGood "removing non good standby" { "db" = db: DbUid, "keeper" = keeper: KeeperUid }
    /// A good standby above maxStandbysPerSender is removed (sentinel N-19).
    info RemovingExcess "removing good standby in excess" { "db" = db: DbUid, "keeper" = keeper: KeeperUid }
    /// A new standby is created on a free keeper (sentinel N-21).
    info AddedStandby "added new standby db" { "db" = db: DbUid, "keeper" = keeper: KeeperUid }
    /// The master is announced once these proxies have closed (sentinel P-5).
    info WaitingForProxies "waiting for proxies to be converged to the current generation" {
        "proxies" = proxies: ProxyList, "generation" = generation: i64,
    }
    /// The master is announced once it is healthy and converged (sentinel P-9).
    info WaitingForMaster "waiting for the master before announcing it to the proxies" {
        "db" = db: DbUid, "keeper" = keeper: KeeperUid,
    }
    /// The proxies are sent to the master (sentinel P-6).
    info MasterAnnounced "master announced to the proxies" { "db" = db: DbUid, "generation" = generation: i64 }
    /// The set of enabled proxies changed (sentinel P-7).
    info ProxiesEnabled "enabled proxies changed" { "proxies" = proxies: ProxyList, "generation" = generation: i64 }
}

impl Note {
    /// Returns the note without positions, which change all the time. Notes that are equal in this form are logged
    /// once.
    #[must_use]
    pub fn without_positions(&self) -> Self {
        let mut note = self.clone();
        match &mut note {
            Self::TooFarBehind { at, master, .. } => (*at, *master) = Default::default(),
            Self::MissingWal { at, .. } => *at = Lsn::default(),
            Self::SwitchoverWaits { reason, .. } => *reason = reason.without_positions(),
            _ => {}
        }
        note
    }
}

/// A list of proxies, logged as one field.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProxyList(pub Vec<ProxyUid>);

impl fmt::Display for ProxyList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_list(&self.0, f)
    }
}

/// A list of dbs, logged as one field.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DbList(pub Vec<DbUid>);

impl fmt::Display for DbList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_list(&self.0, f)
    }
}

fn write_list(names: &[impl fmt::Display], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (at, name) in names.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        write!(f, "{comma}{name}")?;
    }
    Ok(())
}
