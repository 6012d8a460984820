//! From the environment and the command line to one parsed struct, with the manners of the reference's parser:
//! what wins, what is refused and how that is said. What the options mean is left to their structs.

use std::any::TypeId;
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::process::exit;

use clap::builder::ValueParser;
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, Command, Parser};

use super::Switch;
use crate::telemetry;

/// The version fixed at build time, or words that say there is none (cli 16).
pub const VERSION: &str = env!("STOLON_VERSION_TEXT");

/// A program's name and the prefix of its environment variables (cli O-8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    /// As it stands in the help and in `--version`.
    pub name: &'static str,
    /// `PREFIX_OPTION_NAME` is the variable of `--option-name`.
    pub prefix: &'static str,
}

/// stolon-keeper.
pub const KEEPER: Program = Program {
    name: "stolon-keeper",
    prefix: "STKEEPER",
};
/// stolon-sentinel.
pub const SENTINEL: Program = Program {
    name: "stolon-sentinel",
    prefix: "STSENTINEL",
};
/// stolon-proxy.
pub const PROXY: Program = Program {
    name: "stolon-proxy",
    prefix: "STPROXY",
};
/// stolonctl.
pub const CTL: Program = Program {
    name: "stolonctl",
    prefix: "STOLONCTL",
};

/// Options that still work, and what their notice recommends (cli 3). They are hidden from the help.
const DEPRECATED: [(&str, &str); 2] = [("debug", "use --log-level=debug instead"), ("id", "use --uid instead")];

/// The words of the daemons that belong to no option, see `DaemonArgs::ignored`.
const IGNORED: &str = "ignored";

/// What came of the arguments when they are good.
#[derive(Debug)]
pub struct Parsed<T> {
    /// What was typed, or set in the environment.
    pub args: T,
    /// Lines for standard error about deprecated options and words that are ignored.
    pub notices: Vec<String>,
}

/// Why a program does not start.
#[derive(Debug)]
pub enum Refusal {
    /// Help or the version was asked for: it goes to standard output, status 0.
    Shown(clap::Error),
    /// A usage error (cli O-6): this text on standard error, then its first line as a fatal one.
    Usage {
        /// The line `Error: ...`, hints, and the usage.
        text: String,
        /// What is wrong, in one line.
        message: String,
    },
    /// Variables whose values do not parse, the one to report first in front (cli O-12).
    Variables(String),
}

/// Merges the environment and the command line (cli 1.1, 1.2). Ends the process when there is nothing to run: status 0
/// for help and version, else 1.
///
/// Only long options of `T` itself have variables; those of its subcommands have none (cli O-10).
pub fn parse<T: Parser>(program: Program) -> T {
    let environment = |name: &str| std::env::var_os(name);
    match try_parse(program, std::env::args_os().skip(1), environment) {
        Ok(parsed) => {
            for notice in &parsed.notices {
                telemetry::complain(notice);
            }
            parsed.args
        }
        Err(Refusal::Shown(text)) => {
            let shown = if text.use_stderr() {
                telemetry::say(&text.render().to_string())
            } else {
                telemetry::reader_gone_is_fine(text.print())
            };
            match shown {
                Ok(()) => exit(0),
                Err(error) => telemetry::fatal_because("write to standard output", &error),
            }
        }
        Err(Refusal::Usage { text, message }) => {
            telemetry::complain(text.trim_end());
            telemetry::fatal(message)
        }
        Err(Refusal::Variables(message)) => telemetry::fatal(message),
    }
}

