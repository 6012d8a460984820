//! Contents of the generated files for a desired state (keeper 7 to 9).

use std::collections::BTreeMap;

use model::{AccessMode, stolon_name};

use crate::postgres::config::conf::{self, Parameters, Recovery, SlotNeeds};
use crate::postgres::config::conninfo::primary_conninfo;
use crate::postgres::config::files::ConfigFiles;
use crate::postgres::config::hba::{self, AllowedHosts, OtherUsers};
use crate::problems::KeeperProblemKind;
use crate::reconcile::{ServerConfig, TargetDb, TargetRole};
use crate::reconciler::Reconciler;
use crate::reconciler::probe::address;
use crate::settings::Settings;

const REFUSED_REMEDY: &str =
    "change it with stolonctl update; if the cause lies on the host, fix it and restart this keeper";

impl Reconciler {
    /// Returns the desired configuration (keeper 8, 9) without the parts that PostgreSQL rejects.
    pub(super) fn server_config(&mut self, target: &TargetDb) -> ServerConfig {
        let (wanted, left_out) = self.wanted(target);
        let left_out = left_out.iter().map(|(name, why)| {
            let text = format!("parameter {name:?} is left out: {why}");
            KeeperProblemKind::Configuration.problem(&text, "remove it from pgParameters")
        });
        self.problems
            .set(KeeperProblemKind::Configuration, "left out", left_out.collect());
        let last = self.last_accepted();
        self.memory.config_check.refusals.forget_unwanted(&wanted);
        let generated = self.generated_hba(target, &users(wanted.hba.as_ref()));
        self.memory.config_check.refusals.forget_own_lines(&generated);
        let usable = self.memory.config_check.refusals.usable(&wanted, last.as_ref());
        let refused = usable.refused.iter();
        let refused = refused.map(|text| KeeperProblemKind::Configuration.problem(text, REFUSED_REMEDY));
        self.problems
            .set(KeeperProblemKind::Configuration, "refused", refused.collect());
        self.memory.config_check.usable.clone_from(&usable.settings);
        let mut parameters = usable.settings.parameters;
        if matches!(target.role, TargetRole::Standby(_)) {
            conf::raise_to_minimums(&mut parameters, &self.memory.minimums);
        }
        ServerConfig {
            parameters,
            hba: self.hba(target, &users(usable.settings.hba.as_ref())),
            upstream: None,
        }
    }

    /// Returns the settings of the cluster spec, and the parameters that no server may be given, with reasons.
    pub(super) fn wanted(&self, target: &TargetDb) -> (Settings, BTreeMap<String, String>) {
        let generated = self.make_parameters(target, &target.spec.pg_parameters);
        let wanted = Settings {
            parameters: generated.parameters,
            hba: target.spec.pg_hba.clone(),
        };
        (wanted, generated.dropped)
    }

    /// Returns the parameters of an instance without user parameters.
    pub(super) fn own_parameters(&self, target: &TargetDb) -> Parameters {
        self.make_parameters(target, &Parameters::new()).parameters
    }

    fn make_parameters(&self, target: &TargetDb, user: &Parameters) -> conf::GeneratedParameters {
        let spec = &target.spec;
        let init = self.local.init_parameters().filter(|_| spec.include_previous_config);
        conf::parameters(&conf::ParameterSources {
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

    /// Returns the hba lines without rejected ones.
    pub(super) fn hba(&self, target: &TargetDb, users: &OtherUsers) -> Vec<String> {
        self.without_refused(self.generated_hba(target, users))
    }

    /// A single unreadable line, such as one with a malformed peer address, would prevent the server from reading all
    /// others.
    pub(super) fn without_refused(&self, mut lines: Vec<String>) -> Vec<String> {
        lines.retain(|line| !self.memory.config_check.refusals.refuses_line(line));
        lines
    }

    /// Returns all desired hba lines.
    pub(super) fn generated_hba(&self, target: &TargetDb, users: &OtherUsers) -> Vec<String> {
        let remote = match (&target.access, &target.role) {
            (AccessMode::Strict, TargetRole::Master) => AllowedHosts::Only(target.peers.clone()),
            (AccessMode::Strict, _) => AllowedHosts::Only(Vec::new()),
            _ => AllowedHosts::All,
        };
        hba::lines(&hba::HbaAccess {
            superuser: &self.config.superuser,
            replication: &self.config.replication,
            replication_databases: &[],
            remote: &remote,
            users,
        })
    }

    pub(super) fn files(&self, config: &ServerConfig) -> ConfigFiles {
        let recovery = config.upstream.as_ref().map(|from| {
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
                    &self.instance.config().passfile(),
                ),
                &name,
            )
        });
        ConfigFiles {
            parameters: config.parameters.clone(),
            hba: config.hba.clone(),
            recovery: recovery.unwrap_or_default(),
        }
    }
}

/// Converts the user's hba lines; `None` admits every user with a password.
pub(super) fn users(lines: Option<&Vec<String>>) -> OtherUsers {
    match lines {
        None => OtherUsers::Everybody,
        Some(lines) => OtherUsers::Lines(lines.clone()),
    }
}
