//! Contents of the generated files for a desired state (keeper 7 to 9). What PostgreSQL refuses of them is left to
//! `check`.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::Chain;
use model::{AccessMode, DbInitMode, DbUid, stolon_name};
use tracing::warn;

use crate::args::Config;
use crate::context::KeeperContext;
use crate::local::state::LocalState;
use crate::postgres::config::conf::{self, Parameters, Recovery, SlotNeeds, StandbyMinimums};
use crate::postgres::config::conninfo::{Address, primary_conninfo};
use crate::postgres::config::files::ConfigFiles;
use crate::postgres::config::hba::{self, AllowedHosts, OtherUsers};
use crate::postgres::data::cluster_files as data_files;
use crate::postgres::instance::Instance;
use crate::postgres::programs::pg_control;
use crate::reconcile::{
    DataState, MemberUpstream, RESTART_AFTER_CRASH, SYNCHRONOUS_STANDBY_NAMES, ServerConfig, TargetDb, TargetRole,
    Upstream, is_foreign_slot,
};
use crate::settings::Settings;

/// Generates the configuration of one keeper's server.
#[derive(Debug)]
pub(super) struct ConfigGenerator {
    config: Arc<Config>,
    instance: Arc<Instance>,
    local: Arc<LocalState>,
    /// Minimum parameters of a standby, from its control file.
    minimums: StandbyMinimums,
    /// The replication slots in PGDATA before the last start.
    slots: SlotNeeds,
}

impl ConfigGenerator {
    pub(super) fn new(context: &KeeperContext) -> Self {
        Self {
            config: Arc::clone(&context.config),
            instance: Arc::clone(&context.instance),
            local: Arc::clone(&context.local),
            minimums: StandbyMinimums::default(),
            slots: SlotNeeds::default(),
        }
    }

    /// Reads from the data of a stopped instance what its next start requires of the parameters.
    pub(super) async fn read_requirements(&mut self, target: &TargetDb, data: DataState) {
        self.read_minimums(target, data).await;
        self.read_slots(data).await;
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

    /// Raises parameters to the minimums of a standby (keeper 8.7).
    pub(super) fn raise_to_minimums(&self, target: &TargetDb, parameters: &mut Parameters) {
        if recovers(target) {
            conf::raise_to_minimums(parameters, &self.minimums);
        }
    }

    /// Returns all desired hba lines.
    pub(super) fn hba(&self, target: &TargetDb, users: &OtherUsers) -> Vec<String> {
        let remote = match (&target.access, &target.role) {
            (AccessMode::Strict, TargetRole::Master | TargetRole::Standby(Upstream::External(_))) => {
                AllowedHosts::Only(target.peer_addresses.clone())
            }
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

    /// Returns the generated files for the server of `db`.
    pub(super) fn files(&self, db: &DbUid, config: &ServerConfig) -> ConfigFiles {
        let recovery = config.upstream.as_ref().map(|upstream| match upstream {
            Upstream::Member(from) => {
                let name = stolon_name(db.as_str());
                let (login, passfile) = (&self.config.replication, self.instance.config().passfile());
                let slot = if from.uses_slot { name.as_str() } else { "" };
                Recovery::follow(primary_conninfo(&name, &address(from), login, None, &passfile), slot)
            }
            Upstream::External(from) => Recovery::external(&from.standby, from.archive.as_ref()),
        });
        ConfigFiles {
            parameters: config.parameters.clone(),
            hba: config.hba.clone(),
            recovery: recovery.unwrap_or_default(),
        }
    }

    fn make_parameters(&self, target: &TargetDb, user: &Parameters) -> conf::GeneratedParameters {
        let spec = &target.spec;
        // Those of another db do not count: this one is still to be initialised.
        let is_of_db = self.local.db().uid == target.db;
        let init = self.local.init_parameters();
        let init = init.filter(|_| spec.include_previous_config && is_of_db);
        conf::parameters(&conf::ParameterSources {
            init: init.as_ref(),
            user,
            listen_addresses: &self.config.listen_address,
            port: &self.config.port.to_string(),
            socket_dir: &self.instance.config().socket_directories(),
            max_standbys: spec.max_standbys.into(),
            slots: SlotNeeds {
                additional: target.additional_slots,
                ..self.slots
            },
            additional_wal_senders: spec.additional_wal_senders.into(),
            use_pg_rewind: spec.use_pgrewind,
            // Set by `set_synchronous`, after everything that may revert parameters.
            synchronous_standby_names: "",
        })
    }

    /// Sets what synchronous replication requires.
    pub(super) fn set_synchronous(&self, target: &TargetDb, parameters: &mut Parameters) {
        parameters.insert(SYNCHRONOUS_STANDBY_NAMES.to_owned(), target.standby_names());
        if target.is_synchronous() {
            parameters.insert(RESTART_AFTER_CRASH.to_owned(), "off".to_owned());
        }
    }

    /// Reads the minimum parameters of a standby from its control file: those of its master (keeper 8.7).
    pub(super) async fn read_minimums(&mut self, target: &TargetDb, data: DataState) {
        if data == DataState::Absent || !recovers(target) {
            self.minimums = StandbyMinimums::default();
            return;
        }
        let limit = self.instance.config().request_timeout;
        match pg_control::read(self.instance.programs(), &self.instance.config().data, limit).await {
            Ok(control) => self.minimums = control.minimums,
            Err(error) => warn!(error = %Chain(&error), "could not read the control file"),
        }
    }

    /// Counts the slots in PGDATA. A server does not start with `max_replication_slots` below that.
    async fn read_slots(&mut self, data: DataState) {
        if data == DataState::Absent {
            self.slots = SlotNeeds::default();
            return;
        }
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        match self.instance.access().read(data_files::slot_names).await {
            Ok(names) => {
                self.slots = SlotNeeds {
                    additional: 0,
                    foreign: count(names.iter().filter(|name| is_foreign_slot(name)).count()),
                    existing: count(names.len()),
                };
            }
            Err(error) => warn!(error = %Chain(&error), "could not look for replication slots"),
        }
    }
}

/// Whether the server of the db replays another server's WAL, which requires parameters at least as high: a standby, or
/// a restored backup.
fn recovers(target: &TargetDb) -> bool {
    matches!(target.role, TargetRole::Standby(_)) || target.spec.init_mode == DbInitMode::Pitr
}

/// Returns the address of a followed db.
pub fn address(upstream: &MemberUpstream) -> Address {
    Address {
        host: upstream.host.clone(),
        port: upstream.port.clone(),
    }
}