/// [`parse`] without its effects: `typed` is the command line without the program's name, `environment` looks up a
/// variable.
pub fn try_parse<T: Parser>(
    program: Program,
    typed: impl IntoIterator<Item = impl Into<OsString>>,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Parsed<T>, Refusal> {
    let mut command = command::<T>(program);
    let typed: Vec<OsString> = typed.into_iter().map(Into::into).collect();
    let from_variables = read_variables(&command, program, environment)?;
    let mut notices = notices(&command, &typed);
    let line = std::iter::once(OsString::from(program.name))
        .chain(from_variables)
        .chain(typed.iter().cloned());
    let parsed = command.try_get_matches_from_mut(line).and_then(|mut matches| {
        let ignored = matches.try_get_many::<OsString>(IGNORED).ok().flatten();
        let ignored: Vec<OsString> = ignored.into_iter().flatten().cloned().collect();
        T::from_arg_matches_mut(&mut matches).map(|args| (args, ignored))
    });
    match parsed {
        Ok((args, ignored)) => {
            let mut switches = misread_switches(&command, &typed);
            notices.extend(ignored.iter().map(|word| ignored_notice(&mut switches, word)));
            Ok(Parsed { args, notices })
        }
        Err(refused) => Err(refusal(refused, &mut command)),
    }
}

/// The clap command of `T` with the manners that all four programs share: switches as in cli O-3, the last of a
/// repeated option wins (O-5), option values may begin with a dash, `--version` without a short form.
pub fn command<T: Parser>(program: Program) -> Command {
    let version = Arg::new("version")
        .long("version")
        .action(ArgAction::Version)
        .help("Print the version")
        .help_heading(None);
    with_manners(T::command())
        .name(program.name)
        .bin_name(program.name)
        .args_override_self(true)
        .disable_version_flag(true)
        .version(concat!("version ", env!("STOLON_VERSION_TEXT")))
        .arg(version)
        .max_term_width(110)
}

fn with_manners(command: Command) -> Command {
    command
        .mut_args(|arg| {
            if is_switch(&arg) {
                arg.num_args(0..=1)
                    .require_equals(true)
                    .default_missing_value("true")
                    .value_name("BOOL")
            } else if !arg.is_positional() && arg.get_action().takes_values() {
                arg.allow_hyphen_values(true)
            } else {
                arg
            }
        })
        .mut_subcommands(with_manners)
}

fn is_switch(arg: &Arg) -> bool {
    let parser: &ValueParser = arg.get_value_parser();
    parser.type_id() == TypeId::of::<Switch>()
}

/// The options that the environment sets, as `--name=value` to stand before what was typed, so that the command line
/// wins (cli O-9); in alphabetical order, so that `STKEEPER_UID` beats `STKEEPER_ID` (O-13).
fn read_variables(
    command: &Command,
    program: Program,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Vec<OsString>, Refusal> {
    let mut names: Vec<String> = command
        .get_arguments()
        .filter(|arg| arg.get_action().takes_values())
        .flat_map(|arg| arg.get_long().into_iter().chain(aliases(arg)))
        .map(str::to_owned)
        .collect();
    names.sort();
    names.dedup();
    let mut options = Vec::new();
    let mut faults = Vec::new();
    for name in names {
        let variable = format!("{}_{}", program.prefix, name.to_uppercase().replace('-', "_"));
        let Some(value) = environment(&variable).filter(|value| !value.is_empty()) else {
            continue;
        };
        let mut option = OsString::from(format!("--{name}="));
        option.push(&value);
        match value_fault(command, program, &option) {
            Some(reason) => faults.push(variable_fault(&variable, &value, &reason)),
            None => options.push(option),
        }
    }
    faults.reverse(); // cli O-12: the alphabetically last one first
    if faults.is_empty() {
        Ok(options)
    } else {
        Err(Refusal::Variables(faults.join("; ")))
    }
}

fn aliases(arg: &Arg) -> impl Iterator<Item = &str> {
    arg.get_all_aliases().unwrap_or_default().into_iter()
}

/// A text can only be wrong by not being UTF-8, and it may be a password: then the value is not told.
fn variable_fault(variable: &str, value: &OsStr, reason: &str) -> String {
    match value.to_str() {
        Some(value) => format!("invalid value {value:?} for environment variable {variable}: {reason}"),
        None => format!("invalid value for environment variable {variable}: it is not UTF-8"),
    }
}

/// What is wrong with the value of this one option, by itself.
fn value_fault(command: &Command, program: Program, option: &OsString) -> Option<String> {
    let alone = [OsString::from(program.name), option.clone()];
    let refused = command.clone().try_get_matches_from(alone).err()?;
    match refused.kind() {
        ErrorKind::InvalidValue | ErrorKind::ValueValidation | ErrorKind::InvalidUtf8 => {
            let reason = refused.source().map(ToString::to_string);
            Some(reason.unwrap_or_else(|| refused.kind().to_string()))
        }
        _ => None, // something else is missing, which is looked at when all is together
    }
}

/// One line for each deprecated option on the command line; the environment gives none (cli O-11).
fn notices(command: &Command, typed: &[OsString]) -> Vec<String> {
    let known = |name: &str| {
        command
            .get_arguments()
            .any(|arg| arg.is_hide_set() && arg.get_long() == Some(name) || aliases(arg).any(|alias| alias == name))
    };
    let is_typed = |name: &str| {
        let options = typed
            .iter()
            .filter_map(|word| word.to_str())
            .take_while(|word| *word != "--");
        options
            .filter_map(|word| word.strip_prefix("--"))
            .any(|word| word.split('=').next() == Some(name))
    };
    DEPRECATED
        .iter()
        .filter(|(name, _)| known(name) && is_typed(name))
        .map(|(name, hint)| format!("Flag --{name} has been deprecated, {hint}"))
        .collect()
}

/// Switches with a word behind them that was meant as their value, and is none (cli O-3).
fn misread_switches<'a>(command: &Command, typed: &'a [OsString]) -> Vec<(&'a str, &'a str)> {
    let is_named = |name: &str| {
        command
            .get_arguments()
            .any(|arg| arg.get_long() == Some(name) && is_switch(arg))
    };
    let pairs = typed
        .windows(2)
        .filter_map(|pair| Some((pair[0].to_str()?.strip_prefix("--")?, pair[1].to_str()?)));
    pairs
        .filter(|(name, word)| is_named(name) && word.parse::<Switch>().is_ok())
        .collect()
}

/// One line for a word that a daemon ignores (cli O-7); takes the switch away that it explains.
fn ignored_notice(switches: &mut Vec<(&str, &str)>, word: &OsStr) -> String {
    match switches.iter().position(|(_, value)| *value == word) {
        Some(at) => {
            let (name, value) = switches.remove(at);
            format!(
                "WARNING: ignored, since a switch takes no separate value: {value:?} after --{name}; write \
                 --{name}={value}"
            )
        }
        None => format!("WARNING: ignored, since it belongs to no option: {word:?}"),
    }
}

fn refusal(refused: clap::Error, command: &mut Command) -> Refusal {
    match refused.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Refusal::Shown(refused)
        }
        _ => {
            let text = refused.render().to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
            let message = text.lines().next().unwrap_or_default().to_owned();
            // The parser shows the usage for unknown options, but not for bad values.
            let usage = if text.contains("Usage: ") {
                String::new()
            } else {
                format!("\n\n{}", command.render_usage())
            };
            Refusal::Usage {
                text: format!("Error: {text}{usage}"),
                message,
            }
        }
    }
}

#[cfg(test)]
mod tests;
