//! What a plan has to say: what it did, what it did not, and why. How and how often that is said is left to the loop.

use crate::model::{DbUid, KeeperUid, Lsn, ProxyUid};

/// Declares the notes with their level, message and fields side by side (sentinel 13).
macro_rules! notes {
    ($($(#[$doc:meta])* $level:ident $name:ident $message:literal { $($key:literal = $field:ident: $kind:ty),* $(,)? })+) => {
        /// One thing that a plan has to say; messages and fields are those that operators know (sentinel 13).
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
        #[expect(missing_docs, reason = "the fields are named as they are printed")]
        pub enum Note {
            $($(#[$doc])* $name { $($field: $kind),* },)+
        }

        impl Note {
            /// The constant part.
            pub fn message(&self) -> &'static str {
                match self {
                    $(Self::$name { .. } => $message,)+
                }
            }

            /// Writes the note to the log.
            pub fn say(&self) {
                match self {
                    $(Self::$name { $($field),* } => tracing::$level!($($key = %$field,)* $message),)+
                }
            }
        }
    };
}

notes! {
    /// sentinel I-1
    info FindingInitialMaster "trying to find initial master" {}
    /// sentinel I-1
    info Initializing "initializing cluster" { "keeper" = keeper: KeeperUid }
    /// sentinel I-4
    info WaitingForDb "waiting for db" { "db" = db: DbUid, "keeper" = keeper: KeeperUid }
    /// sentinel I-4
    info DbInitialized "db initialized" { "db" = db: DbUid, "keeper" = keeper: KeeperUid }
    /// sentinel I-5
    info DbFailedToInitialize "db failed to initialize" { "db" = db: DbUid, "keeper" = keeper: KeeperUid }
    /// sentinel H-6
    info KeeperRegistered "keeper registered" { "keeper" = keeper: KeeperUid }
    /// sentinel H-12
    warn NoKeeperInfo "no keeper info available" { "db" = db: DbUid, "keeper" = keeper: KeeperUid }
    /// sentinel H-12
    warn NoDbState "no db state available" { "db" = db: DbUid, "keeper" = keeper: KeeperUid }
    /// sentinel H-12
    warn UnexpectedDb "received db state for unexpected db uid" {
        "receivedDB" = received: DbUid, "db" = db: DbUid, "keeper" = keeper: KeeperUid,
    }
    /// sentinel N-1
    info RemovingDeadKeeper "removing old dead keeper" { "keeper" = keeper: KeeperUid }
    /// sentinel N-4
    info MasterFailed "master db is failed" { "db" = db: DbUid, "keeper" = keeper: KeeperUid }
    /// sentinel N-4
    info MasterNotConverged "db not converged" { "db" = db: DbUid, "keeper" = keeper: KeeperUid }
    /// sentinel W-10: a master that serves is not replaced because it is slow to take a change over.
    info MasterSlow "master db is slow to take over its new spec" { "db" = db: DbUid, "keeper" = keeper: KeeperUid }
    /// The master elected last has its convergence time, and elections in a row are ever farther apart.
    info ElectionPaused "waiting before another election, the last one was not long ago" {
        "db" = db: DbUid, "keeper" = keeper: KeeperUid, "elections" = elections: u32,
    }
    /// What a predecessor found is not enough against a report that is there now.
    info MasterSeemsWell "master db is failed, but its keeper reports it well: checking again" {
        "db" = db: DbUid, "keeper" = keeper: KeeperUid,
    }
    /// fencing F-10
    info ElectionWaitsForProxies "waiting for proxies to close before another election" {
        "proxies" = proxies: Names, "generation" = generation: i64,
    }
    /// beyond
    info MasterLeft "master db stopped cleanly and its keeper left" {
        "db" = db: DbUid, "keeper" = keeper: KeeperUid, "lsn" = lsn: Lsn,
    }
    /// sentinel N-5, in the words of the walk-through
    info FindingMaster "trying to find a standby to replace failed master" {}
    /// sentinel C-10
    info TooFarBehind "ignoring keeper since its behind that maximum xlog position" {
        "db" = db: DbUid, "dbXLogPos" = at: Lsn, "masterXLogPos" = master: Lsn,
    }
    /// beyond
    info MissingWal "ignoring keeper since it has not received all that the master wrote" {
        "db" = db: DbUid, "dbXLogPos" = at: Lsn, "lsn" = lsn: Lsn,
    }
    /// sentinel C-12
    info MayNotBeMaster "ignoring keeper since it cannot be master (--can-be-master=false)" {
        "db" = db: DbUid, "keeper" = keeper: KeeperUid,
    }
    /// A keeper that leaves, or whose instance is stopped, is no candidate.
    info CandidateLeaving "ignoring keeper since it is stopping" { "db" = db: DbUid, "keeper" = keeper: KeeperUid }
    /// sentinel C-12, beyond
    info ClosingForOldMaster "closing proxies before going back to the old master" {
        "db" = db: DbUid, "keeper" = keeper: KeeperUid,
    }
    /// sentinel N-5
    info Electing "electing db as the new master" {
        "db" = db: DbUid, "keeper" = keeper: KeeperUid, "from" = from: DbUid, "xLogPos" = at: Lsn,
    }
    /// sentinel N-8
    error NoEligibleMasters "no eligible masters" {}
    /// sentinel N-14
    info RemovingOldMaster "removing old master db" { "db" = db: DbUid, "keeper" = keeper: KeeperUid }
    /// sentinel N-14
    info KeepingOldMaster "keeping old master db until the new one has proven itself" {
        "db" = db: DbUid, "keeper" = keeper: KeeperUid,
    }
    /// sentinel N-15
    info RemovingInvalid "removing invalid db" { "db" = db: DbUid, "keeper" = keeper: KeeperUid }
    /// A standby is replaced whose keeper does not have its data any more.
    warn RemovingLost "removing db since its keeper has lost the data" { "db" = db: DbUid, "keeper" = keeper: KeeperUid }
    /// sentinel C-6
    info OtherSystem "invalid db since the postgres systemdID is different that the master one" {
        "db" = db: DbUid, "keeper" = keeper: KeeperUid, "dbSystemdID" = own: String, "masterSystemID" = master: String,
    }
    /// sentinel C-7
    info TimelineAhead "followed instance timeline < than our timeline" {
        "followedTimeline" = followed: u64, "timeline" = own: u64,
    }
    /// sentinel C-7
    info ForkedElsewhere "followed instance timeline forked at a different xlog pos than our timeline" {
        "followedTimeline" = followed: u64, "timeline" = own: u64,
        "followedXlogpos" = followed_at: Lsn, "xlogpos" = at: Lsn,
    }
    /// sentinel C-7
    info ForkedBefore "followed instance timeline forked before our current state" {
        "followedTimeline" = followed: u64, "timeline" = own: u64,
        "followedXlogpos" = followed_at: Lsn, "xlogpos" = at: Lsn,
    }
    /// sentinel C-9
    info CannotSync "db won't be able to sync due to missing required wals on master" {
        "db" = db: DbUid, "keeper" = keeper: KeeperUid, "requiredWAL" = required: String, "olderMasterWAL" = oldest: String,
    }
    /// sentinel C-9
    warn BadWalName "master reports an oldest WAL file whose name is malformed" { "olderMasterWAL" = oldest: String }
    /// sentinel N-16
    info RemovingUnsyncable "removing db that won't be able to sync due to missing wals on current master" {
        "db" = db: DbUid, "keeper" = keeper: KeeperUid,
    }
    /// sentinel N-19
    info RemovingNotGood "removing non good standby" { "db" = db: DbUid, "keeper" = keeper: KeeperUid }
    /// sentinel N-19
    info RemovingExcess "removing good standby in excess" { "db" = db: DbUid, "keeper" = keeper: KeeperUid }
    /// sentinel N-21
    info AddedStandby "added new standby db" { "db" = db: DbUid, "keeper" = keeper: KeeperUid }
    /// sentinel P-5
    info WaitingForProxies "waiting for proxies to be converged to the current generation" {
        "proxies" = proxies: Names, "generation" = generation: i64,
    }
    /// sentinel P-9
    info WaitingForMaster "waiting for the master before announcing it to the proxies" {
        "db" = db: DbUid, "keeper" = keeper: KeeperUid,
    }
    /// sentinel P-6
    info MasterAnnounced "master announced to the proxies" { "db" = db: DbUid, "generation" = generation: i64 }
    /// sentinel P-7
    info ProxiesEnabled "enabled proxies changed" { "proxies" = proxies: Names, "generation" = generation: i64 }
}

impl Note {
    /// The same note without what changes all the time: two that are equal here say the same thing again.
    #[must_use]
    pub fn matter(&self) -> Self {
        let mut note = self.clone();
        match &mut note {
            Self::TooFarBehind { at, master, .. } => (*at, *master) = Default::default(),
            Self::MissingWal { at, .. } => *at = Lsn::default(),
            _ => {}
        }
        note
    }
}

/// Several proxies in one field.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Names(pub Vec<ProxyUid>);

impl std::fmt::Display for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, name) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{name}")?;
        }
        Ok(())
    }
}
