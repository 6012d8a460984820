//! Writes the man pages and shell completions of the four programs into a directory, in the layout of a Debian package.
//! They are made from the options that the programs parse, so they cannot differ from them. Which documents, dashboards and
//! rules are packaged, and where, is in `documents`.

#![forbid(unsafe_code)]

mod documents;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use daemon::args::{CTL, KEEPER, PROXY, SENTINEL, command};

/// Generate man pages and shell completions, and copy documents, dashboards and rules.
#[derive(Debug, clap::Parser)]
struct Args {
    /// Directory to write into, created if missing; existing files are replaced
    directory: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let args: Args = clap::Parser::parse();
    write_all(&args.directory)?;
    documents::write_all(&args.directory)
}

/// Returns the programs and the sections of their pages: 8 is for daemons and administration, 1 for what users run
/// (man-pages(7)).
fn programs() -> [(Command, &'static str); 4] {
    [
        (command::<keeper::args::Args>(KEEPER), "8"),
        (command::<sentinel::args::Args>(SENTINEL), "8"),
        (command::<proxy::args::Args>(PROXY), "8"),
        (command::<ctl::Args>(CTL), "1"),
    ]
}

fn write_all(directory: &Path) -> anyhow::Result<()> {
    for (program, section) in programs() {
        write_completions(&program, &directory.join("completions"))?;
        write_pages(program, section, &directory.join("man"))?;
    }
    Ok(())
}

/// Writes the page of a program and one for each of its commands that are in the help.
fn write_pages(mut program: Command, section: &str, directory: &Path) -> anyhow::Result<()> {
    program.build(); // global options get into the commands, which get their full names
    write_page_and_below(&program, section, directory)
}

fn write_page_and_below(command: &Command, section: &str, directory: &Path) -> anyhow::Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let mut page = Vec::new();
    Man::new(command.clone())
        .section(section)
        .title(name.to_uppercase())
        .source("stolon")
        .manual("stolon manual")
        .render(&mut page)
        .with_context(|| format!("render the page of {name}"))?;
    write_file(directory, &format!("{name}.{section}"), &page)?;
    let shown = command
        .get_subcommands()
        .filter(|below| !below.is_hide_set() && below.get_name() != "help");
    for below in shown {
        write_page_and_below(below, section, directory)?;
    }
    Ok(())
}

/// Writes one file for each shell, named as the shell searches for it.
fn write_completions(program: &Command, directory: &Path) -> anyhow::Result<()> {
    let name = program.get_name();
    let files = [
        (Shell::Bash, "bash", name.to_owned()),
        (Shell::Zsh, "zsh", format!("_{name}")),
        (Shell::Fish, "fish", format!("{name}.fish")),
    ];
    for (shell, below, file) in files {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut program.clone(), name, &mut script);
        write_file(&directory.join(below), &file, &script)?;
    }
    Ok(())
}

fn write_file(directory: &Path, name: &str, text: &[u8]) -> anyhow::Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    let path = directory.join(name);
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visible_options(command: &Command) -> impl Iterator<Item = &str> {
        let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
        shown.filter_map(|arg| arg.get_long())
    }

    #[test]
    fn every_option_in_the_help_is_in_the_page_and_the_completions() {
        let directory = tempfile::tempdir().unwrap();
        write_all(directory.path()).unwrap();
        for (program, section) in programs() {
            let name = program.get_name();
            let read = |path: &str| fs::read_to_string(directory.path().join(path)).unwrap();
            let page = read(&format!("man/{name}.{section}")).replace('\\', "");
            let completions = read(&format!("completions/bash/{name}"));
            for option in visible_options(&program) {
                assert!(
                    page.contains(&format!("--{option}")),
                    "{name}: no --{option} in its page"
                );
                assert!(
                    completions.contains(&format!("--{option}")),
                    "{name}: --{option} is not completed"
                );
            }
        }
        assert!(directory.path().join("man/stolonctl-clusterdata-write.1").exists());
        assert!(directory.path().join("man/stolonctl-switchover.1").exists());
    }

    #[test]
    fn every_variable_of_the_example_is_an_option() {
        let example = include_str!("../stolon.env.example");
        let mut checked = 0;
        for line in example.lines() {
            let Some((variable, _)) = line.trim_start_matches('#').split_once('=') else {
                continue;
            };
            let Some((prefix, name)) = variable.split_once('_').filter(|(prefix, _)| prefix.starts_with("ST")) else {
                continue;
            };
            let option = name.to_lowercase().replace('_', "-");
            let program = [KEEPER, SENTINEL, PROXY, CTL]
                .into_iter()
                .find(|program| program.prefix == prefix);
            let program = program.unwrap_or_else(|| panic!("{variable}: no program has this prefix"));
            let commands = programs();
            let (command, _) = commands
                .iter()
                .find(|(command, _)| command.get_name() == program.name)
                .unwrap();
            assert!(
                visible_options(command).any(|known| known == option),
                "{variable} is not an option"
            );
            checked += 1;
        }
        assert!(checked > 15, "{checked} variables");
    }
}
