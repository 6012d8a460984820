//! Conditions of the store under which a plan may be written. That they hold is checked in the transaction of the
//! write.

/// A condition of the store, besides those of every leader's write (fencing F-7), under which a plan may be written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// This keeper's info is unchanged since it was read. If it has published anything since, the plan is
    /// made again (extensions ).
    KeeperInfo {
        /// The last part of the key.
        key: String,
        /// The revision of its last put; none: the key must not exist.
        revision: Option<i64>,
    },
}
