//! What of the wanted configuration a server is given: less what it was found to refuse, which keeps its last good value.
//! Pure; who asks the server, and when, is left to `pass`.

mod failed_start;
mod hba;
mod last_good;

use std::collections::{BTreeMap, BTreeSet};

use control::redact::{is_private, without_value};
use serde::{Deserialize, Serialize};

use crate::postgres::conf::Parameters;

pub use failed_start::{FailedStart, StartDiagnosis};
pub use hba::choose_lines;
pub use last_good::{LastGoodConf, LastGoodConfFile};

/// The part of a configuration that comes from the cluster spec.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Settings {
    /// All parameters but those of recovery.
    pub parameters: Parameters,
    /// The user's hba lines; none: everybody with a password.
    #[serde(rename = "HBA")]
    pub hba: Option<Vec<String>>,
}

/// A parameter that a server refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedParameter {
    /// The wanted value; none: not to be set.
    pub value: Option<String>,
    /// What is used instead; none: not set.
    pub instead: Option<String>,
    /// The server's words.
    pub why: String,
    /// No message named it: it was only one of several that were new.
    pub is_suspect: bool,
}

/// What servers refused so far. A verdict is on one value: with another one it is forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Refusals {
    parameters: BTreeMap<String, RefusedParameter>,
    lines: BTreeMap<String, String>,
    /// Lines of the keeper's own, such as one with another instance's address.
    own_lines: BTreeMap<String, String>,
    held_back: Option<HeldBack>,
    /// A set with which starts failed for a reason that names nothing, and how often.
    failed: Option<(Settings, u32)>,
}

/// All that distinguishes a set with which a server did not start from the one with which it last did.
#[derive(Debug, Clone, PartialEq, Eq)]
struct HeldBack {
    parameters: BTreeMap<String, RefusedParameter>,
    hba: Option<HeldBackHba>,
    why: String,
    /// A server has started without it.
    proven: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct HeldBackHba {
    wanted: Option<Vec<String>>,
    instead: Option<Vec<String>>,
}

/// What can be used of a wanted configuration, and what is to be said about the rest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UsableSettings {
    /// The configuration to write.
    pub settings: Settings,
    /// What was refused, one text for each.
    pub refused: Vec<String>,
}

impl Refusals {
    /// Forgets what nobody wants any more; [`Self::forget_own_lines`] does the same for the keeper's own lines.
    pub fn forget_unwanted(&mut self, wanted: &Settings) {
        let is_wanted =
            |name: &String, refused: &mut RefusedParameter| wanted.parameters.get(name) == refused.value.as_ref();
        self.parameters.retain(is_wanted);
        self.lines
            .retain(|line, _| wanted.hba.iter().flatten().any(|wanted| wanted == line));
        if let Some(held) = &mut self.held_back {
            // With one of several suspects gone, the others may have been innocent: they are worth another start.
            let is_gone =
                |(name, refused): (&String, &mut RefusedParameter)| refused.is_suspect && !is_wanted(name, refused);
            if held.parameters.iter_mut().any(is_gone) {
                held.parameters.retain(|_, refused| !refused.is_suspect);
            }
            held.parameters.retain(is_wanted);
            held.hba = held.hba.take().filter(|held| held.wanted == wanted.hba);
            if held.parameters.is_empty() && held.hba.is_none() {
                self.held_back = None;
            }
        }
    }

    /// Forgets the verdicts on lines of the keeper's own that are not among these.
    pub fn forget_own_lines(&mut self, made: &[String]) {
        self.own_lines.retain(|line, _| made.contains(line));
    }

    /// What can be used of `wanted`; `last` is what a server last took.
    pub fn usable(&self, wanted: &Settings, last: Option<&Settings>) -> UsableSettings {
        let mut settings = wanted.clone();
        let mut refused = Vec::new();
        let replace = |settings: &mut Settings, name: &String, with: &Option<String>| match with {
            Some(value) => drop(settings.parameters.insert(name.clone(), value.clone())),
            None => drop(settings.parameters.remove(name)),
        };
        if let Some(held) = &self.held_back {
            held.parameters
                .iter()
                .for_each(|(name, one)| replace(&mut settings, name, &one.instead));
            if let Some(held) = &held.hba {
                settings.hba.clone_from(&held.instead);
            }
            refused.push(held.describe());
        }
        for (name, one) in &self.parameters {
            replace(&mut settings, name, &one.instead);
            refused.push(one.describe(name));
        }
        let (lines, said) = choose_lines(settings.hba.as_deref(), &self.lines, last.map(|last| &last.hba));
        settings.hba = lines;
        refused.extend(said);
        let own = self.own_lines.iter();
        refused.extend(own.map(|(line, why)| format!("the keeper's own hba line {line:?} is left out: {why}")));
        UsableSettings { settings, refused }
    }

