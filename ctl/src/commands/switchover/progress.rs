//! How far a switchover is, by the cluster data, the leading sentinel's report and the proxies' infos. Pure; reading them
//! is left to `follow`.

use std::mem::discriminant;
use std::time::Duration;

use base::printable;
use model::{ClusterData, DbUid, KeeperUid, ProxyInfo, SwitchoverReport, SwitchoverState};

/// What is read of a switchover.
#[derive(Debug, Clone, Default)]
pub(super) struct SwitchoverReading {
    /// The cluster data, if they can be used.
    pub(super) data: Option<ClusterData>,
    pub(super) has_request: bool,
    /// What a sentinel has published about this switchover.
    pub(super) report: Option<SwitchoverReport>,
    pub(super) proxies: Vec<ProxyInfo>,
}

/// A step that was reached, in the order in which they follow each other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SwitchoverStep {
    /// Nothing is begun, because of this.
    Waiting(String),
    Checkpoint,
    /// The checkpoint is not complete, or standbys have not received it, because of this.
    CheckpointWaiting(String),
    ClosingProxies,
    Stopping,
    Receiving,
    Elected,
    Announced,
    /// All proxies have applied it.
    Serving,
}

/// How a switchover ends without a new master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SwitchoverFailure {
    /// The leading sentinel has refused it.
    Refused(String),
    /// The leading sentinel has given it up.
    Aborted(String),
    /// Another db was elected, by this keeper if the cluster data have it.
    OtherElected(KeeperUid),
    /// There are no usable cluster data any more.
    NoClusterData,
}

/// How far a switchover is.
#[derive(Debug, Clone)]
pub(super) struct SwitchoverTracker {
    /// The master that is replaced.
    old: DbUid,
    old_keeper: KeeperUid,
    /// The new one, once it is elected.
    elected: Option<(DbUid, KeeperUid)>,
    /// The keeper that the operator has named.
    named: Option<KeeperUid>,
    /// The keeper that is to become the master, as last reported. Before the election another standby may take its place.
    to: KeeperUid,
    /// The last step that was reached.
    last: Option<SwitchoverStep>,
    /// What it waits for, as last reported.
    waits_for: String,
    is_request_gone: bool,
    /// The keeper that has the master at present.
    master: KeeperUid,
    /// A master is announced.
    is_announced: bool,
}

impl SwitchoverTracker {
    pub(super) fn new(old: DbUid, old_keeper: KeeperUid, named: Option<KeeperUid>) -> Self {
        Self {
            named,
            old,
            master: old_keeper.clone(),
            old_keeper,
            elected: None,
            to: KeeperUid::default(),
            last: None,
            waits_for: String::new(),
            is_request_gone: false,
            is_announced: true,
        }
    }

    /// Returns what is printed about the request.
    pub(super) fn requested(&self, to: Option<&KeeperUid>) -> String {
        let to = to.map_or_else(|| "the best standby".to_owned(), |to| format!("keeper {to}"));
        format!("requested: {to} replaces the master of keeper {}", self.old_keeper)
    }

    /// Whether the new master is elected.
    pub(super) fn is_elected(&self) -> bool {
        self.elected.is_some()
    }

    /// Whether the request is gone and nobody was elected on it.
    pub(super) fn has_ended(&self) -> bool {
        self.is_request_gone && !self.is_elected()
    }

    /// Whether more than waiting was reported.
    fn has_begun(&self) -> bool {
        self.last
            .as_ref()
            .is_some_and(|last| *last >= SwitchoverStep::Checkpoint)
    }

    /// Whether proxies are sent to a master.
    pub(super) fn is_announced(&self) -> bool {
        self.is_announced
    }

    /// Returns the steps that are new, in order.
    pub(super) fn observe(&mut self, view: &SwitchoverReading) -> Result<Vec<SwitchoverStep>, SwitchoverFailure> {
        self.is_request_gone = !view.has_request;
        let data = view.data.as_ref().ok_or(SwitchoverFailure::NoClusterData)?;
        let announced = data.proxy.as_ref().map(|proxy| &proxy.spec.master_db_uid);
        let announced = announced.filter(|announced| !announced.is_empty());
        self.is_announced = announced.is_some();
        let mut steps = Vec::new();
        if let Some(report) = &view.report {
            report.to.clone_into(&mut self.to);
            let reason = || printable(&report.reason).into_owned();
            match report.state {
                // A new leader reports so even for a switchover that its predecessor had begun.
                SwitchoverState::Refused if !self.has_begun() => return Err(SwitchoverFailure::Refused(reason())),
                SwitchoverState::Refused | SwitchoverState::Aborted => {
                    return Err(SwitchoverFailure::Aborted(reason()));
                }
                _ => steps.extend(step_of(&report.state, reason())),
            }
            self.waits_for = reason();
        }
        let master = data.master_uid().cloned().unwrap_or_default();
        let is_chosen = view.report.as_ref().is_some_and(|report| is_final(&report.state));
        self.record_master(data, &master, is_chosen)?;
        if self.is_elected() {
            steps.push(SwitchoverStep::Elected);
            if announced == Some(&master) {
                steps.push(SwitchoverStep::Announced);
                steps.extend(is_applied(data, &view.proxies).then_some(SwitchoverStep::Serving));
            }
        }
        // A new leader begins again with an earlier step, and a report may be older than the cluster data.
        steps.retain(|step| match &self.last {
            Some(last) if discriminant(last) == discriminant(step) => is_waiting_for_another(last, step),
            Some(last) => step > last,
            None => true,
        });
        if let Some(last) = steps.last() {
            self.last = Some(last.clone());
        }
        Ok(steps)
    }

