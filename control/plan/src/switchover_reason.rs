//! Why a switchover waits, is refused or is given up (extensions X-2). Whether it is, is left to `switchover`.

use std::fmt;
use std::time::Duration;

use model::{DbUid, KeeperUid, Lsn, ProxyUid};

/// The least failInterval of a cluster that can have a switchover: two leases of an order, so that a master whose order
/// has expired is back before it counts as failed (extensions ).
pub const SWITCHOVER_FAIL_INTERVAL_MIN: Duration = Duration::from_secs(4);

/// Why a switchover waits, is refused or is given up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum SwitchoverReason {
    /// The cluster has no master yet.
    NotInitialised,
    /// The cluster is a standby of another one.
    StandbyCluster,
    /// An order could outlive failInterval.
    FailIntervalTooShort,
    /// The master is not announced, so it may be about to be replaced.
    NotAnnounced,
    /// Somebody else announced the master meanwhile.
    AnnouncedAgain,
    /// A former master is left. With closed proxies it could be elected instead.
    FormerMasterKept {
        /// Its keeper.
        keeper: KeeperUid,
    },
    /// The master's keeper does not act on orders.
    NoOrders {
        /// The keeper.
        keeper: KeeperUid,
    },
    /// An operator has marked this keeper as failed.
    FailedByHand {
        /// The keeper.
        keeper: KeeperUid,
    },
    /// The master's keeper does not run.
    MasterKeeperGone,
    /// The master's keeper is leaving.
    MasterLeaving,
    /// The master is not reported as running and healthy.
    MasterNotHealthy,
    /// The master has not applied its spec yet.
    MasterConverging,
    /// The checkpoint is complete, and these connected standbys have not received the WAL up to its end. The shutdown
    /// would wait for them.
    CheckpointNotReceived {
        /// Their keepers.
        keepers: Vec<KeeperUid>,
        /// Dbs that are not in the cluster data.
        unknown: Vec<DbUid>,
    },
    /// The standby that is to be the new master is not connected to the master.
    NotConnected {
        /// Its keeper.
        keeper: KeeperUid,
    },
    /// None of the standbys that are connected to the master can be elected.
    NoElectableStandby,
    /// These proxies may still forward.
    ProxiesMayForward {
        /// Their uids.
        proxies: Vec<ProxyUid>,
    },
    /// The master's keeper does not start what it is ordered to do.
    OrderNotTaken,
    /// The master's keeper has begun to stop it, and it has not stopped.
    StopTooLong,
    /// The master was not stopped cleanly.
    NotClean,
    /// No candidate has received all that the master wrote.
    NotReceived,
    /// The keeper that the operator named cannot have the new master.
    Target {
        /// The keeper.
        keeper: KeeperUid,
        /// Why not.
        why: Unfit,
    },
    /// None of the standbys can be the new master.
    NoTarget(
        /// Each standby's keeper, and why not.
        Vec<(KeeperUid, Unfit)>,
    ),
    /// The request is gone: it has expired, or the command has withdrawn it.
    RequestGone,
    /// The elected db failed, and another one was elected.
    OtherElected {
        /// The other one's keeper.
        keeper: KeeperUid,
    },
}

/// Why a db cannot be the new master of a switchover.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unfit {
    /// The keeper has no db, or is not in the cluster data.
    NoDb,
    /// It has the master already.
    IsMaster,
    /// Its db is no standby of the master.
    NotStandby,
    /// An operator has marked it as failed.
    FailedByHand,
    /// It is leaving, or its instance is stopped.
    Leaving,
    /// It does not report its db as running and healthy.
    NotHealthy,
    /// It has `--can-be-master=false`.
    MayNotBeMaster,
    /// Its data are not of the master's database cluster.
    OtherData,
    /// It does not receive WAL from the master.
    NotStreaming,
    /// It is not on the master's timeline yet.
    OtherTimeline {
        /// Its timeline.
        own: u64,
        /// The master's.
        master: u64,
    },
    /// It has not applied its spec yet.
    Converging,
    /// It lags by more than maxStandbyLag.
    TooFarBehind {
        /// Its position.
        at: Lsn,
        /// The master's.
        master: Lsn,
    },
}

impl SwitchoverReason {
    /// Returns the reason without positions, which change all the time.
    pub(crate) fn without_positions(&self) -> Self {
        let cut = |(keeper, why): &(KeeperUid, Unfit)| (keeper.clone(), why.without_positions());
        match self {
            Self::Target { keeper, why } => Self::Target {
                keeper: keeper.clone(),
                why: why.without_positions(),
            },
            Self::NoTarget(reasons) => Self::NoTarget(reasons.iter().map(cut).collect()),
            other => other.clone(),
        }
    }

    /// Returns whether the next reports may make a switchover possible without anybody's doing.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::FormerMasterKept { .. }
            | Self::MasterConverging
            | Self::CheckpointNotReceived { .. }
            | Self::NotConnected { .. }
            | Self::NoElectableStandby
            | Self::ProxiesMayForward { .. } => true,
            Self::Target { why, .. } => why.is_passing(),
            Self::NoTarget(reasons) => reasons.iter().any(|(_, why)| why.is_passing()),
            _ => false,
        }
    }
}