    /// The server refuses these parameters; they keep the values that one last took.
    pub fn refuse_parameters(&mut self, named: &BTreeMap<String, String>, wanted: &Settings, last: Option<&Settings>) {
        for (name, why) in named {
            let value = wanted.parameters.get(name).cloned();
            // Refused once more: then it was the last value that is refused now.
            let last = last.filter(|_| !self.parameters.contains_key(name));
            let before = last.and_then(|last| last.parameters.get(name)).cloned();
            let refused = RefusedParameter {
                instead: before.filter(|before| Some(before) != value.as_ref()),
                value,
                why: why.clone(),
                is_suspect: false,
            };
            self.parameters.insert(name.clone(), refused);
        }
    }

    /// The server refuses these lines of the user's.
    pub fn refuse_lines(&mut self, lines: impl IntoIterator<Item = (String, String)>) {
        self.lines.extend(lines);
    }

    /// The server refuses these lines of the keeper's own.
    pub fn refuse_own_lines(&mut self, lines: impl IntoIterator<Item = (String, String)>) {
        self.own_lines.extend(lines);
    }

    /// The names of the parameters with which a server did not start.
    pub fn held_parameters(&self) -> Vec<String> {
        let held = self.held_back.iter().flat_map(|held| held.parameters.keys());
        held.cloned().collect()
    }

    /// Whether this line is refused.
    pub fn refuses_line(&self, line: &str) -> bool {
        self.lines.contains_key(line) || self.own_lines.contains_key(line)
    }

    /// Whether something is held back that a running server was not asked about.
    pub fn needs_release(&self) -> bool {
        self.held_back.as_ref().is_some_and(|held| !held.proven)
    }

    /// Whether a start failed with the wanted configuration, and a server now runs with less of it.
    pub fn has_held_back(&self) -> bool {
        self.held_back.is_some()
    }

    /// A server runs that cannot be asked: lines are tried by a reload, at which it keeps the old ones if it must.
    pub fn release_hba(&mut self) {
        let Some(held) = &mut self.held_back else { return };
        held.hba = None;
        if held.parameters.is_empty() {
            self.held_back = None;
        }
    }

    /// A server runs again: of what was held back only `for_restart` can have kept it from starting by being read at the
    /// start only; the rest it can be asked about, and is applied by a reload.
    pub fn release(&mut self, for_restart: &BTreeSet<String>) {
        self.failed = None;
        let Some(held) = &mut self.held_back else { return };
        held.proven = true;
        held.parameters.retain(|name, _| for_restart.contains(name));
        held.hba = None;
        if held.parameters.is_empty() {
            self.held_back = None;
        }
    }
}

impl RefusedParameter {
    fn describe(&self, name: &str) -> String {
        if is_private(name) {
            let values = [&self.value, &self.instead].into_iter().flatten();
            let why = values.fold(self.why.clone(), |why, value| without_value(&why, value));
            return format!("parameter {name:?} is refused, the last accepted value is used: {why}");
        }
        let instead = match &self.instead {
            Some(value) => format!("the last accepted value {value:?} is used"),
            None => "it is left out".to_owned(),
        };
        format!("parameter {name:?} is refused, {instead}: {}", self.why)
    }
}

impl HeldBack {
    fn describe(&self) -> String {
        let mut names: Vec<String> = self.parameters.keys().map(|name| format!("{name:?}")).collect();
        names.extend(self.hba.iter().map(|_| "pgHBA".to_owned()));
        let doubt = match names.len() > 1 && self.parameters.values().any(|refused| refused.is_suspect) {
            true => " (not all of them need be the cause; changing one of them tries the others again)",
            false => "",
        };
        format!(
            "PostgreSQL did not start with the new values of {}{doubt}, using those of its last successful start, or the \
             defaults: {}",
            names.join(", "),
            self.why
        )
    }
}

#[cfg(test)]
mod tests;
