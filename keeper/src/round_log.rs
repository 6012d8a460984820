//! Log messages of a round, with the texts of Go stolon (keeper 15), and when they are written.

use base::redact::may_hold_password;
use tracing::{error, info, warn};

use crate::reconcile::{HoldReason, LogMessage, ParameterChange, StopReason, Upstream};

/// Messages of one round. They are written from the first effective step on, or immediately in a verbose round (keeper
/// 15.0 rules 4 and 5); each once.
#[derive(Debug)]
pub struct RoundLog {
    is_verbose: bool,
    pending: Vec<LogMessage>,
    seen: Vec<LogMessage>,
}

impl RoundLog {
    /// `is_verbose`: the messages are written even if nothing is done.
    pub fn new(is_verbose: bool) -> Self {
        Self {
            is_verbose,
            pending: Vec::new(),
            seen: Vec::new(),
        }
    }

    /// Adds a message; returns the messages to write now.
    fn add(&mut self, message: &LogMessage) -> Vec<LogMessage> {
        if self.seen.contains(message) {
            return Vec::new();
        }
        self.seen.push(message.clone());
        self.pending.push(message.clone());
        if self.is_verbose {
            std::mem::take(&mut self.pending)
        } else {
            Vec::new()
        }
    }

    /// Writes everything from now on; returns the pending messages.
    fn start_writing(&mut self) -> Vec<LogMessage> {
        self.is_verbose = true;
        std::mem::take(&mut self.pending)
    }

    /// Writes a message, or keeps it until something is done.
    pub fn log(&mut self, message: &LogMessage) {
        self.add(message).iter().for_each(write);
    }

    /// Writes the pending messages, because something is done.
    pub fn flush(&mut self) {
        self.start_writing().iter().for_each(write);
    }
}

/// What was logged in earlier rounds, so that a reason for not acting is logged when it changes.
#[derive(Debug, Default)]
pub struct HoldLog {
    /// The last logged reason for not acting.
    last_logged: Option<LogMessage>,
    /// Why a copy is waiting.
    copy_hold: CopyHold,
}

impl HoldLog {
    /// Returns the log of a new round. `is_timer`: the timer triggered it.
    pub fn begin(&self, is_timer: bool) -> RoundLog {
        RoundLog::new(is_timer && !self.copy_hold.is_held())
    }

    /// Logs a message. The reason for not acting is logged when it changes, and repeated only where that is useful.
    pub fn log(&mut self, message: &LogMessage, log: &mut RoundLog) {
        let repeats = match message {
            LogMessage::OnHold(why) => is_repeated(why),
            LogMessage::KeptStopped(_) => true,
            _ => return log.log(message),
        };
        if self.last_logged.as_ref() != Some(message) {
            log.flush();
            write(message);
            self.last_logged = Some(message.clone());
        } else if repeats {
            log.log(message);
        }
    }

    /// Logs the pending messages before something is done.
    pub fn before_effect(&mut self, log: &mut RoundLog) {
        log.flush();
        self.last_logged = None;
    }

    /// Flushes the log at the end of a round that is on hold for this reason, or not on hold.
    pub fn end(&mut self, held: Option<&HoldReason>, log: &mut RoundLog) {
        if self.copy_hold.round_ended(held) {
            log.flush();
        }
    }

    /// Makes the next reason for not acting a new one.
    pub fn forget(&mut self) {
        self.last_logged = None;
    }
}

/// Why a copy is on hold, to log the messages of its rounds once per reason.
#[derive(Debug, Default)]
struct CopyHold(Option<HoldReason>);

impl CopyHold {
    /// Whether a copy was on hold when the last round ended.
    const fn is_held(&self) -> bool {
        self.0.is_some()
    }

