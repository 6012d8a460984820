//! Whether a standby receives WAL from the server that it follows. A standby whose WAL receiver is refused answers queries
//! and falls behind without another symptom. Observing the server is left to `monitor`.

use std::time::Duration;

use base::clock::Boottime;
use model::{DbUid, Lsn, Problem, StandbySettings};

use crate::postgres::client::replication_state::StandbyStatus;
use crate::problems::KeeperProblemKind;
use crate::reconcile::{ClusterDataState, Desired, Goal, TargetRole, Upstream};

/// How long a WAL receiver must have been streaming to count. It reports itself as streaming before its WAL sender has
/// found the WAL: if that fails, each new receiver appears to stream for some round trips.
const STEADY_AFTER: Duration = Duration::from_secs(1);

/// Limit if the cluster spec sets none: the default dbWaitReadyTimeout.
const DEFAULT_LIMIT: Duration = Duration::from_secs(60);

/// What a standby follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    pub server: FollowedServer,
    /// How long a standby may be without its WAL before it is a problem.
    pub limit: Duration,
}

/// The server that a standby receives WAL from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FollowedServer {
    /// That of another db of this cluster.
    Member {
        db: DbUid,
        address: String,
        port: String,
        /// The sentinel considers it healthy.
        is_healthy: bool,
    },
    /// The upstream of a standby cluster. Nothing is known about its health.
    External(StandbySettings),
}

impl Followed {
    /// Returns what the instance has to receive WAL from: nothing, if it reads an archive only.
    pub fn of(desired: &Desired, state: &ClusterDataState) -> Option<Self> {
        let (Goal::Run(target), ClusterDataState::Valid(checked)) = (&desired.goal, state) else {
            return None;
        };
        let server = match &target.role {
            TargetRole::Standby(Upstream::Member(upstream)) => FollowedServer::Member {
                db: upstream.db.clone(),
                address: upstream.host.clone(),
                port: upstream.port.clone(),
                is_healthy: checked.data.dbs().get(&upstream.db)?.status.healthy,
            },
            TargetRole::Standby(Upstream::External(upstream)) if is_streamed_at_once(&upstream.standby) => {
                FollowedServer::External(upstream.standby.clone())
            }
            _ => return None,
        };
        Some(Self {
            server,
            limit: limit(target.ready_timeout, target.fail_interval),
        })
    }
}

/// Whether a standby with these settings always has a WAL receiver. While a replay waits for its delay, it may have none.
fn is_streamed_at_once(settings: &StandbySettings) -> bool {
    !settings.primary_conninfo.is_empty() && matches!(settings.recovery_min_apply_delay.as_str(), "" | "0")
}

impl FollowedServer {
    fn is_known_unhealthy(&self) -> bool {
        matches!(self, Self::Member { is_healthy: false, .. })
    }
}

/// Returns how long a standby may be without WAL: dbWaitReadyTimeout, but at least the time to replace a failed master.
fn limit(ready_timeout: Duration, fail_interval: Duration) -> Duration {
    let limit = if ready_timeout.is_zero() {
        DEFAULT_LIMIT
    } else {
        ready_timeout
    };
    limit.max(fail_interval.saturating_mul(2))
}

/// Since when the standby has been without WAL.
#[derive(Debug, Default)]
pub struct StreamingCheck {
    without_wal: Option<WithoutWal>,
    /// The process of the streaming WAL receiver, and since when it has been observed.
    receiver: Option<(i32, Boottime)>,
    /// The standby was without WAL for longer than the limit at the last observation.
    is_problem: bool,
    /// The last reason that the server logged: it logs it rarely, between other lines.
    reason: Option<String>,
}

/// A time without WAL; another followed server or position begins a new one.
#[derive(Debug)]
struct WithoutWal {
    since: Boottime,
    server: FollowedServer,
    replayed: Option<Lsn>,
}

