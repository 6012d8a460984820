//! What the orders mean for the generated files (keeper 7 to 9).

use control::model::{AccessMode, stolon_name};

use crate::converge::{Sets, Target, TargetRole};
use crate::pass::Engine;
use crate::pass::look::address;
use crate::postgres::conf::{self, Recovery, SlotNeeds};
use crate::postgres::conninfo::primary_conninfo;
use crate::postgres::hba::{self, Remote, Users};
use crate::postgres::instance::Files;
use crate::problems::Kind;

impl Engine {
    /// The configuration that the orders mean (keeper 8, 9).
    pub(super) fn sets(&mut self, target: &Target) -> Sets {
        let spec = &target.spec;
        let init = self.local.init_parameters().filter(|_| spec.include_previous_config);
        let made = conf::parameters(&conf::Sources {
            init: init.as_ref(),
            user: &spec.pg_parameters,
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
        });
        let left_out = made.dropped.iter().map(|(name, why)| {
            let text = format!("parameter {name:?} is left out: {why}");
            Kind::Configuration.problem(&text, "remove it from pgParameters")
        });
        self.problems.set(Kind::Configuration, "left out", left_out.collect());
        let mut parameters = made.parameters;
        if matches!(target.role, TargetRole::Standby(_)) {
            conf::raise(&mut parameters, &self.memory.minima);
        }
        let users = match &spec.pg_hba {
            None => Users::Everybody,
            Some(lines) => Users::Lines(lines.clone()),
        };
        Sets {
            parameters,
            hba: self.hba(target, &users),
            upstream: None,
        }
    }

    pub(super) fn hba(&self, target: &Target, users: &Users) -> Vec<String> {
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
