//! Why an operator's request for a failover is not carried out (synchronous SY-20). Whether it is, is left to `elect`.

use std::fmt;

use model::KeeperUid;

/// Why the request of an operator is not carried out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailoverRefusal {
    /// It does not accept the loss of data.
    LossNotAccepted,
    /// It is about another master than the present one.
    OtherMaster,
    /// The keeper has no db, or is not in the cluster data.
    NoDb,
    /// It is the keeper of the master that failed.
    IsMaster,
    /// The keeper is leaving, or its instance is stopped.
    Leaving,
    /// The keeper or its db counts as failed.
    Failed,
    /// The keeper does not report its db healthy at present.
    NotReported,
    /// Its data were never complete, or are being copied.
    Incomplete,
    /// Its data are of another database cluster.
    OtherSystem,
    /// Its keeper has `--can-be-master=false`.
    MayNotBeMaster,
    /// It is a standby on a lower timeline than another db. Its promotion would make a second timeline with the same
    /// number, and other data could not be distinguished from its own (sentinel C-12).
    LowerTimeline {
        /// Its timeline.
        own: u64,
        /// The highest one in the cluster.
        highest: u64,
    },
    /// Another former master is kept. With closed proxies it could be elected instead, although it may lack more
    /// (extensions; synchronous SY-9).
    FormerMasterKept {
        /// Its keeper.
        keeper: KeeperUid,
    },
}

impl fmt::Display for FailoverRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LossNotAccepted => f.write_str("it does not accept the loss of data"),
            Self::OtherMaster => f.write_str("it is about another master"),
            Self::NoDb => f.write_str("the keeper has no db"),
            Self::IsMaster => f.write_str("it is the keeper of the failed master"),
            Self::Leaving => f.write_str("the keeper is stopping"),
            Self::Failed => f.write_str("the keeper or its db is not healthy"),
            Self::NotReported => f.write_str("the keeper does not report its db healthy at present"),
            Self::Incomplete => f.write_str("its data are not complete, or are being copied"),
            Self::OtherSystem => f.write_str("its data are of another database cluster"),
            Self::MayNotBeMaster => f.write_str("it cannot be master (--can-be-master=false)"),
            Self::LowerTimeline { own, highest } => write!(
                f,
                "it is a standby on timeline {own}, and timeline {highest} exists: its promotion would make a second \
                 timeline with the same number"
            ),
            Self::FormerMasterKept { keeper } => write!(
                f,
                "the former master of keeper {keeper} is kept and could be elected instead: remove it first, with \
                 `stolonctl removekeeper {keeper}`"
            ),
        }
    }
}