    /// Records the end of a round. Returns whether its messages are to be logged now.
    fn round_ended(&mut self, held: Option<&HoldReason>) -> bool {
        let waits = |why: &&HoldReason| {
            matches!(
                why,
                HoldReason::WrongSource(..)
                    | HoldReason::Obstacle(..)
                    | HoldReason::CopyFailed(_)
                    | HoldReason::RestoreFailed(_)
            )
        };
        let now = held.filter(waits).cloned();
        let is_new = now.is_some() && now != self.0;
        // The round was not logged because of the former reason, and ended otherwise.
        let is_over = now.is_none() && self.0.is_some();
        self.0 = now;
        is_new || is_over
    }
}

/// Whether to log the same reason again in the next round instead of only when it changes.
fn is_repeated(why: &HoldReason) -> bool {
    match why {
        HoldReason::StoreUnavailable
        | HoldReason::NoClusterData
        | HoldReason::Unusable(_)
        | HoldReason::UnsupportedFormat(_)
        | HoldReason::OtherCluster { .. }
        | HoldReason::NotSupported(_)
        | HoldReason::WrongSource(..)
        | HoldReason::Obstacle(..)
        | HoldReason::CopyFailed(_)
        | HoldReason::RestoreFailed(_)
        | HoldReason::CannotAdopt(_)
        | HoldReason::ForeignServer { .. }
        | HoldReason::DataLost
        | HoldReason::NoUsableData
        | HoldReason::Ordered
        | HoldReason::UnknownInitMode(_)
        | HoldReason::UnknownRole(_)
        | HoldReason::InvalidSpec(_)
        | HoldReason::FollowedDbMissing
        | HoldReason::MasterCannotFollow => false,
        HoldReason::NotListed => true,
    }
}

/// Writes one message.
fn write(message: &LogMessage) {
    match message {
        LogMessage::OnHold(why) => write_hold(why),
        LogMessage::KeptStopped(why) => write_stopped(why),
        LogMessage::Incomplete { db } => {
            error!(%db, "an earlier initialisation was not completed, its data are not used")
        }
        LogMessage::DbDiffers { local, wanted } => {
            info!(db = %local, cdDB = %wanted, "current db UID different than cluster data db UID");
        }
        LogMessage::Initializing => info!("initializing the database cluster"),
        LogMessage::Adopting => info!("taking over the existing database cluster"),
        LogMessage::Restoring => info!("restoring the database cluster from a backup"),
        LogMessage::Recovering => info!("recovering the restored database cluster"),
        LogMessage::Resyncing => info!("resyncing the database cluster"),
        LogMessage::NotInitialized => info!("database cluster not initialized"),
        LogMessage::Rejoining { end } => {
            info!(%end, "our data are on the followed db's history, following without a copy")
        }
        LogMessage::Copying { from, why, no_rewind } => {
            let not_rewound = no_rewind.map(tracing::field::display);
            info!(followedDB = %from.db, keeper = %from.keeper, %why, notRewound = not_rewound, "copying the followed db");
        }
        LogMessage::RecoveringToRewind => {
            info!("our data were not shut down cleanly, running their crash recovery before pg_rewind");
        }
        LogMessage::Rewinding { to } => {
            info!(followedDB = %to.db, keeper = %to.keeper, "rewinding our data to the followed db's history");
        }
        LogMessage::Rewound => info!("rewind succeeded"),
        LogMessage::Synced => info!("sync succeeded"),
        LogMessage::RoleMaster => info!("our db requested role is master"),
        LogMessage::AlreadyMaster => info!("already master"),
        LogMessage::RoleStandby { followed } => {
            let followed = followed.as_ref().map(tracing::field::display);
            info!(followedDB = followed, "our db requested role is standby");
        }
        LogMessage::AlreadyStandby => info!("already standby"),
        LogMessage::UpstreamChanged { to } => write_upstream(to),
        LogMessage::ParameterChanged(change) => write_parameter_change(change),
        LogMessage::ParametersChanged => info!("postgres parameters changed, reloading postgres instance"),
        LogMessage::ParametersUnchanged => info!("postgres parameters not changed"),
        LogMessage::HbaChanged => info!("postgres hba entries changed, reloading postgres instance"),
        LogMessage::HbaUnchanged => info!("postgres hba entries not changed"),
        LogMessage::LoginsBlocked { missing } => {
            let missing: Vec<&str> = missing.iter().map(|db| db.as_str()).collect();
            info!(
                missing = missing.join(","),
                "client logins are blocked until the synchronous standbys have flushed all WAL written before the start"
            );
        }
        LogMessage::LoginsAllowed { waits } => write_logins_allowed(*waits),
        LogMessage::ReplayPaused => {
            warn!("replay is paused because parameters are lower than the master's, restarting postgres instance");
        }
        LogMessage::RestartAfter { keeper } => {
            info!(%keeper, "parameters wait for a restart, another instance restarts first")
        }
        LogMessage::CatchingUp(ahead) => {
            info!(
                keeper = %ahead.standby.keeper, db = %ahead.standby.db, lsn = %ahead.lsn,
                "another standby has WAL that ours lacks, receiving it before the promotion"
            );
        }
        LogMessage::RestartDue => info!("parameters wait for a restart, restarting postgres instance"),
    }
}

