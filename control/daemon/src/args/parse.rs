//! Parses environment and command line into one struct, with the rules of Go stolon's parser for precedence and errors.
//! The meaning of the options is left to their structs.

use std::any::TypeId;
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::process::exit;

use base::printable;
use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command, Parser};

use super::{COMMON, Switch};
use crate::telemetry;

/// A program's name and the prefix of its environment variables (cli O-8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    /// As shown in the help and by `--version`.
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

/// Deprecated options with the hint of their notice (cli 3). They are hidden from the help.
const DEPRECATED: [(&str, &str); 2] = [("debug", "use --log-level=debug instead"), ("id", "use --uid instead")];

/// Help of the options of daemons that `stolonctl` accepts, because Go stolon does (cli 2).
const NO_EFFECT: &str = "Accepted for compatibility, no effect";
/// The same for the option that one command of `stolonctl` uses.
const EFFECT_IN_REGISTER: &str = "Accepted for compatibility, no effect except in register [default: info]";

/// The positional arguments that daemons ignore, see `DaemonArgs::ignored`.
const IGNORED_ARG: &str = "ignored";

/// Successfully parsed arguments.
#[derive(Debug)]
pub struct ParsedArgs<T> {
    /// The arguments, from command line and environment.
    pub args: T,
    /// Lines for standard error about deprecated options and ignored arguments.
    pub notices: Vec<String>,
}

/// Why a program exits instead of running.
#[derive(Debug)]
pub enum ArgsError {
    /// Help or the version was requested: printed to standard output, exit status 0.
    HelpOrVersion(clap::Error),
    /// A usage error (cli O-6): the text is printed to standard error, then a daemon logs its first line as fatal.
    Usage {
        /// The line `Error: ...`, hints, and the usage.
        text: String,
        /// The error, on one line.
        message: String,
    },
    /// Environment variables with invalid values, the one to report first in front (cli O-12).
    Environment(String),
}

/// Parses environment and command line (cli 1.1, 1.2). Exits if there is nothing to run: with status 0 for help and
/// version, else 1.
///
/// Only long options of `T` itself have environment variables; those of subcommands have none (cli O-10).
pub fn parse<T: Parser>(program: Program) -> T {
    let environment = |name: &str| std::env::var_os(name);
    match try_parse(program, std::env::args_os().skip(1), environment) {
        Ok(parsed) => {
            for notice in &parsed.notices {
                telemetry::print_stderr(notice);
            }
            parsed.args
        }
        Err(ArgsError::HelpOrVersion(text)) => {
            let shown = if text.use_stderr() {
                telemetry::print_stdout(&text.render().to_string())
            } else {
                telemetry::ignore_broken_pipe(text.print())
            };
            match shown {
                Ok(()) => exit(0),
                Err(error) => telemetry::fatal_error("write to standard output", &error),
            }
        }
        Err(ArgsError::Usage { text, message }) => {
            telemetry::print_stderr(text.trim_end());
            if program == CTL {
                exit(1) // it has no log (cli O-6)
            }
            telemetry::fatal(message)
        }
        Err(ArgsError::Environment(message)) if program == CTL => {
            telemetry::print_stderr(format_args!("Error: {message}"));
            exit(1)
        }
        Err(ArgsError::Environment(message)) => telemetry::fatal(message),
    }
}