    /// Records who is elected. `is_chosen`: the report is about this election, not from before it.
    fn record_master(&mut self, data: &ClusterData, master: &DbUid, is_chosen: bool) -> Result<(), SwitchoverFailure> {
        let keeper = data.dbs().get(master).map(|db| db.spec.keeper_uid.clone());
        let keeper = keeper.unwrap_or_default();
        self.master = keeper.clone();
        let reported = is_chosen.then_some(&self.to).filter(|to| !to.is_empty());
        let is_expected = self.named.as_ref().or(reported).is_none_or(|to| *to == keeper);
        match &self.elected {
            None if *master == self.old => Ok(()),
            None if is_expected => {
                self.elected = Some((master.clone(), keeper));
                Ok(())
            }
            Some((elected, _)) if elected == master => Ok(()),
            None | Some(_) => Err(SwitchoverFailure::OtherElected(keeper)),
        }
    }

    /// Returns the line that is printed for a step.
    pub(super) fn line(&self, step: &SwitchoverStep, after: Duration) -> String {
        format!("{:7.1} s  {}", after.as_secs_f64(), self.text(step))
    }

    fn text(&self, step: &SwitchoverStep) -> String {
        let elected = self.elected.as_ref().map_or(&self.to, |(_, keeper)| keeper);
        match step {
            SwitchoverStep::Waiting(reason) | SwitchoverStep::CheckpointWaiting(reason) => format!("waiting: {reason}"),
            SwitchoverStep::Checkpoint => format!("the master writes a checkpoint: keeper {}", self.old_keeper),
            SwitchoverStep::ClosingProxies => "the proxies close their connections".to_owned(),
            SwitchoverStep::Stopping => format!("the master stops: keeper {}", self.old_keeper),
            SwitchoverStep::Receiving => format!("the new master receives the rest of the WAL: keeper {elected}"),
            SwitchoverStep::Elected => format!("elected: keeper {elected}"),
            SwitchoverStep::Announced => format!("promoted and announced: keeper {elected} has the master"),
            SwitchoverStep::Serving => "the proxies connect clients to it".to_owned(),
        }
    }

    /// Returns the last step that was reached, and what it waited for.
    pub(super) fn last_step(&self) -> Option<String> {
        let last = self.last.as_ref()?;
        let mut text = self.text(last);
        if *last == SwitchoverStep::Stopping {
            text.push_str(
                "; PostgreSQL waits for all receivers of its WAL, and the keeper's log names them after a few seconds",
            );
        }
        let is_in_text = self.waits_for.is_empty() || text.contains(&self.waits_for);
        let waits_for = if is_in_text { "" } else { &self.waits_for };
        let separator = if is_in_text { "" } else { "; " };
        Some(format!("the last step was: {text}{separator}{waits_for}"))
    }

    /// Returns the state in which a switchover that has failed leaves the cluster.
    pub(super) fn state(&self) -> String {
        let keeper = &self.master;
        if self.is_announced {
            format!("keeper {keeper} has the master, and the proxies are sent to it")
        } else if *keeper == self.old_keeper {
            format!(
                "keeper {keeper} stays the master; the proxies are closed until it runs again, or the leading sentinel \
                 elects another one"
            )
        } else {
            format!("keeper {keeper} is elected and may still be announced: see `stolonctl status`")
        }
    }
}

/// Returns whether the keeper in a report of this state is the elected one.
fn is_final(state: &SwitchoverState) -> bool {
    matches!(state, SwitchoverState::Promoting | SwitchoverState::Done)
}

/// Returns the step that a sentinel reports. Its end is taken from the cluster data.
fn step_of(state: &SwitchoverState, reason: String) -> Option<SwitchoverStep> {
    Some(match state {
        SwitchoverState::Waiting => SwitchoverStep::Waiting(reason),
        SwitchoverState::Checkpoint if reason.is_empty() => SwitchoverStep::Checkpoint,
        SwitchoverState::Checkpoint => SwitchoverStep::CheckpointWaiting(reason),
        SwitchoverState::ClosingProxies => SwitchoverStep::ClosingProxies,
        SwitchoverState::Stopping => SwitchoverStep::Stopping,
        SwitchoverState::Receiving => SwitchoverStep::Receiving,
        _ => return None,
    })
}

fn is_waiting_for_another(last: &SwitchoverStep, step: &SwitchoverStep) -> bool {
    // Amounts change all the time.
    let is_amount = |word: &&str| word.chars().all(|c| c.is_ascii_digit());
    let words = |text: &str| -> Vec<String> {
        let words = text.split(' ').filter(|word| !is_amount(word));
        words.map(ToOwned::to_owned).collect()
    };
    match (last, step) {
        (SwitchoverStep::Waiting(last), SwitchoverStep::Waiting(now))
        | (SwitchoverStep::CheckpointWaiting(last), SwitchoverStep::CheckpointWaiting(now)) => {
            words(last) != words(now)
        }
        _ => false,
    }
}

/// Whether each proxy that is enabled and reports has applied the present proxy section.
fn is_applied(data: &ClusterData, proxies: &[ProxyInfo]) -> bool {
    let Some(section) = &data.proxy else { return true };
    let enabled = &section.spec.enabled_proxies;
    let mut enabled = proxies
        .iter()
        .filter(|proxy| enabled.contains(&proxy.uid) && !proxy.stopped);
    enabled.all(|proxy| proxy.generation >= section.generation)
}
