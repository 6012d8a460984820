//! States in which etcd responds but does not serve requests, with their remedies. Logs when such a state begins and
//! when it is over. Errors of single requests are left to `client_error`.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tracing::{error, info, warn};

/// A state of etcd that an error reveals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EtcdFault {
    /// The alarm NOSPACE is raised: reads work, writes and new leases do not.
    OutOfSpace,
    /// The alarm CORRUPT is raised: members disagree about the data, and writes are refused.
    Corrupt,
    /// The members have no leader: no quorum, or an election is in progress.
    NoLeader,
    /// The members did not agree on the request in time: a quorum was just lost, or disk or network are slow.
    NotAgreed,
    /// Too many requests are queued.
    TooManyRequests,
    /// The member does not serve clients: a learner, or one that is being removed.
    NotServing,
    /// Authentication is enabled, and no user was given.
    NoUser,
    /// The user or its token was refused.
    NotAuthenticated,
    /// The user lacks the permission.
    NotPermitted,
    /// The request is larger than etcd's limit.
    TooLarge,
}

/// Parts of etcd's messages (api/v3rpc/rpctypes/error.go), the same from 3.3 to 3.6.
const MESSAGES: [(&str, EtcdFault); 18] = [
    ("database space exceeded", EtcdFault::OutOfSpace),
    ("corrupt cluster", EtcdFault::Corrupt),
    ("no leader", EtcdFault::NoLeader),
    ("leader changed", EtcdFault::NoLeader),
    ("unhealthy cluster", EtcdFault::NoLeader),
    ("etcdserver: request timed out", EtcdFault::NotAgreed),
    ("too many requests", EtcdFault::TooManyRequests),
    ("not supported for learner", EtcdFault::NotServing),
    ("server stopped", EtcdFault::NotServing),
    ("user name is empty", EtcdFault::NoUser),
    ("user name not found", EtcdFault::NotAuthenticated),
    ("authentication failed", EtcdFault::NotAuthenticated),
    ("invalid auth token", EtcdFault::NotAuthenticated),
    ("revision of auth store is old", EtcdFault::NotAuthenticated),
    ("permission denied", EtcdFault::NotPermitted),
    ("request is too large", EtcdFault::TooLarge),
    ("larger than max", EtcdFault::TooLarge),
    ("of the largest request", EtcdFault::TooLarge), // our own limit
];

impl EtcdFault {
    /// Returns the fault of a message of etcd, if it is one of these.
    pub fn from_message(message: &str) -> Option<Self> {
        let found = MESSAGES.iter().find(|(part, _)| message.contains(part));
        found.map(|(_, fault)| *fault)
    }

    /// Returns what an operator can do.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::OutOfSpace => {
                "etcd has used up its space and raised the alarm NOSPACE, it takes no writes: compact and defragment it, \
                 or raise its --quota-backend-bytes, then `etcdctl alarm disarm`"
            }
            Self::Corrupt => {
                "etcd's members disagree about their data and raised the alarm CORRUPT: `etcdctl alarm list` names the \
                 member, replace it by an empty one or restore a snapshot, then `etcdctl alarm disarm`"
            }
            Self::NoLeader => {
                "etcd has no leader: more than half of its members must run and reach each other, see `etcdctl endpoint \
                 status --cluster`"
            }
            Self::NotAgreed => {
                "etcd's members did not agree in time: see that more than half of them run, and look at their disks and \
                 network"
            }
            Self::TooManyRequests => "etcd is overloaded: check its disk and its other clients",
            Self::NotServing => "this member of etcd does not serve clients: leave it out of --store-endpoints",
            Self::NoUser => {
                "etcd asks for a user: give one by the common name of the certificate in --store-cert-file, or turn \
                 authentication off with `etcdctl auth disable`"
            }
            Self::NotAuthenticated => {
                "etcd does not accept our user: see `etcdctl user list` and the common name of the certificate in \
                 --store-cert-file"
            }
            Self::NotPermitted => {
                "the user of our certificate needs the role to read and write all keys below --store-prefix, see \
                 `etcdctl role grant-permission --prefix`"
            }
            Self::TooLarge => "etcd takes no larger request, see its --max-request-bytes",
        }
    }

    /// Returns whether other requests are affected, too: then it is a state that begins and ends.
    fn is_state(self) -> bool {
        !matches!(self, Self::NotPermitted | Self::TooLarge | Self::NotServing)
    }

    /// Returns whether reads are served nevertheless.
    fn allows_reads(self) -> bool {
        matches!(self, Self::OutOfSpace | Self::Corrupt | Self::TooManyRequests)
    }

    /// Returns whether it is usually temporary.
    fn is_transient(self) -> bool {
        matches!(self, Self::NoLeader | Self::NotAgreed | Self::TooManyRequests)
    }
}