fn write_stopped(why: &StopReason) {
    match why {
        StopReason::NoDb => info!("no db assigned"),
        StopReason::BootNotAcknowledged => info!("our boot uuid is not acknowledged yet, waiting for the sentinel"),
        StopReason::FormerMaster { db, master } => {
            info!(%db, %master, "our db is a former master, keeping it down");
        }
        StopReason::Ordered(order) => {
            info!(db = %order.db, switchover = order.switchover, "our db is stopped for a switchover, keeping it down");
        }
    }
}

fn write_upstream(to: &Upstream) {
    match to {
        Upstream::Member(to) => {
            info!(followedDB = %to.db, host = %to.host, port = %to.port, "followed db changed");
        }
        // The settings may hold a password.
        Upstream::External(_) => info!("followed primary of another cluster changed"),
    }
}

/// Whether the log has a message of its own for this reason to hold that is an error: the problem that
/// `reconciler::report` sets is not logged again.
pub fn is_logged_as_error(why: &HoldReason) -> bool {
    match why {
        HoldReason::Unusable(_)
        | HoldReason::UnsupportedFormat(_)
        | HoldReason::OtherCluster { .. }
        | HoldReason::NotSupported(_)
        | HoldReason::DataLost
        | HoldReason::NoUsableData
        | HoldReason::UnknownInitMode(_)
        | HoldReason::UnknownRole(_)
        | HoldReason::FollowedDbMissing
        | HoldReason::MasterCannotFollow => true,
        HoldReason::StoreUnavailable
        | HoldReason::NoClusterData
        | HoldReason::NotListed
        | HoldReason::Ordered
        | HoldReason::InvalidSpec(_)
        | HoldReason::CannotAdopt(_)
        | HoldReason::ForeignServer { .. }
        | HoldReason::WrongSource(..)
        | HoldReason::Obstacle(..)
        | HoldReason::RestoreFailed(_)
        | HoldReason::CopyFailed(_) => false,
    }
}

