//! Why an operator's request for a failover is not carried out (synchronous SY-20). Whether it is, is left to `elect`.

use std::fmt;

use model::UnfitData;

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
    /// Its data cannot become the master's.
    Unfit(UnfitData),
}

impl From<UnfitData> for FailoverRefusal {
    fn from(why: UnfitData) -> Self {
        Self::Unfit(why)
    }
}

impl fmt::Display for FailoverRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LossNotAccepted => f.write_str("the request does not accept the loss of data"),
            Self::OtherMaster => f.write_str(
                "another db is the master than when the request was made: repeat the command if that one has failed",
            ),
            Self::NoDb => f.write_str("the keeper has no db"),
            Self::IsMaster => f.write_str("the keeper has the failed master itself"),
            Self::Leaving => f.write_str("the keeper is stopping"),
            Self::Failed => f.write_str("the keeper or its db is not healthy"),
            Self::NotReported => f.write_str("the keeper does not report its db healthy at present"),
            Self::Unfit(why) => write!(f, "the keeper cannot become the master: {why}"),
        }
    }
}