impl StreamingCheck {
    /// Records an observation of a server that answers. Returns the time without WAL once it exceeds the limit.
    /// `followed` is `None` unless the server has to follow another one.
    ///
    /// Time counts only while the followed server is unchanged and not known to be unhealthy, and nothing is replayed:
    /// WAL may come from an archive, and a standby that was down for long has much to replay. A standby whose replay is
    /// paused starts no WAL receiver. A WAL receiver that has just started streaming changes nothing.
    pub fn record(&mut self, followed: Option<&Followed>, standby: &StandbyStatus, now: Boottime) -> Option<Duration> {
        let receiver = standby.receiver.as_ref().filter(|receiver| receiver.is_streaming);
        let before = self.receiver.take();
        self.receiver = receiver.map(|receiver| match before {
            Some((pid, since)) if pid == receiver.pid => (pid, since),
            _ => (receiver.pid, now),
        });
        let is_steady = self.receiver.is_some_and(|(_, since)| now.since(since) >= STEADY_AFTER);
        let counts = |followed: &&Followed| !followed.server.is_known_unhealthy() && !is_steady && !standby.is_paused;
        let Some(followed) = followed.filter(counts) else {
            let receiver = self.receiver;
            *self = Self {
                receiver,
                ..Self::default()
            };
            return None;
        };
        let continues = self
            .without_wal
            .as_ref()
            .filter(|before| before.server == followed.server && before.replayed == standby.replayed);
        let since = continues.map_or(now, |before| before.since);
        self.without_wal = Some(WithoutWal {
            since,
            server: followed.server.clone(),
            replayed: standby.replayed,
        });
        let time = now.since(since);
        self.is_problem = time >= followed.limit && (self.is_problem || self.receiver.is_none());
        self.is_problem.then_some(time)
    }

    /// Resets the check: the server is not running or follows nothing.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// Returns the problem for the operator; `log` are the server's last log lines.
    pub fn problem(&mut self, followed: &Followed, log: &[String]) -> Problem {
        if let Some(reason) = reason(log) {
            self.reason = Some(reason.to_owned());
        }
        problem(&followed.server, self.reason.as_deref())
    }
}

fn problem(server: &FollowedServer, reason: Option<&str>) -> Problem {
    let mut text = match server {
        FollowedServer::Member { db, address, port, .. } => {
            format!("the standby receives no WAL from the db that it follows, {db} at {address}:{port}")
        }
        FollowedServer::External(_) => {
            "the standby receives no WAL from the upstream of this standby cluster".to_owned()
        }
    };
    if let Some(reason) = reason {
        text = format!("{text}: {reason}");
    }
    let cause = Cause::of(reason.unwrap_or_default());
    let remedy = match server {
        FollowedServer::Member { .. } => cause.remedy(),
        FollowedServer::External(_) => cause.remedy_upstream(),
    };
    KeeperProblemKind::Replication.problem(&text, remedy)
}

/// Returns the last log line that states the reason; `None` if the server logs elsewhere or in another language.
fn reason(log: &[String]) -> Option<&str> {
    // From walreceiver.c, libpqwalreceiver.c and xlogrecovery.c of PostgreSQL 13 to 18.
    const PHRASES: [&str; 7] = [
        "connect to the primary server",
        "start WAL streaming",
        "from WAL stream",
        "of the primary is behind recovery timeline",
        "system identifier differs between the primary",
        "forked off current database system timeline",
        "from primary server",
    ];
    let is_reason = |line: &&String| PHRASES.iter().any(|phrase| line.contains(phrase));
    let line = log.iter().rev().find(is_reason)?;
    // Remove the log_line_prefix.
    let level = ["FATAL:  ", "ERROR:  ", "LOG:  "];
    let begin = level
        .iter()
        .filter_map(|level| Some(line.find(level)? + level.len()))
        .min();
    Some(line[begin.unwrap_or(0)..].trim())
}

/// What keeps WAL from a standby, by the server's reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// The followed server does not have the WAL that the standby needs.
    LacksWal,
    Slot,
    /// Another receiver uses the slot.
    SlotInUse,
    Login,
    Other,
}

impl Cause {
    fn of(reason: &str) -> Self {
        let mentions = |phrases: &[&str]| phrases.iter().any(|phrase| reason.contains(phrase));
        if mentions(&["has already been removed", "forked off", "is behind recovery timeline"]) {
            Self::LacksWal
        } else if mentions(&["is active for PID"]) {
            Self::SlotInUse
        } else if mentions(&["replication slot"]) {
            Self::Slot
        } else if mentions(&[
            "password",
            "pg_hba.conf",
            "role \"",
            "not permitted to log in",
            "authentication",
        ]) {
            Self::Login
        } else {
            Self::Other
        }
    }