fn write_hold(why: &HoldReason) {
    let remedy = why.remedy();
    match why {
        HoldReason::StoreUnavailable => warn!("cluster data cannot be read, leaving the instance as it is"),
        HoldReason::NoClusterData => info!("no cluster data available, waiting for it to appear"),
        HoldReason::Unusable(error) => error!(%error, "cluster data cannot be used, leaving the instance as it is"),
        HoldReason::UnsupportedFormat(version) => {
            error!(version, remedy, "unsupported clusterdata format version");
        }
        HoldReason::OtherCluster { own, other } => error!(
            clusterUID = %own,
            cdClusterUID = %other,
            remedy,
            "the cluster data belong to another cluster than our database: leaving the database as it is"
        ),
        HoldReason::NotListed => info!("our keeper data is not available, waiting for it to appear"),
        HoldReason::NotSupported(what) => {
            error!(
                what,
                remedy, "the cluster spec cannot be carried out, leaving the instance as it is"
            );
        }
        HoldReason::DataLost => error!(
            remedy,
            "the assigned db is not the local one and has initMode none: the keeper's data seem lost or not on \
             persistent storage; doing nothing but waiting for another db"
        ),
        HoldReason::UnknownInitMode(mode) => error!(initMode = %mode, remedy, "unknown init mode, doing nothing"),
        HoldReason::UnknownRole(role) => error!(%role, remedy, "unknown role, doing nothing"),
        HoldReason::FollowedDbMissing => {
            error!(remedy, "the followed db is not in the cluster data, doing nothing");
        }
        HoldReason::MasterCannotFollow => {
            error!(
                remedy,
                "cannot make a master a standby in place, leaving the instance as it is"
            );
        }
        HoldReason::NoUsableData => {
            error!(
                remedy,
                "database cluster not initialized, although it should be: doing nothing"
            );
        }
        HoldReason::Ordered => info!("an order of a switchover exists, starting and promoting no master"),
        // Logged as problems, see `reconciler::report`.
        HoldReason::InvalidSpec(_)
        | HoldReason::CannotAdopt(_)
        | HoldReason::ForeignServer { .. }
        | HoldReason::WrongSource(..)
        | HoldReason::Obstacle(..)
        | HoldReason::RestoreFailed(_)
        | HoldReason::CopyFailed(_) => {}
    }
}

fn write_logins_allowed(waits: bool) {
    match waits {
        true => info!("the synchronous standbys have flushed all WAL written before the start, clients may log in"),
        false => info!("no synchronous standbys are required any more, clients may log in"),
    }
}

/// Omits values that may hold passwords (keeper 15.0 rule 4).
fn write_parameter_change(change: &ParameterChange) {
    let may_hold_password = may_hold_password(&change.name);
    let shown = |value: &Option<String>| value.clone().filter(|_| !may_hold_password).unwrap_or_default();
    match (&change.old, &change.new) {
        _ if may_hold_password => info!(name = %change.name, "postgres parameter changed"),
        (old, None) => info!(name = %change.name, old = %shown(old), "postgres parameter removed"),
        (old, new) => info!(name = %change.name, old = %shown(old), new = %shown(new), "postgres parameter changed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_round_logs_nothing_until_something_is_done() {
        let mut lines = RoundLog::new(false);
        assert_eq!(lines.add(&LogMessage::RoleMaster), []);
        assert_eq!(lines.add(&LogMessage::AlreadyMaster), []);
        assert_eq!(
            lines.start_writing(),
            [LogMessage::RoleMaster, LogMessage::AlreadyMaster]
        );
        assert_eq!(
            lines.add(&LogMessage::ParametersChanged),
            [LogMessage::ParametersChanged]
        );
    }

    #[test]
    fn messages_of_a_held_copy_are_logged_once_per_reason() {
        use crate::external_dirs::Obstacle;
        let mounted = HoldReason::Obstacle("/ts".into(), Obstacle::Mounted);
        let away = HoldReason::Obstacle("/ts".into(), Obstacle::FileSystemHung);
        let mut refused = CopyHold::default();
        assert!(!refused.round_ended(None));
        let logged = [&mounted, &mounted, &mounted, &away, &away, &mounted].map(|why| refused.round_ended(Some(why)));
        assert_eq!(logged, [true, false, false, true, false, true]);
        assert!(refused.is_held());
        assert!(refused.round_ended(None) && !refused.round_ended(None) && !refused.is_held());
        assert!(!refused.round_ended(Some(&HoldReason::NotListed)) && !refused.is_held());
    }

    #[test]
    fn a_message_is_logged_once_per_round() {
        let mut lines = RoundLog::new(true);
        assert_eq!(lines.add(&LogMessage::RoleMaster), [LogMessage::RoleMaster]);
        assert_eq!(lines.add(&LogMessage::RoleMaster), []);
    }
}