/// [`parse`] without side effects: `typed` is the command line without the program's name, `environment` looks up a
/// variable.
pub fn try_parse<T: Parser>(
    program: Program,
    typed: impl IntoIterator<Item = impl Into<OsString>>,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<ParsedArgs<T>, ArgsError> {
    let mut command = command::<T>(program);
    let typed: Vec<OsString> = typed.into_iter().map(Into::into).collect();
    let from_variables = read_variables(&command, program, environment)?;
    let mut notices = notices(&command, &typed);
    let line = std::iter::once(OsString::from(program.name))
        .chain(from_variables)
        .chain(typed.iter().cloned());
    let parsed = command.try_get_matches_from_mut(line).and_then(|mut matches| {
        let ignored = matches.try_get_many::<OsString>(IGNORED_ARG).ok().flatten();
        let ignored: Vec<OsString> = ignored.into_iter().flatten().cloned().collect();
        T::from_arg_matches_mut(&mut matches).map(|args| (args, ignored))
    });
    match parsed {
        Ok((args, ignored)) => {
            let mut switches = switches_with_separate_value(&command, &typed);
            notices.extend(ignored.iter().map(|word| ignored_notice(&mut switches, word)));
            Ok(ParsedArgs { args, notices })
        }
        Err(error) => Err(into_args_error(error, typed_command(&mut command, &typed))),
    }
}

/// Returns the clap command of `T` with the settings that all four programs share: switches as in cli O-3, the last of
/// a repeated option wins (O-5), option values may begin with a dash, `--version` without a short form.
pub fn command<T: Parser>(program: Program) -> Command {
    let version = Arg::new("version")
        .long("version")
        .action(ArgAction::Version)
        .help("Print the version")
        .help_heading(None);
    let command = with_parser_settings(T::command())
        .mut_args(|arg| match arg.get_id().as_str() {
            "log_level" if program == CTL => arg.help(EFFECT_IN_REGISTER),
            "metrics_listen_address" if program == CTL => arg.help(NO_EFFECT),
            _ => arg,
        })
        .name(program.name)
        .bin_name(program.name)
        .args_override_self(true)
        .disable_version_flag(true)
        .version(concat!("version ", env!("STOLON_VERSION_TEXT")))
        .arg(version)
        .max_term_width(110);
    without_common_options(command, "playground")
}

/// Hides the common options from the help of a subcommand that uses none of them.
fn without_common_options(mut command: Command, subcommand: &str) -> Command {
    if command.find_subcommand(subcommand).is_none() {
        return command;
    }
    command.build(); // this adds the common options to the subcommands
    command.mut_subcommand(subcommand, |unneeded| {
        unneeded.mut_args(|arg| {
            let is_common = arg.get_help_heading() == Some(COMMON);
            arg.hide(is_common)
        })
    })
}

fn with_parser_settings(command: Command) -> Command {
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
        .mut_subcommands(with_parser_settings)
}

fn is_switch(arg: &Arg) -> bool {
    let parser: &ValueParser = arg.get_value_parser();
    parser.type_id() == TypeId::of::<Switch>()
}

/// Returns the options that the environment sets, as `--name=value`. They are placed before the command line, which
/// therefore wins (cli O-9), in alphabetical order, so that `STKEEPER_UID` wins over `STKEEPER_ID` (O-13).
fn read_variables(
    command: &Command,
    program: Program,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Vec<OsString>, ArgsError> {
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
        match value_error(command, program, &option) {
            Some(reason) => faults.push(variable_error(&variable, &value, &reason)),
            None => options.push(option),
        }
    }
    faults.reverse(); // cli O-12: the alphabetically last one first
    if faults.is_empty() {
        Ok(options)
    } else {
        Err(ArgsError::Environment(faults.join("; ")))
    }
}

fn aliases(arg: &Arg) -> impl Iterator<Item = &str> {
    arg.get_all_aliases().unwrap_or_default().into_iter()
}

/// Returns the message for an invalid variable. A string option can only be invalid by not being UTF-8, and it may be a
/// password, so its value is not shown.
fn variable_error(variable: &str, value: &OsStr, reason: &str) -> String {
    match value.to_str() {
        Some(value) => format!("invalid value {value:?} for environment variable {variable}: {reason}"),
        None => format!("invalid value for environment variable {variable}: it is not UTF-8"),
    }
}

/// Returns why the value of this one option is invalid, if it is.
fn value_error(command: &Command, program: Program, option: &OsString) -> Option<String> {
    let alone = [OsString::from(program.name), option.clone()];
    let error = command.clone().try_get_matches_from(alone).err()?;
    match error.kind() {
        ErrorKind::InvalidValue | ErrorKind::ValueValidation | ErrorKind::InvalidUtf8 => {
            let reason = error.source().map(ToString::to_string);
            Some(reason.unwrap_or_else(|| error.kind().to_string()))
        }
        _ => None, // other errors are reported when all arguments are parsed together
    }
}

/// Returns a notice for each deprecated option on the command line; none for the environment (cli O-11).
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

/// Returns switches followed by an argument that was meant as their value (cli O-3).
fn switches_with_separate_value<'a>(command: &Command, typed: &'a [OsString]) -> Vec<(&'a str, &'a str)> {
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

/// Returns the notice for an ignored argument (cli O-7), and removes the switch that it belongs to from `switches`.
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

/// Returns the command that is typed, for its usage: the last subcommand. A value that is a command's name counts, too.
fn typed_command<'a>(mut command: &'a mut Command, typed: &[OsString]) -> &'a mut Command {
    for word in typed {
        if command.find_subcommand(word).is_some() {
            command = command.find_subcommand_mut(word).expect("it was found just now");
        }
    }
    command
}

/// Removes clap's tip to pass an unknown option after `--`: no argument of ours begins with a dash. Tips have no kind, so its
/// text is matched; a test fails if clap changes it.
fn without_escape_tip(mut error: clap::Error) -> clap::Error {
    if let Some(ContextValue::StyledStrs(mut tips)) = error.remove(ContextKind::Suggested) {
        tips.retain(|tip| !tip.to_string().contains("as a value"));
        if !tips.is_empty() {
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
        }
    }
    error
}

fn into_args_error(error: clap::Error, command: &mut Command) -> ArgsError {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            ArgsError::HelpOrVersion(error)
        }
        _ => {
            // The parser repeats what was typed, which may hold control characters.
            let text = without_escape_tip(error).render().to_string();
            let lines: Vec<_> = text.lines().map(printable).collect();
            let text = lines.join("\n");
            let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
            let message = text.lines().next().unwrap_or_default().to_owned();
            // The parser shows the usage for unknown options, but not for bad values.
            let usage = if text.contains("Usage: ") {
                String::new()
            } else {
                format!("\n\n{}", command.render_usage())
            };
            ArgsError::Usage {
                text: format!("Error: {text}{usage}"),
                message,
            }
        }
    }
}

#[cfg(test)]
mod tests;
