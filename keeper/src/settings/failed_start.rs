//! A server that ended instead of starting: what of its configuration is to blame.

use std::collections::BTreeMap;

use crate::settings::{HeldBack, HeldBackHba, Refusals, RefusedParameter, Settings};

/// What never goes back: where the server is, which it also gets on its command line, and the room for slots, which may
/// not be smaller than what lies in the data directory.
const NEVER_REVERTED: [&str; 4] = [
    "listen_addresses",
    "max_replication_slots",
    "port",
    "unix_socket_directories",
];

/// A start that failed.
#[derive(Debug, Clone, Copy)]
pub struct FailedStart<'a> {
    /// What is wanted.
    pub wanted: &'a Settings,
    /// What of it the server was given.
    pub tried: &'a Settings,
    /// With what a server last started; before the first time, what the keeper sets itself.
    pub base: &'a Settings,
    /// A server has started with the base.
    pub is_base_proven: bool,
    /// The user's lines that a server last took, at a start or a reload.
    pub last_hba: &'a Option<Vec<String>>,
    /// The lines of `pg_hba.conf`.
    pub hba_file: &'a [String],
    /// The last lines that the server printed.
    pub output: &'a [String],
}

/// What came of looking for the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartDiagnosis {
    /// Something was found: a start with less is worth a try.
    Configuration,
    /// It is not the configuration, as far as is known: the same is worth another try.
    Unknown,
}

/// How often the same set is tried before all of it is held back on no more than suspicion, where no server has started
/// with less: full disks and shared memory in use pass.
const TRIES_MAX: u32 = 3;

impl Refusals {
    /// Finds what of a configuration kept a server from starting: what it named, else all that it has not started with
    /// before. Each call blames something new, or ends with [`Blame::Nothing`].
    pub fn diagnose_start(&mut self, attempt: &FailedStart<'_>) -> StartDiagnosis {
        if self.refuse_named_lines(attempt) {
            return StartDiagnosis::Configuration;
        }
        let differ: Vec<&String> = differing(attempt).collect();
        let named: Vec<&String> = differ.iter().copied().filter(|name| is_named(name, attempt)).collect();
        // Lines that a reload has proven are never taken back: somebody may have been locked out by it.
        let is_held = self.held_back.as_ref().is_some_and(|held| held.hba.is_some());
        let other_hba = !is_held && attempt.tried.hba != *attempt.last_hba && may_be_hba(attempt.output);
        if differ.is_empty() && !other_hba {
            // Nothing was proven by the starts before this one.
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
        let is_suspect = named.is_empty() && differ.len() > 1;
        let (names, hba) = match (named.is_empty(), names_hba(attempt.output)) {
            (true, true) if other_hba => (Vec::new(), true),
            (true, _) => (differ, other_hba),
            (false, _) => (named, false),
        };
        self.hold_back(attempt, &names, is_suspect, hba);
        StartDiagnosis::Configuration
    }

    /// Counts the failures of one set.
    fn is_retry_limit_reached(&mut self, attempt: &FailedStart<'_>) -> bool {
        let before = self.failed.take().filter(|(set, _)| set == attempt.tried);
        let count = before.map_or(0, |(_, count)| count) + 1;
        self.failed = (count < TRIES_MAX).then(|| (attempt.tried.clone(), count));
        count >= TRIES_MAX
    }

    /// Holds these parameters back, and with `hba` the user's lines too.
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

    /// Lines that the server named by their number (hba.c: `line %d of configuration file "%s"`).
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
            let is_user_s = |text: &&String| attempt.tried.hba.iter().flatten().any(|line| line == *text);
            let Some(text) = text.filter(|text| !self.refuses_line(text)) else {
                continue;
            };
            let found = if is_user_s(&text) { &mut of_user } else { &mut own };
            found.push((text.clone(), message.clone()));
        }
        let any = !(of_user.is_empty() && own.is_empty());
        self.refuse_lines(of_user);
        self.refuse_own_lines(own);
        any
    }
}

fn names_hba(output: &[String]) -> bool {
    let is_of_end = |line: &&String| line.contains("FATAL:") || line.contains("of configuration file");
    output.iter().filter(is_of_end).any(|line| line.contains("pg_hba.conf"))
}

/// Whether the lines may have ended the server: it names the file, or its reason is not known (with a logging collector
/// its output ends before the reason).
fn may_be_hba(output: &[String]) -> bool {
    let has_reason = output
        .iter()
        .any(|line| ["FATAL:", "PANIC:"].iter().any(|level| line.contains(level)));
    !has_reason || names_hba(output)
}

/// Whether what ended the server names this parameter, or a part of its value, such as a library that is not there.
fn is_named(name: &str, attempt: &FailedStart<'_>) -> bool {
    const TELLING: [&str; 5] = ["FATAL:", "PANIC:", "DETAIL:", "HINT:", "ERROR:"];
    // Of a shorter one nearly every value holds an example.
    const QUOTED_BYTES_MIN: usize = 3;
    let value = attempt.tried.parameters.get(name).map_or("", String::as_str);
    let lines = attempt
        .output
        .iter()
        .filter(|line| TELLING.iter().any(|level| line.contains(level)));
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

/// The names of the parameters that the server was given otherwise than in the base.
fn differing<'a>(attempt: &FailedStart<'a>) -> impl Iterator<Item = &'a String> {
    let (tried, base) = (&attempt.tried.parameters, &attempt.base.parameters);
    let names = tried
        .keys()
        .chain(base.keys().filter(|name| !tried.contains_key(*name)));
    names.filter(|name| tried.get(*name) != base.get(*name) && !NEVER_REVERTED.contains(&name.as_str()))
}

/// The line that tells the end of a server, else the last one.
fn reason(output: &[String]) -> String {
    let fatal = output.iter().find(|line| line.contains("FATAL:"));
    fatal
        .or(output.last())
        .map(|line| without_prefix(line))
        .unwrap_or_default()
}

/// The message of a line of the server's log, without time and process.
fn without_prefix(line: &str) -> String {
    let at = ["FATAL:", "LOG:", "ERROR:"]
        .iter()
        .find_map(|level| Some((line.find(level)?, level.len())));
    let message = at.map_or(line, |(at, length)| &line[at + length..]);
    message.trim().to_owned()
}