    /// Returns the remedy for a standby of another db.
    fn remedy(self) -> &'static str {
        match self {
            Self::LacksWal => {
                "the standby needs WAL that the followed db does not have: if the sentinel gives it no other db, stop this \
                 keeper, `stolonctl removekeeper` it and start it again, which copies the followed db; raise wal_keep_size \
                 for the future"
            }
            Self::Slot => {
                "the keeper of the followed db makes this slot: see its problems and max_replication_slots there"
            }
            Self::SlotInUse => {
                "another receiver uses this slot: pg_stat_replication of the followed db shows it; it may be the last \
                 connection of this standby, which ends by itself"
            }
            Self::Login => {
                "let the replication user log in at the followed db: the same password there and in the keepers' files, no \
                 expired VALID UNTIL, and lines of pg_hba.conf for this host's address"
            }
            Self::Other => "look into PostgreSQL's logs of both for the cause; the standby tries it again by itself",
        }
    }

    /// Returns the remedy for the first db of a standby cluster.
    fn remedy_upstream(self) -> &'static str {
        match self {
            Self::LacksWal => {
                "set standbyConfig.archiveRecoverySettings.restoreCommand to an archive with this WAL, or initialise the \
                 cluster from a newer backup (`stolonctl init`); a slot on the upstream (primarySlotName) keeps WAL for the \
                 future"
            }
            Self::Slot => {
                "make this slot on the upstream (pg_create_physical_replication_slot), or change \
                 standbyConfig.standbySettings.primarySlotName with `stolonctl update --patch`"
            }
            Self::SlotInUse => {
                "another receiver uses this slot (pg_stat_replication of the upstream shows it): stop it; it may be a former \
                 first instance of this cluster whose keeper is cut off from the store"
            }
            Self::Login => {
                "allow the user of primaryConninfo to log in at the upstream: the right password in the passfile of each \
                 keeper's host, and lines of pg_hba.conf there"
            }
            Self::Other => {
                "see that the upstream runs, and that standbyConfig.standbySettings.primaryConninfo leads to it; PostgreSQL \
                 tries it again by itself"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::client::replication_state::WalReceiver;

    const LIMIT: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Boottime {
        Boottime::from_nanos(seconds * 1_000_000_000)
    }

    fn followed() -> Followed {
        member("a", "10.0.0.1", "5432", true)
    }

    fn member(db: &str, address: &str, port: &str, is_healthy: bool) -> Followed {
        Followed {
            server: FollowedServer::Member {
                db: db.into(),
                address: address.into(),
                port: port.into(),
                is_healthy,
            },
            limit: LIMIT,
        }
    }

    fn upstream(primary_conninfo: &str, primary_slot_name: &str) -> Followed {
        Followed {
            server: FollowedServer::External(StandbySettings {
                primary_conninfo: primary_conninfo.to_owned(),
                primary_slot_name: primary_slot_name.to_owned(),
                ..StandbySettings::default()
            }),
            limit: LIMIT,
        }
    }

    fn standby() -> StandbyStatus {
        StandbyStatus {
            replayed: Some(Lsn(1)),
            received: None,
            is_paused: false,
            upstream_end: None,
            replayed_age: None,
            receiver: None,
        }
    }

    fn receiver(is_streaming: bool) -> StandbyStatus {
        let receiver = WalReceiver {
            pid: 17,
            is_streaming,
            host: "10.0.0.1".into(),
            port: "5432".into(),
            timeline: Some(1),
            slot: String::new(),
        };
        StandbyStatus {
            receiver: Some(receiver),
            ..standby()
        }
    }

    /// Observes a standby without WAL at 0 and 9 s, something else at 9.5 s, and the standby again at 15 s and 26 s.
    /// Returns whether the time up to 9 s still counts at 15 s.
    fn counts(between: impl FnOnce(&mut StreamingCheck, Boottime)) -> bool {
        let mut streaming = StreamingCheck::default();
        for second in [0, 9] {
            assert_eq!(streaming.record(Some(&followed()), &standby(), at(second)), None);
        }
        between(&mut streaming, Boottime::from_nanos(9_500_000_000));
        let counted = streaming.record(Some(&followed()), &standby(), at(15)).is_some();
        assert!(
            streaming.record(Some(&followed()), &standby(), at(26)).is_some(),
            "time begins anew"
        );
        counted
    }

    #[test]
    fn a_standby_without_wal_is_a_problem_after_the_limit() {
        assert!(counts(|_, _| {}));
        let mut streaming = StreamingCheck::default();
        assert_eq!(streaming.record(Some(&followed()), &standby(), at(5)), None);
        let looks = [(14, None), (15, Some(10)), (70, Some(65))];
        for (second, time) in looks {
            let noted = streaming.record(Some(&followed()), &standby(), at(second));
            assert_eq!(noted, time.map(Duration::from_secs), "at {second} s");
        }
    }

    #[test]
    fn a_wal_receiver_that_only_waits_or_connects_again_and_again_does_not_stream() {
        assert!(counts(|streaming, now| {
            streaming.record(Some(&followed()), &receiver(false), now);
        }));
    }

    #[test]
    fn streaming_ends_it() {
        assert!(!counts(|streaming, now| {
            for later in [0, 1] {
                let now = now + Duration::from_secs(later);
                assert_eq!(streaming.record(Some(&followed()), &receiver(true), now), None);
            }
        }));
    }

    /// Each one appears to stream until its WAL sender does not find the WAL.
    #[test]
    fn wal_receivers_that_fail_one_after_another_do_not_stream() {
        let started = |pid| {
            let mut standby = receiver(true);
            standby.receiver.as_mut().unwrap().pid = pid;
            standby
        };
        let mut streaming = StreamingCheck::default();
        for (second, pid) in (0..=60).zip(0..) {
            let standby = match second % 5 {
                0 => started(pid),
                _ => standby(),
            };
            let noted = streaming.record(Some(&followed()), &standby, at(second));
            assert_eq!(
                noted.is_some(),
                second > 10,
                "at {second} s: the one at 10 s starts no problem, later ones end none"
            );
        }
        assert!(
            streaming.record(Some(&followed()), &started(60), at(61)).is_none(),
            "this one goes on"
        );
    }

    #[test]
    fn a_rarely_observed_standby_that_has_just_started_streaming_is_no_problem() {
        let mut streaming = StreamingCheck::default();
        assert_eq!(streaming.record(Some(&followed()), &standby(), at(0)), None);
        for second in [100, 200] {
            assert_eq!(streaming.record(Some(&followed()), &receiver(true), at(second)), None);
        }
    }

    #[test]
    fn a_standby_that_replays_is_no_problem() {
        let mut streaming = StreamingCheck::default();
        for second in 0..100 {
            let moving = StandbyStatus {
                replayed: Some(Lsn(second)),
                ..standby()
            };
            assert_eq!(streaming.record(Some(&followed()), &moving, at(second)), None);
        }
    }

    #[test]
    fn a_paused_replay_is_no_refusal() {
        let paused = StandbyStatus {
            is_paused: true,
            ..standby()
        };
        assert!(!counts(
            |streaming, now| _ = streaming.record(Some(&followed()), &paused, now)
        ));
    }

    #[test]
    fn an_unhealthy_or_just_changed_master_is_no_problem() {
        for other in [
            member("a", "10.0.0.1", "5432", false),
            member("b", "10.0.0.1", "5432", true),
            member("a", "10.0.0.2", "5432", true),
            member("a", "10.0.0.1", "5433", true),
            upstream("host=10.0.0.1", ""),
        ] {
            let case = format!("{other:?}");
            let counted = counts(|streaming, now| {
                assert_eq!(streaming.record(Some(&other), &standby(), now), None);
            });
            assert!(!counted, "{case}");
        }
    }

    #[test]
    fn a_server_that_follows_nothing_or_is_not_running_is_no_problem() {
        assert!(!counts(|streaming, now| _ = streaming.record(None, &standby(), now)));
        assert!(!counts(|streaming, _| streaming.reset()));
    }

    #[test]
    fn the_limit_is_longer_than_it_takes_to_replace_a_master() {
        let seconds = Duration::from_secs;
        assert_eq!(limit(seconds(60), seconds(20)), seconds(60));
        assert_eq!(limit(seconds(5), seconds(20)), seconds(40));
        assert_eq!(limit(Duration::ZERO, seconds(20)), seconds(60));
        assert_eq!(limit(seconds(5), Duration::MAX), Duration::MAX);
    }

    #[test]
    fn the_server_s_reason_is_shown_without_secrets_and_with_a_remedy() {
        let cases = [
            (
                "2026-11-29 08:00:00.000 UTC [17] FATAL:  could not connect to the primary server: connection to server at \
                 \"10.0.0.1\", port 5432 failed: FATAL:  password authentication failed for user \"repl\"",
                "5432: could not connect to the primary server: connection",
                "the same password",
            ),
            (
                "FATAL:  could not connect to the primary server: FATAL:  no pg_hba.conf entry for replication connection",
                "no pg_hba.conf entry",
                "lines of pg_hba.conf",
            ),
            (
                "FATAL:  could not start WAL streaming: ERROR:  replication slot \"stolon_b\" does not exist",
                "\"stolon_b\" does not exist",
                "max_replication_slots",
            ),
            (
                "FATAL:  could not receive data from WAL stream: ERROR:  requested WAL segment 000000010000000000000003 \
                 has already been removed",
                "has already been removed",
                "removekeeper",
            ),
            (
                "LOG:  new timeline 2 forked off current database system timeline 1 before current recovery point 0/5",
                "5432: new timeline 2 forked off",
                "removekeeper",
            ),
            (
                "FATAL:  could not connect to the primary server: invalid dsn: password=geheim host=x",
                "password=***",
                "the same password",
            ),
            (
                "LOG:  restartpoint starting: time",
                "a at 10.0.0.1:5432",
                "PostgreSQL's logs",
            ),
        ];
        for (line, text, remedy) in cases {
            let log = ["LOG:  earlier".to_owned(), line.to_owned(), "LOG:  later".to_owned()];
            let mut streaming = StreamingCheck::default();
            let problem = streaming.problem(&followed(), &log);
            assert_eq!(streaming.problem(&followed(), &[]), problem, "other lines came since");
            assert!(problem.text.contains(text), "{}", problem.text);
            assert!(problem.remedy.contains(remedy), "{line}: {}", problem.remedy);
            assert!(!problem.text.contains("geheim") && !problem.text.contains("earlier"));
        }
    }

    #[test]
    fn a_broken_upstream_of_a_standby_cluster_is_a_problem_with_its_own_remedies() {
        let conninfo = "host=10.0.0.9 password=geheim";
        let mut streaming = StreamingCheck::default();
        let followed = upstream(conninfo, "s");
        let mut record = |followed: &Followed, second| streaming.record(Some(followed), &standby(), at(second));
        assert_eq!((record(&followed, 0), record(&followed, 9)), (None, None));
        assert!(record(&followed, 10).is_some());
        assert_eq!(
            record(&upstream(conninfo, "t"), 11),
            None,
            "other settings have their own time"
        );

        for (line, remedy) in [
            (
                "FATAL:  could not start WAL streaming: ERROR:  replication slot \"s\" does not exist",
                "primarySlotName",
            ),
            (
                "FATAL:  could not receive data from WAL stream: ERROR:  requested WAL segment 00000001000000000000000F has \
                 already been removed",
                "restoreCommand",
            ),
            (
                "FATAL:  could not connect to the primary server: FATAL:  password authentication failed for user \"repl\"",
                "passfile",
            ),
            (
                "FATAL:  could not connect to the primary server: Connection refused",
                "primaryConninfo",
            ),
            (
                "FATAL:  could not start WAL streaming: ERROR:  replication slot \"s\" is active for PID 17",
                "former first instance",
            ),
        ] {
            let problem = StreamingCheck::default().problem(&followed, &[line.to_owned()]);
            assert!(
                problem.text.contains("upstream of this standby cluster: could not"),
                "{}",
                problem.text
            );
            assert!(problem.remedy.contains(remedy), "{line}: {}", problem.remedy);
            assert!(
                !problem.text.contains("geheim") && !problem.remedy.contains("removekeeper"),
                "{problem:?}"
            );
        }
    }
}