impl fmt::Display for EtcdFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutOfSpace => "the store has no space left",
            Self::Corrupt => "the store is corrupt",
            Self::NoLeader => "the store has no leader",
            Self::NotAgreed => "the store reaches no consensus in time",
            Self::TooManyRequests => "the store is overloaded",
            Self::NotServing => "a member of the store does not serve clients",
            Self::NoUser | Self::NotAuthenticated => "the store does not accept our user",
            Self::NotPermitted => "the store denies permission",
            Self::TooLarge => "too large for the store",
        })
    }
}

/// The kind of a successful request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestKind {
    /// It did not necessarily write.
    Read,
    /// It wrote.
    Write,
}

/// The current faults, as responses show.
#[derive(Debug, Default)]
pub(super) struct EtcdFaults(Mutex<BTreeSet<EtcdFault>>);

impl EtcdFaults {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<EtcdFault>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs a fault that begins with this response.
    pub(super) fn record_error(&self, message: &str) {
        let Some(fault) = EtcdFault::from_message(message).filter(|fault| fault.is_state()) else {
            return;
        };
        if !self.lock().insert(fault) {
            return;
        }
        let remedy = fault.remedy();
        if fault.is_transient() {
            warn!(error = message, remedy, "{fault}");
        } else {
            error!(error = message, remedy, "{fault}");
        }
    }

    /// Logs the faults that are over after a successful request.
    pub(super) fn record_success(&self, how: RequestKind) {
        let mut present = self.lock();
        if present.is_empty() {
            return;
        }
        let over = |fault: &EtcdFault| how == RequestKind::Write || !fault.allows_reads();
        let ended: Vec<EtcdFault> = present.iter().copied().filter(over).collect();
        present.retain(|fault| !over(fault));
        drop(present);
        for fault in ended {
            info!(was = %fault, "the store serves again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_of_etcd_that_an_operator_has_to_act_on_has_a_remedy() {
        for (message, expected) in [
            ("etcdserver: mvcc: database space exceeded", "alarm disarm"),
            ("etcdserver: corrupt cluster", "CORRUPT"),
            ("etcdserver: no leader", "more than half"),
            ("etcdserver: leader changed", "more than half"),
            (
                "etcdserver: request timed out, possibly due to previous leader failure",
                "more than half",
            ),
            ("etcdserver: too many requests", "overloaded"),
            ("etcdserver: user name is empty", "--store-cert-file"),
            ("etcdserver: invalid auth token", "etcdctl user list"),
            ("etcdserver: permission denied", "--store-prefix"),
            ("etcdserver: request is too large", "--max-request-bytes"),
            ("etcdserver: rpc not supported for learner", "--store-endpoints"),
        ] {
            let remedy = EtcdFault::from_message(message).map(EtcdFault::remedy);
            assert!(
                remedy.is_some_and(|remedy| remedy.contains(expected)),
                "{message}: {remedy:?}"
            );
        }
        // errors that the programs handle
        for message in [
            "etcdserver: requested lease not found",
            "etcdserver: mvcc: required revision has been compacted",
            "connection refused",
        ] {
            assert_eq!(EtcdFault::from_message(message), None);
        }
    }

    #[test]
    fn a_full_store_recovers_with_a_write_and_other_faults_end_with_any_success() {
        let faults = EtcdFaults::default();
        faults.record_error("etcdserver: mvcc: database space exceeded");
        faults.record_error("etcdserver: no leader");
        faults.record_error("etcdserver: request is too large"); // does not affect other requests
        assert_eq!(faults.lock().len(), 2);
        faults.record_success(RequestKind::Read);
        assert_eq!(*faults.lock(), BTreeSet::from([EtcdFault::OutOfSpace]));
        faults.record_success(RequestKind::Write);
        assert!(faults.lock().is_empty());
    }
}
