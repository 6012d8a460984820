//! What the orders mean for the generated files (keeper 7 to 9).

use std::collections::BTreeMap;

use control::model::{AccessMode, stolon_name};

use crate::converge::{Sets, Target, TargetRole};
use crate::pass::Engine;
use crate::pass::look::address;
use crate::postgres::conf::{self, Parameters, Recovery, SlotNeeds};
use crate::postgres::conninfo::primary_conninfo;
use crate::postgres::hba::{self, Remote, Users};
use crate::postgres::instance::Files;
use crate::problems::Kind;
use crate::settings::Settings;

const REFUSED_REMEDY: &str =
    "change it with stolonctl update; if the cause lies on the host, mend that and restart this keeper";

impl Engine {
    /// The configuration that the orders mean (keeper 8, 9), as far as it was not found to be refused.
    pub(super) fn sets(&mut self, target: &Target) -> Sets {
        let (wanted, left_out) = self.wanted(target);
        let left_out = left_out.iter().map(|(name, why)| {
            let text = format!("parameter {name:?} is left out: {why}");
            Kind::Configuration.problem(&text, "remove it from pgParameters")
        });
        self.problems.set(Kind::Configuration, "left out", left_out.collect());
        let last = self.last_taken();
        self.memory.judge.verdicts.forget_unwanted(&wanted);
        let made = self.made_hba(target, &users(wanted.hba.as_ref()));
        self.memory.judge.verdicts.forget_own_lines(&made);
        let usable = self.memory.judge.verdicts.usable(&wanted, last.as_ref());
        let refused = usable.refused.iter();
        let refused = refused.map(|text| Kind::Configuration.problem(text, REFUSED_REMEDY));
        self.problems.set(Kind::Configuration, "refused", refused.collect());
        self.memory.judge.usable.clone_from(&usable.settings);
        let mut parameters = usable.settings.parameters;
        if matches!(target.role, TargetRole::Standby(_)) {
            conf::raise(&mut parameters, &self.memory.minima);
        }
        Sets {
            parameters,
            hba: self.hba(target, &users(usable.settings.hba.as_ref())),
            upstream: None,
        }
    }

    /// What the cluster spec asks for; and the parameters that no server may be given, with the reasons.
    pub(super) fn wanted(&self, target: &Target) -> (Settings, BTreeMap<String, String>) {
        let made = self.make_parameters(target, &target.spec.pg_parameters);
        let wanted = Settings {
            parameters: made.parameters,
            hba: target.spec.pg_hba.clone(),
        };
        (wanted, made.dropped)
    }

    /// The parameters of an instance for which users want nothing.
    pub(super) fn own_parameters(&self, target: &Target) -> Parameters {
        self.make_parameters(target, &Parameters::new()).parameters
    }

    fn make_parameters(&self, target: &Target, user: &Parameters) -> conf::Made {
        let spec = &target.spec;
        let init = self.local.init_parameters().filter(|_| spec.include_previous_config);
        conf::parameters(&conf::Sources {
            init: init.as_ref(),
            user,
            listen_addresses: &self.config.listen_address,
            port: &self.config.port.to_string(),
            socket_dir: &self.instance.config().socket_directories(),
            max_standbys: spec.max_standbys.into(),
            slots: SlotNeeds {
                additional: target.additional_slots,
                ..self.memory.slots
            },
            additional_wal_senders: spec.additional_wal_senders.into(),
            use_pg_rewind: spec.use_pgrewind,
            synchronous_standby_names: "",
        })
    }

    /// The lines without those that the server was found to refuse.
    pub(super) fn hba(&self, target: &Target, users: &Users) -> Vec<String> {
        self.without_refused(self.made_hba(target, users))
    }

    /// One line that the server cannot read, such as a peer's strange address, would keep it from reading all others.
    pub(super) fn without_refused(&self, mut lines: Vec<String>) -> Vec<String> {
        lines.retain(|line| !self.memory.judge.verdicts.refuses_line(line));
        lines
    }

    /// All lines that the orders mean.
    pub(super) fn made_hba(&self, target: &Target, users: &Users) -> Vec<String> {
        let remote = match (&target.access, &target.role) {
            (AccessMode::Strict, TargetRole::Master) => Remote::Only(target.peers.clone()),
            (AccessMode::Strict, _) => Remote::Only(Vec::new()),
            _ => Remote::All,
        };
        hba::lines(&hba::Access {
            superuser: &self.config.superuser,
            replication: &self.config.replication,
            replication_databases: &[],
            remote: &remote,
            users,
        })
    }

    pub(super) fn files(&self, sets: &Sets) -> Files {
        let recovery = sets.upstream.as_ref().map(|from| {
            let db = self
                .memory
                .target
                .as_ref()
                .map(|target| target.db.clone())
                .unwrap_or_default();
            let name = stolon_name(db.as_str());
            Recovery::follow(
                primary_conninfo(
                    &name,
                    &address(from),
                    &self.config.replication,
                    None,
                    &self.instance.passfile(),
                ),
                &name,
            )
        });
        Files {
            parameters: sets.parameters.clone(),
            hba: sets.hba.clone(),
            recovery: recovery.unwrap_or_default(),
        }
    }
}

/// Whom the user's lines let in.
pub(super) fn users(lines: Option<&Vec<String>>) -> Users {
    match lines {
        None => Users::Everybody,
        Some(lines) => Users::Lines(lines.clone()),
    }
}
