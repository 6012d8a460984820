//! States of etcd in which it answers but does not do what is asked, with their remedies; and one log line when such a
//! state begins and one when it is over. What a single request makes of its error is left to `store`.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tracing::{error, info, warn};

/// What etcd's error says beyond the request that met it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EtcdFault {
    /// The alarm NOSPACE is raised: reads work, writes and new leases do not.
    OutOfSpace,
    /// The alarm CORRUPT is raised: members disagree about the data, and writes are refused.
    Corrupt,
    /// The members have no leader: no quorum, or an election is under way.
    NoLeader,
    /// The members did not agree on the request in time: a quorum just lost, a slow disk or network.
    NotAgreed,
    /// Too many requests wait for being applied.
    TooManyRequests,
    /// The member does not serve clients: a learner, or one that is being removed.
    NotServing,
    /// Authentication is on, and we have no user.
    NoUser,
    /// The user or its token is not accepted.
    NotAuthenticated,
    /// The user may not do this.
    NotPermitted,
    /// The value is larger than etcd takes.
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
    /// What a message of etcd means, if it is one of these.
    pub fn from_message(message: &str) -> Option<Self> {
        let found = MESSAGES.iter().find(|(part, _)| message.contains(part));
        found.map(|(_, trouble)| *trouble)
    }

    /// What an operator can do about it.
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

    /// Whether other requests meet it, too: then it is a state of the store, which begins and ends.
    fn is_state(self) -> bool {
        !matches!(self, Self::NotPermitted | Self::TooLarge | Self::NotServing)
    }

    /// Whether requests that write nothing are served all the same.
    fn allows_reads(self) -> bool {
        matches!(self, Self::OutOfSpace | Self::Corrupt | Self::TooManyRequests)
    }

    /// Whether it passes by itself most of the time.
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

/// What a request that succeeded did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestKind {
    /// It may have written nothing.
    Read,
    /// It put something.
    Write,
}

/// The states that the store is in, as its answers show.
#[derive(Debug, Default)]
pub(super) struct EtcdFaults(Mutex<BTreeSet<EtcdFault>>);

impl EtcdFaults {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<EtcdFault>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs a state that begins with this answer of the store.
    pub(super) fn record_error(&self, message: &str) {
        let Some(trouble) = EtcdFault::from_message(message).filter(|trouble| trouble.is_state()) else {
            return;
        };
        if !self.lock().insert(trouble) {
            return;
        }
        let remedy = trouble.remedy();
        if trouble.is_transient() {
            warn!(error = message, remedy, "{trouble}");
        } else {
            error!(error = message, remedy, "{trouble}");
        }
    }

    /// Logs the states that are over, as a request has been served.
    pub(super) fn record_success(&self, how: RequestKind) {
        let mut present = self.lock();
        if present.is_empty() {
            return;
        }
        let over = |trouble: &EtcdFault| how == RequestKind::Write || !trouble.allows_reads();
        let ended: Vec<EtcdFault> = present.iter().copied().filter(over).collect();
        present.retain(|trouble| !over(trouble));
        drop(present);
        for trouble in ended {
            info!(was = %trouble, "the store serves again");
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
        // what the programs deal with themselves
        for message in [
            "etcdserver: requested lease not found",
            "etcdserver: mvcc: required revision has been compacted",
            "connection refused",
        ] {
            assert_eq!(EtcdFault::from_message(message), None);
        }
    }

    #[test]
    fn a_full_store_is_full_until_a_write_succeeds_and_the_rest_ends_with_any_answer() {
        let troubles = EtcdFaults::default();
        troubles.record_error("etcdserver: mvcc: database space exceeded");
        troubles.record_error("etcdserver: no leader");
        troubles.record_error("etcdserver: request is too large"); // says nothing about the next request
        assert_eq!(troubles.lock().len(), 2);
        troubles.record_success(RequestKind::Read);
        assert_eq!(*troubles.lock(), BTreeSet::from([EtcdFault::OutOfSpace]));
        troubles.record_success(RequestKind::Write);
        assert!(troubles.lock().is_empty());
    }
}
