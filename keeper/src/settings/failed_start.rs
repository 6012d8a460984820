//! Diagnosis of a failed start: which part of the configuration caused it.

use std::collections::BTreeMap;

use crate::settings::{HeldBack, HeldBackHba, Refusals, RefusedParameter, Settings};

/// Parameters that are never reverted: those that locate the server, which are also on its command line, and the number
/// of slots, which must not be lower than the slots in the data directory.
const NEVER_REVERTED: [&str; 4] = [
    "listen_addresses",
    "max_replication_slots",
    "port",
    "unix_socket_directories",
];

/// Failed starts with the same settings before all of them are held back on suspicion only, when no server has started
/// with less: full disks and leftover shared memory are temporary.
const TRIES_MAX: u32 = 3;

/// A failed start.
#[derive(Debug, Clone, Copy)]
pub struct FailedStart<'a> {
    /// The desired settings.
    pub wanted: &'a Settings,
    /// The settings that the server was started with.
    pub tried: &'a Settings,
    /// The settings of the last successful start; before the first one, the keeper's own settings.
    pub base: &'a Settings,
    /// A server has started with `base`.
    pub is_base_proven: bool,
    /// The user's lines that a server last accepted, at a start or a reload.
    pub last_hba: &'a Option<Vec<String>>,
    /// The lines of `pg_hba.conf`.
    pub hba_file: &'a [String],
    /// The last lines of the server's output.
    pub output: &'a [String],
}

/// Result of the diagnosis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartDiagnosis {
    /// A part of the configuration was held back: start again with the rest.
    Configuration,
    /// The configuration is not known to be the cause: start again unchanged.
    Unknown,
}

impl Refusals {
    /// Finds the settings that prevented a start: those that the server named, otherwise all that it has not started
    /// with before. Each call holds back something new, or returns [`StartDiagnosis::Unknown`].
    pub fn diagnose_start(&mut self, attempt: &FailedStart<'_>) -> StartDiagnosis {
        if self.refuse_named_lines(attempt) {
            return StartDiagnosis::Configuration;
        }
        let differ: Vec<&String> = differing(attempt).collect();
        let named: Vec<&String> = differ.iter().copied().filter(|name| is_named(name, attempt)).collect();
        // Lines that a reload has accepted are never reverted: that could lock out users.
        let is_held = self.held_back.as_ref().is_some_and(|held| held.hba.is_some());
        let other_hba = !is_held && attempt.tried.hba != *attempt.last_hba && may_be_hba(attempt.output);
        if differ.is_empty() && !other_hba {
            // Earlier failed starts proved nothing.
            self.held_back = self.held_back.take().filter(|held| held.proven);
            return StartDiagnosis::Unknown;
        }
        if named.is_empty()
            && !names_hba(attempt.output)
            && !attempt.is_base_proven
            && !self.is_retry_limit_reached(attempt)
        {
            return StartDiagnosis::Unknown;
        }
        // Without a name all new values are held back: trying subsets would take a start each, without a master
        // meanwhile.
        let is_suspect = named.is_empty() && differ.len() > 1;
        let (names, hba) = match (named.is_empty(), names_hba(attempt.output)) {
            (true, true) if other_hba => (Vec::new(), true),
            (true, _) => (differ, other_hba),
            (false, _) => (named, false),
        };
        self.hold_back(attempt, &names, is_suspect, hba);
        StartDiagnosis::Configuration
    }

    /// Counts one more failed start with these settings. Returns whether they are not retried unchanged any more.
    fn is_retry_limit_reached(&mut self, attempt: &FailedStart<'_>) -> bool {
        let before = self.failed.take().filter(|(set, _)| set == attempt.tried);
        let count = before.map_or(0, |(_, count)| count) + 1;
        self.failed = (count < TRIES_MAX).then(|| (attempt.tried.clone(), count));
        count >= TRIES_MAX
    }

    /// Holds these parameters back, and the user's lines if `hba`.
    fn hold_back(&mut self, attempt: &FailedStart<'_>, names: &[&String], is_suspect: bool, hba: bool) {
        let why = reason(attempt.output);
        let held = self.held_back.get_or_insert_with(|| HeldBack {
            parameters: BTreeMap::new(),
            hba: None,
            why: String::new(),
            proven: false,
        });
        for name in names {
            let refused = RefusedParameter {
                value: attempt.wanted.parameters.get(*name).cloned(),
                instead: attempt.base.parameters.get(*name).cloned(),
                why: why.clone(),
                is_suspect,
            };
            held.parameters.insert((*name).clone(), refused);
        }
        if hba {
            held.hba = Some(HeldBackHba {
                wanted: attempt.wanted.hba.clone(),
                instead: attempt.last_hba.clone(),
            });
        }
        held.why = match held.why.is_empty() || held.why == why {
            true => why,
            false => format!("{}; {why}", held.why),
        };
        held.proven = false;
    }