impl Unfit {
    fn without_positions(&self) -> Self {
        match self {
            Self::TooFarBehind { .. } => Self::TooFarBehind {
                at: Lsn::default(),
                master: Lsn::default(),
            },
            other => other.clone(),
        }
    }

    /// Returns whether the next reports may make it fit without anybody's doing.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::OtherTimeline { .. } | Self::Converging | Self::TooFarBehind { .. }
        )
    }
}

impl fmt::Display for SwitchoverReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInitialised => f.write_str("the cluster is not initialised"),
            Self::StandbyCluster => f.write_str("the cluster is a standby of another one"),
            Self::FailIntervalTooShort => {
                write!(
                    f,
                    "failInterval is less than {SWITCHOVER_FAIL_INTERVAL_MIN:?}: raise it"
                )
            }
            Self::NotAnnounced => f.write_str(
                "no master is announced to the proxies at present: repeat the command in a few seconds; the leading \
                 sentinel logs what it waits for",
            ),
            Self::AnnouncedAgain => f.write_str("another sentinel announced the master again"),
            Self::FormerMasterKept { keeper } => {
                write!(f, "keeper {keeper} still has the db of a former master")
            }
            Self::NoOrders { keeper } => {
                write!(
                    f,
                    "keeper {keeper} has the master and does not act on orders: upgrade it"
                )
            }
            Self::FailedByHand { keeper } => write!(f, "keeper {keeper} is marked as failed (`stolonctl failkeeper`)"),
            Self::MasterKeeperGone => {
                f.write_str("the master's keeper does not run: after failInterval another master may be elected")
            }
            Self::MasterLeaving => f.write_str("the master's keeper is stopping"),
            Self::MasterNotHealthy => f.write_str("the master's keeper does not report it healthy"),
            Self::MasterConverging => f.write_str("the master has not applied its spec yet"),
            Self::CheckpointNotReceived { keepers, unknown } => write_not_received(f, keepers, unknown),
            Self::NotConnected { keeper } => {
                write!(
                    f,
                    "the standby of keeper {keeper} is not connected to the master: see its log"
                )
            }
            Self::NoElectableStandby => {
                f.write_str("no standby that is connected to the master can be elected: see `stolonctl status`")
            }
            Self::ProxiesMayForward { proxies } => {
                let proxies: Vec<&str> = proxies.iter().map(ProxyUid::as_str).collect();
                write!(
                    f,
                    "proxy {} may still forward, for proxyTimeout at most: check that it runs and reaches etcd",
                    proxies.join(", ")
                )
            }
            Self::OrderNotTaken => f.write_str("the master's keeper has not begun to stop it"),
            Self::StopTooLong => {
                f.write_str("the master takes too long to stop: see its log, and its keeper's for the receivers of WAL")
            }
            Self::NotClean => f.write_str("the master was not stopped cleanly"),
            Self::NotReceived => f.write_str("no standby received all that the master wrote before it was stopped"),
            Self::Target { keeper, why } => write!(f, "keeper {keeper}: {why}"),
            Self::NoTarget(reasons) if reasons.is_empty() => f.write_str("the master has no standby"),
            Self::NoTarget(reasons) => write_no_target(f, reasons),
            Self::RequestGone => f.write_str("the request has expired or was withdrawn"),
            Self::OtherElected { keeper } => write!(f, "keeper {keeper} was elected instead"),
        }
    }
}

fn write_not_received(f: &mut fmt::Formatter<'_>, keepers: &[KeeperUid], unknown: &[DbUid]) -> fmt::Result {
    let keepers = keepers.iter().map(|keeper| format!("keeper {keeper}"));
    let unknown = unknown
        .iter()
        .map(|db| format!("db {db}, which is not in the cluster data"));
    let standbys: Vec<String> = keepers.chain(unknown).collect();
    write!(
        f,
        "the WAL up to the checkpoint is not yet received by {}: a shutdown would wait for it; see its log, or stop its \
         keeper",
        standbys.join(", ")
    )
}

fn write_no_target(f: &mut fmt::Formatter<'_>, reasons: &[(KeeperUid, Unfit)]) -> fmt::Result {
    f.write_str("no standby can be the master")?;
    for (at, (keeper, why)) in reasons.iter().enumerate() {
        let separator = if at == 0 { ": " } else { "; " };
        write!(f, "{separator}keeper {keeper}: {why}")?;
    }
    Ok(())
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDb => f.write_str("it has no db"),
            Self::IsMaster => f.write_str("it has the master already"),
            Self::NotStandby => f.write_str("its db is no standby of the master"),
            Self::FailedByHand => f.write_str("it is marked as failed (`stolonctl failkeeper`)"),
            Self::Leaving => f.write_str("it is stopping"),
            Self::NotHealthy => f.write_str("it does not report its db healthy"),
            Self::MayNotBeMaster => f.write_str("it cannot be master (--can-be-master=false)"),
            Self::OtherData => f.write_str("its data are not those of the master"),
            Self::NotStreaming => f.write_str("it does not receive WAL from the master"),
            Self::OtherTimeline { own, master } => {
                write!(f, "it is on timeline {own}, and the master on {master}")
            }
            Self::Converging => f.write_str("it has not applied its spec yet"),
            Self::TooFarBehind { at, master } => {
                write!(
                    f,
                    "it is {} bytes of WAL behind, more than maxStandbyLag allows",
                    at.bytes_behind(*master)
                )
            }
        }
    }
}
