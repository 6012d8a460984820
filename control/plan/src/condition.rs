//! Conditions of the store under which a plan may be written. That they hold is checked in the transaction of the
//! write.

/// A condition of the store, besides those of every leader's write (fencing F-7), under which a plan may be written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// This keeper's info is unchanged since it was read. If it has published anything since, the plan is
    /// made again (extensions ).
    KeeperInfo {
        /// The name of the info: its key after the prefix of all keeper infos.
        key: String,
        /// The revision of its last put; none: the key must not exist.
        revision: Option<i64>,
    },
    /// The operator's request for a failover is as it was read (synchronous SY-20).
    FailoverRequest {
        /// The revision of its put.
        revision: i64,
        /// What the write does with it.
        fate: RequestFate,
    },
}

/// What a write does with the failover request that it depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RequestFate {
    /// It stays: there is more to do.
    Kept,
    /// It is deleted: it has been done.
    Deleted,
}
