//! Validity of a spec (data-model 5), and which spec may replace which (data-model 6.1).

use crate::ids::{is_name_char, strip_stolon_name};
use crate::spec::{AccessMode, ClusterSpec, InitMode, Role};

/// The spec breaks a rule of data-model 5; the text names field and rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSpec(String);

impl InvalidSpec {
    pub(super) fn new(text: String) -> Self {
        Self(text)
    }
}

/// Why a spec may not replace the stored one (data-model 6.1).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecChangeError {
    /// The new spec is not valid by itself.
    #[error("invalid cluster spec")]
    Invalid(#[source] InvalidSpec),
    /// The init mode, which applied when the cluster was initialised and cannot change.
    #[error("cannot change cluster init mode from {from:?} to {to:?}: keep it as it is, or initialise a new cluster")]
    InitMode {
        /// The stored one.
        from: String,
        /// The requested one.
        to: String,
    },
    /// A cluster that accepts writes cannot become a standby cluster.
    #[error("cannot change cluster role from master to standby: initialise a new standby cluster instead")]
    MasterToStandby,
}

/// Checks that `new` may replace `current` as a whole (data-model 6.1): a field missing in `new` becomes unset.
///
/// # Errors
/// The new spec is invalid, changes the init mode, or turns a master cluster into a standby one.
pub fn replace_spec(current: &ClusterSpec, new: &ClusterSpec) -> Result<(), SpecChangeError> {
    new.validate().map_err(SpecChangeError::Invalid)?;
    new.check_limits(Some(current)).map_err(SpecChangeError::Invalid)?;
    if new.init_mode != current.init_mode {
        let text = |mode: &Option<InitMode>| mode.as_ref().map_or_else(String::new, ToString::to_string);
        return Err(SpecChangeError::InitMode {
            from: text(&current.init_mode),
            to: text(&new.init_mode),
        });
    }
    let role = |spec: &ClusterSpec| spec.role.clone().unwrap_or(Role::Master);
    if role(current) == Role::Master && role(new) == Role::Standby {
        return Err(SpecChangeError::MasterToStandby);
    }
    Ok(())
}

impl ClusterSpec {
    /// Checks the effective spec against the rules of data-model 5, in their order.
    ///
    /// # Errors
    /// The first rule that the spec breaks.
    pub fn validate(&self) -> Result<(), InvalidSpec> {
        self.with_defaults().check_effective()
    }

    /// Checks a spec whose defaults are filled in, see [`validate`](Self::validate).
    pub(super) fn check_effective(&self) -> Result<(), InvalidSpec> {
        let durations = [
            ("sleepInterval", self.sleep_interval),
            ("requestTimeout", self.request_timeout),
            ("convergenceTimeout", self.convergence_timeout),
            ("initTimeout", self.init_timeout),
            ("syncTimeout", self.sync_timeout),
            ("dbWaitReadyTimeout", self.db_wait_ready_timeout),
            ("failInterval", self.fail_interval),
            ("deadKeeperRemovalInterval", self.dead_keeper_removal_interval),
            ("proxyCheckInterval", self.proxy_check_interval),
            ("proxyTimeout", self.proxy_timeout),
        ];
        for (name, value) in durations {
            if value.is_some_and(|value| value.is_negative()) {
                return invalid(format!("{name} must be positive, or zero"));
            }
        }
        if self.proxy_check_interval >= self.proxy_timeout {
            return invalid("proxyCheckInterval should be less than proxyTimeout: lower the one or raise the other");
        }
        for (name, value) in [
            ("maxStandbys", self.max_standbys),
            ("maxStandbysPerSender", self.max_standbys_per_sender),
            ("maxSynchronousStandbys", self.max_synchronous_standbys),
        ] {
            if value == Some(0) {
                return invalid(format!("{name} must be at least 1"));
            }
        }
        if self.max_synchronous_standbys < self.min_synchronous_standbys {
            return invalid("maxSynchronousStandbys must be greater than or equal to minSynchronousStandbys");
        }
        let Some(init_mode) = &self.init_mode else {
            return invalid("initMode undefined: set it to new, existing or pitr");
        };
        for name in self.additional_master_replication_slots.iter().flatten() {
            check_slot_name(name)?;
        }
        if self.pg_hba.iter().flatten().any(|line| line.contains('\n')) {
            return invalid("pgHBA entries cannot contain newlines: give each line its own entry");
        }
        self.check_init_mode(init_mode)?;
        match &self.default_su_repl_access_mode {
            Some(AccessMode::Other(other)) => {
                return invalid(format!(
                    "unknown defaultSUReplAccessMode: {other:?}, must be all or strict"
                ));
            }
            Some(AccessMode::All | AccessMode::Strict) | None => {}
        }
        match &self.role {
            Some(Role::Master) | None => Ok(()),
            Some(Role::Standby) if self.standby_config.is_none() => {
                invalid("standbyConfig undefined: it is required when the role is standby")
            }
            Some(Role::Standby) => Ok(()),
            Some(other) => invalid(format!("unknown role: {:?}, must be master or standby", other.as_str())),
        }
    }

    fn check_init_mode(&self, init_mode: &InitMode) -> Result<(), InvalidSpec> {
        let standby = self.role == Some(Role::Standby);
        match init_mode {
            InitMode::New if standby => {
                invalid("invalid cluster role standby when initMode is new: set role to master, or initMode to pitr")
            }
            InitMode::New => Ok(()),
            InitMode::Existing => match &self.existing_config {
                None => invalid("existingConfig undefined: it is required when initMode is existing"),
                Some(config) if config.keeper_uid.is_empty() => {
                    invalid("existingConfig.keeperUID undefined: set it to the keeper that has the data")
                }
                Some(_) => Ok(()),
            },
            InitMode::Pitr => match &self.pitr_config {
                None => invalid("pitrConfig undefined: it is required when initMode is pitr"),
                Some(config) if config.data_restore_command.is_empty() => {
                    invalid("pitrConfig.dataRestoreCommand undefined: set it to the command that restores the backup")
                }
                Some(config) if config.recovery_target_settings.is_some() && standby => {
                    invalid("pitrConfig.recoveryTargetSettings cannot be set when the role is standby")
                }
                Some(_) => Ok(()),
            },
            InitMode::Other(other) => invalid(format!("unknown initMode: {other:?}, must be new, existing or pitr")),
        }
    }
}

/// Checks the name of a replication slot (data-model 5, rules 17 and 18).
fn check_slot_name(name: &str) -> Result<(), InvalidSpec> {
    if name.is_empty() || !name.chars().all(is_name_char) {
        return invalid(format!(
            "wrong replication slot name: {name:?}: use lower-case letters, digits and underscores"
        ));
    }
    if strip_stolon_name(name).is_some() {
        return invalid(format!(
            "replication slot name is reserved: {name:?}: choose one that does not begin with stolon_"
        ));
    }
    Ok(())
}

fn invalid<T>(text: impl Into<String>) -> Result<T, InvalidSpec> {
    Err(InvalidSpec(text.into()))
}