    /// Records lines that the server named by number (hba.c: `line %d of configuration file "%s"`).
    fn refuse_named_lines(&mut self, attempt: &FailedStart<'_>) -> bool {
        let mut message = String::new();
        let (mut of_user, mut own) = (Vec::new(), Vec::new());
        for line in attempt.output {
            if let Some((_, text)) = line.split_once("LOG:") {
                text.trim().clone_into(&mut message);
            }
            let number = line
                .split_once("line ")
                .and_then(|(_, rest)| rest.split_once(" of configuration file "));
            let Some((number, file)) = number else { continue };
            let at = number.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
            let text = at
                .and_then(|at| attempt.hba_file.get(at))
                .filter(|_| file.contains("hba.conf"));
            let is_from_user = |text: &&String| attempt.tried.hba.iter().flatten().any(|line| line == *text);
            let Some(text) = text.filter(|text| !self.refuses_line(text)) else {
                continue;
            };
            let found = if is_from_user(&text) { &mut of_user } else { &mut own };
            found.push((text.clone(), message.clone()));
        }
        let any = !(of_user.is_empty() && own.is_empty());
        self.refuse_lines(of_user);
        self.refuse_own_lines(own);
        any
    }
}

fn names_hba(output: &[String]) -> bool {
    let is_final = |line: &&String| line.contains("FATAL:") || line.contains("of configuration file");
    output.iter().filter(is_final).any(|line| line.contains("pg_hba.conf"))
}

/// Whether hba lines may have caused the failure: the server names the file, or gives no reason (with a logging
/// collector its output ends before the reason).
fn may_be_hba(output: &[String]) -> bool {
    let has_reason = output
        .iter()
        .any(|line| ["FATAL:", "PANIC:"].iter().any(|level| line.contains(level)));
    !has_reason || names_hba(output)
}

/// Whether the server's last messages name this parameter or a part of its value, such as a missing library.
fn is_named(name: &str, attempt: &FailedStart<'_>) -> bool {
    const LEVELS: [&str; 5] = ["FATAL:", "PANIC:", "DETAIL:", "HINT:", "ERROR:"];
    // A shorter text occurs in nearly every value.
    const QUOTED_BYTES_MIN: usize = 3;
    let value = attempt.tried.parameters.get(name).map_or("", String::as_str);
    let lines = attempt
        .output
        .iter()
        .filter(|line| LEVELS.iter().any(|level| line.contains(level)));
    let is_word_character = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
    lines.into_iter().any(|line| {
        let lower = line.to_ascii_lowercase();
        let mut words = lower
            .split(|c: char| !is_word_character(c))
            .map(|word| word.trim_end_matches('.'));
        let mut quoted = line.split('"').skip(1).step_by(2);
        words.any(|word| word == name) || quoted.any(|text| text.len() >= QUOTED_BYTES_MIN && value.contains(text))
    })
}

/// Returns the parameters whose values differ from the base.
fn differing<'a>(attempt: &FailedStart<'a>) -> impl Iterator<Item = &'a String> {
    let (tried, base) = (&attempt.tried.parameters, &attempt.base.parameters);
    let names = tried
        .keys()
        .chain(base.keys().filter(|name| !tried.contains_key(*name)));
    names.filter(|name| tried.get(*name) != base.get(*name) && !NEVER_REVERTED.contains(&name.as_str()))
}

/// Returns the FATAL line, otherwise the last one.
fn reason(output: &[String]) -> String {
    let fatal = output.iter().find(|line| line.contains("FATAL:"));
    fatal
        .or(output.last())
        .map(|line| without_prefix(line))
        .unwrap_or_default()
}

/// Returns the message of a log line, without time and process.
fn without_prefix(line: &str) -> String {
    let at = ["FATAL:", "LOG:", "ERROR:"]
        .iter()
        .find_map(|level| Some((line.find(level)?, level.len())));
    let message = at.map_or(line, |(at, length)| &line[at + length..]);
    message.trim().to_owned()
}
