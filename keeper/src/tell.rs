//! The lines of a pass, word for word as they are waited for (keeper 15), and which of them are said when.

use control::redact::is_private;
use tracing::{error, info, warn};

use crate::converge::{Change, Down, Line, Unchanged};

/// The lines of one pass: said from the first deed on, or when the pass is one that is always told (keeper 15.0 rules
/// 4 and 5); each once.
#[derive(Debug)]
pub struct Lines {
    aloud: bool,
    waiting: Vec<Line>,
    heard: Vec<Line>,
}

impl Lines {
    /// `aloud`: the pass is told even if it finds nothing to do.
    pub fn new(aloud: bool) -> Self {
        Self {
            aloud,
            waiting: Vec::new(),
            heard: Vec::new(),
        }
    }

    /// A line of the pass; the ones that are to be said now.
    fn hear(&mut self, line: &Line) -> Vec<Line> {
        if self.heard.contains(line) {
            return Vec::new();
        }
        self.heard.push(line.clone());
        self.waiting.push(line.clone());
        if self.aloud {
            std::mem::take(&mut self.waiting)
        } else {
            Vec::new()
        }
    }

    /// From here on everything is said; the lines that waited for it.
    fn open(&mut self) -> Vec<Line> {
        self.aloud = true;
        std::mem::take(&mut self.waiting)
    }

    /// Says a line, or keeps it for the case that something is done.
    pub fn tell(&mut self, line: &Line) {
        self.hear(line).iter().for_each(say);
    }

    /// Something is done: says what waited.
    pub fn deed(&mut self) {
        self.open().iter().for_each(say);
    }
}

/// What a copy waits for, to log the lines of its passes once for each reason.
#[derive(Debug, Default)]
pub struct Refused(Option<Unchanged>);

impl Refused {
    /// A copy was waiting when the last pass ended.
    pub const fn is_known(&self) -> bool {
        self.0.is_some()
    }

    /// A pass has ended, held for this reason or otherwise. Whether its lines are to be logged now.
    pub fn ended(&mut self, held: Option<&Unchanged>) -> bool {
        let waits = |why: &&Unchanged| {
            matches!(
                why,
                Unchanged::WrongSource(..) | Unchanged::Obstacle(..) | Unchanged::CopyFailed(_)
            )
        };
        let now = held.filter(waits).cloned();
        let is_new = now.is_some() && now != self.0;
        // A pass that was quiet only for the former reason and ended otherwise.
        let is_over = now.is_none() && self.0.is_some();
        self.0 = now;
        is_new || is_over
    }
}

/// Whether the same reason is worth saying again in the next pass, rather than only when it changes.
pub fn repeats(why: &Unchanged) -> bool {
    match why {
        Unchanged::Unread
        | Unchanged::NoClusterData
        | Unchanged::Unusable(_)
        | Unchanged::UnsupportedFormat(_)
        | Unchanged::OtherCluster { .. }
        | Unchanged::NotSupported(_)
        | Unchanged::WrongSource(..)
        | Unchanged::Obstacle(..)
        | Unchanged::CopyFailed(_)
        | Unchanged::DataLost
        | Unchanged::NothingUsable => false,
        Unchanged::NotListed
        | Unchanged::UnknownInitMode(_)
        | Unchanged::UnknownRole(_)
        | Unchanged::FollowedDbMissing
        | Unchanged::MasterIsNoStandby => true,
    }
}

/// Writes one line.
pub fn say(line: &Line) {
    match line {
        Line::Unchanged(why) => say_unchanged(why),
        Line::StaysDown(why) => match why {
            Down::NoDb => info!("no db assigned"),
            Down::BootNotAcknowledged => info!("our boot uuid is not acknowledged yet, waiting for the sentinel"),
            Down::NotTheMaster { db, master } => {
                info!(%db, %master, "our db is an old master, keeping it down");
            }
        },
        Line::HalfMade { db } => error!(%db, "initialisation was not completed, its data are not kept"),
        Line::DbDiffers { local, wanted } => {
            info!(db = %local, cdDB = %wanted, "current db UID different than cluster data db UID");
        }
        Line::Initializing => info!("initializing the database cluster"),
        Line::Resyncing => info!("resyncing the database cluster"),
        Line::NotInitialized => info!("database cluster not initialized"),
        Line::DataKept { end } => info!(%end, "our data are on the followed db's history, following without a copy"),
        Line::Copying { from, why } => {
            info!(followedDB = %from.db, keeper = %from.keeper, %why, "copying the followed db");
        }
        Line::Synced => info!("sync succeeded"),
        Line::RoleMaster => info!("our db requested role is master"),
        Line::AlreadyMaster => info!("already master"),
        Line::RoleStandby { followed } => info!(followedDB = %followed, "our db requested role is standby"),
        Line::AlreadyStandby => info!("already standby"),
        Line::UpstreamChanged { to } => {
            info!(followedDB = %to.db, host = %to.host, port = %to.port, "followed db changed");
        }
        Line::ParameterChanged(change) => say_change(change),
        Line::ParametersChanged => info!("postgres parameters changed, reloading postgres instance"),
        Line::ParametersUnchanged => info!("postgres parameters not changed"),
        Line::HbaChanged => info!("postgres hba entries changed, reloading postgres instance"),
        Line::HbaUnchanged => info!("postgres hba entries not changed"),
        Line::ReplayPaused => {
            warn!("replay is paused because parameters are lower than the master's, restarting postgres instance");
        }
        Line::RestartAfter { keeper } => {
            info!(%keeper, "parameters wait for a restart, another instance restarts first")
        }
        Line::RestartDue => info!("parameters wait for a restart, restarting postgres instance"),
    }
}

fn say_unchanged(why: &Unchanged) {
    match why {
        Unchanged::Unread => warn!("cluster data cannot be read, leaving the instance as it is"),
        Unchanged::NoClusterData => info!("no cluster data available, waiting for it to appear"),
        Unchanged::Unusable(error) => error!(%error, "cluster data cannot be used, leaving the instance as it is"),
        Unchanged::UnsupportedFormat(version) => error!(version, "unsupported clusterdata format version"),
        Unchanged::OtherCluster { own, other } => error!(
            clusterUID = %own,
            cdClusterUID = %other,
            remedy = "put the cluster data of our cluster back with `stolonctl clusterdata write`, or discard our database: \
                      with `stolonctl init` of this version while this keeper runs, or by removing its data directory",
            "the cluster data belong to another cluster than our database: leaving the database as it is"
        ),
        Unchanged::NotListed => info!("our keeper data is not available, waiting for it to appear"),
        Unchanged::NotSupported(what) => {
            error!(
                what,
                "the cluster asks for something that is not supported yet, leaving the instance as it is"
            );
        }
        Unchanged::DataLost => error!(
            "our db is another one than the local one, and nobody asks to initialise it: the keeper's data seem lost or \
             not on persistent storage; doing nothing but waiting for another db"
        ),
        Unchanged::UnknownInitMode(mode) => error!(initMode = %mode, "unknown init mode, doing nothing"),
        Unchanged::UnknownRole(role) => error!(%role, "unknown role, doing nothing"),
        Unchanged::FollowedDbMissing => error!("the followed db is not in the cluster data, doing nothing"),
        Unchanged::MasterIsNoStandby => {
            error!("cannot make a master a standby in place, leaving the instance as it is");
        }
        Unchanged::NothingUsable => error!("database cluster not initialized, although it should be: doing nothing"),
        // Logged as problems, see `pass::problem`.
        Unchanged::WrongSource(..) | Unchanged::Obstacle(..) | Unchanged::CopyFailed(_) => {}
    }
}

/// The values are left out where they may hold passwords (keeper 15.0 rule 4).
fn say_change(change: &Change) {
    let is_private = is_private(&change.name);
    let shown = |value: &Option<String>| value.clone().filter(|_| !is_private).unwrap_or_default();
    match (&change.old, &change.new) {
        _ if is_private => info!(name = %change.name, "postgres parameter changed"),
        (old, None) => info!(name = %change.name, old = %shown(old), "postgres parameter removed"),
        (old, new) => info!(name = %change.name, old = %shown(old), new = %shown(new), "postgres parameter changed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_pass_says_nothing_until_something_is_done() {
        let mut lines = Lines::new(false);
        assert_eq!(lines.hear(&Line::RoleMaster), []);
        assert_eq!(lines.hear(&Line::AlreadyMaster), []);
        assert_eq!(lines.open(), [Line::RoleMaster, Line::AlreadyMaster]);
        assert_eq!(lines.hear(&Line::ParametersChanged), [Line::ParametersChanged]);
    }

    #[test]
    fn lines_of_a_refused_copy_are_logged_once_for_each_reason() {
        use crate::places::Obstacle;
        let mounted = Unchanged::Obstacle("/ts".into(), Obstacle::Mounted);
        let away = Unchanged::Obstacle("/ts".into(), Obstacle::NoAnswer);
        let mut refused = Refused::default();
        assert!(!refused.ended(None));
        let logged = [&mounted, &mounted, &mounted, &away, &away, &mounted].map(|why| refused.ended(Some(why)));
        assert_eq!(logged, [true, false, false, true, false, true]);
        assert!(refused.is_known());
        assert!(refused.ended(None) && !refused.ended(None) && !refused.is_known());
        assert!(!refused.ended(Some(&Unchanged::NotListed)) && !refused.is_known());
    }

    #[test]
    fn a_line_is_said_once_a_pass() {
        let mut lines = Lines::new(true);
        assert_eq!(lines.hear(&Line::RoleMaster), [Line::RoleMaster]);
        assert_eq!(lines.hear(&Line::RoleMaster), []);
    }
}
