//! Compares stolon-proxy with HAProxy, nginx and PgBouncer in front of the same servers.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use benches::interruption::until_signal;
use benches::proxy::loads::{self, Load};
use benches::proxy::machine::{CongestionControl, Machine};
use benches::proxy::peers::Peer;
use benches::proxy::report::table::LEGEND;
use benches::proxy::report::{json, markdown, plot, table};
use benches::proxy::size::Size;
use benches::proxy::targets::evaluate;
use benches::proxy::testbed::{Testbed, server_program};
use benches::proxy::{Results, measure, plain_server, print_progress, print_result};
use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Compare stolon-proxy with HAProxy, nginx and PgBouncer in front of the same PostgreSQL
///
/// Needs root: it sets the machine's TCP congestion control, and restores it at the end. Prints a table after each
/// load, and the targets at the end.
#[derive(Debug, Parser)]
struct Args {
    /// Small loads and few rounds, to see that everything works
    #[arg(long)]
    quick: bool,
    /// Rounds of every load [default: 8, and 14 for loads in which the peers are close; 2 with --quick]
    #[arg(long, value_name = "ROUNDS", value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: Option<u16>,
    /// Only loads whose names begin like this (repeatable): --load=bulk
    #[arg(long = "load", value_name = "NAME")]
    loads: Vec<String>,
    /// Only this peer (repeatable; all are started): direct, haproxy, haproxy-tuned, nginx,
    /// pgbouncer, stolon-proxy, stolon-proxy-2-threads, stolon-proxy-scraped, stolon-proxy-before
    #[arg(long = "peer", value_name = "NAME")]
    peers: Vec<String>,
    /// Compare with this stolon-proxy of another build, and with nothing else unless --peer is given; it is the peer
    /// stolon-proxy-before
    #[arg(long, value_name = "PROGRAM")]
    before: Option<PathBuf>,
    /// List the loads and exit
    #[arg(long)]
    list: bool,
    /// Write RESULTS.md, RESULTS.json and RESULTS.svg to this directory
    #[arg(long, value_name = "DIRECTORY", conflicts_with_all = ["peers", "before"])]
    write: Option<PathBuf>,
    /// Write every value of every round to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[arg(long, hide = true, value_name = "PORT AND NAME")]
    serve_plain: Option<String>,
}

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_progress(format_args!("bench-proxy: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn start() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some(what) = &args.serve_plain {
        return plain_server::serve(what);
    }
    let mut size = if args.quick { Size::quick() } else { Size::full() };
    if let Some(rounds) = args.rounds {
        (size.rounds, size.close_rounds) = (rounds.into(), rounds.into());
    }
    let peers = peers(&args.peers, args.before.is_some())?;
    let args = Args {
        before: args.before.as_deref().map(program).transpose()?,
        ..args
    };
    let mut chosen = chosen(&args.loads)?;
    chosen.retain(|load| load.peers().iter().any(|peer| peers.contains(peer)));
    if chosen.is_empty() {
        bail!("--peer: none of them can carry such a load");
    }
    if let Some(dir) = args.write.as_ref().filter(|dir| !dir.is_dir()) {
        bail!("--write={}: there is no such directory", dir.display());
    }
    if let Some(path) = &args.json {
        std::fs::write(path, "{}").with_context(|| format!("--json={}", path.display()))?;
    }
    if args.list {
        for load in chosen {
            print_result(format_args!("{:20} {}", load.name, load.title(&size)));
        }
        return Ok(());
    }
    // Thousands of connections, here and in child processes.
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).context("raise the limit of open files")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("make a runtime")?;
    runtime.block_on(until_signal(run(&args, &size, &chosen, &peers)))
}

fn chosen(names: &[String]) -> anyhow::Result<Vec<Load>> {
    for name in names {
        if name.is_empty() || !loads::ALL.iter().any(|load| load.name.starts_with(name.as_str())) {
            let all: Vec<&str> = loads::ALL.iter().map(|load| load.name).collect();
            bail!("--load={name}: the loads are {}", all.join(", "));
        }
    }
    let wanted = |load: &&Load| names.is_empty() || names.iter().any(|name| load.name.starts_with(name.as_str()));
    Ok(loads::ALL.iter().filter(wanted).copied().collect())
}

/// Returns the peers of these names; without names, this build and the one before if there is one, else all but that.
fn peers(names: &[String], has_before: bool) -> anyhow::Result<Vec<Peer>> {
    let peer = |name: &String| {
        let found = Peer::ALL.into_iter().find(|peer| peer.name() == name);
        found.with_context(|| format!("--peer={name}: the peers are {}", Peer::ALL.map(Peer::name).join(", ")))
    };
    let chosen: Vec<Peer> = match (names, has_before) {
        ([], true) => vec![Peer::Stolon, Peer::StolonBefore],
        ([], false) => Peer::ALL
            .into_iter()
            .filter(|peer| *peer != Peer::StolonBefore)
            .collect(),
        _ => names.iter().map(peer).collect::<anyhow::Result<_>>()?,
    };
    if chosen.contains(&Peer::StolonBefore) && !has_before {
        bail!("--peer={}: --before names its program", Peer::StolonBefore.name());
    }
    Ok(chosen)
}

/// Returns the absolute path of the program of `--before`, which is run from another directory.
fn program(path: &Path) -> anyhow::Result<PathBuf> {
    let path = path
        .canonicalize()
        .with_context(|| format!("--before={}", path.display()))?;
    if !path.is_file() {
        bail!("--before={}: not a program", path.display());
    }
    Ok(path)
}

async fn run(args: &Args, size: &Size, chosen: &[Load], peers: &[Peer]) -> anyhow::Result<()> {
    let mut machine = Machine::inspect(&server_program());
    for (name, version) in &machine.versions {
        if version.is_empty() {
            bail!("{name} is not installed: scripts/install-deps bench, as root");
        }
    }
    let congestion = CongestionControl::save()?;
    machine.congestion = congestion.found().to_owned();
    // Fails now, not in half an hour, when one of them cannot be set.
    for load in chosen.iter().rev() {
        congestion.set(load.congestion())?;
    }
    print_progress("starting PostgreSQL, etcd and the proxies");
    let mut testbed = Box::pin(Testbed::start(size, args.before.clone())).await?;
    let mut results = Results {
        machine,
        size: size.clone(),
        rows: Vec::new(),
    };
    let mut failed = Vec::new();
    for load in chosen {
        // The figures of the other loads are kept when one fails.
        match measure(*load, peers, &mut testbed, size, &congestion, print_progress).await {
            Ok(row) => {
                print_result(format_args!(
                    "\n{}: {}; {LEGEND}\n\n{}",
                    row.load,
                    row.title,
                    table::row(&row)
                ));
                results.rows.push(row);
            }
            Err(error) => {
                print_progress(format_args!("bench-proxy: {error:#}"));
                failed.push(load.name);
            }
        }
    }
    let target_results = evaluate(&results.rows);
    if !target_results.is_empty() {
        print_result(format_args!(
            "\n{}\n{}",
            table::targets(&target_results),
            table::TARGETS_LEGEND
        ));
    }
    write_results(args, &results)?;
    if failed.is_empty() {
        Ok(())
    } else {
        bail!("these loads failed: {}", failed.join(", "))
    }
}

/// Writes the files that the options ask for.
fn write_results(args: &Args, results: &Results) -> anyhow::Result<()> {
    let as_json = || serde_json::to_string_pretty(&json::json(results)).context("write JSON");
    if let Some(path) = &args.json {
        std::fs::write(path, as_json()?).with_context(|| format!("write {}", path.display()))?;
    }
    if let Some(dir) = &args.write {
        for (name, text) in [
            ("RESULTS.md", markdown::page(results, "RESULTS.svg")),
            ("RESULTS.json", as_json()?),
            ("RESULTS.svg", plot::svg(&results.rows)),
        ] {
            let path = dir.join(name);
            std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_selected_by_its_whole_name() {
        assert_eq!(peers(&["haproxy".to_owned()], false).unwrap(), [Peer::Haproxy]);
        let error = peers(&["hap".to_owned()], false).unwrap_err().to_string();
        assert!(
            error.starts_with("--peer=hap: ") && error.contains("haproxy-tuned"),
            "{error}"
        );
        let all = peers(&[], false).unwrap();
        assert_eq!(all.len(), Peer::ALL.len() - 1);
        assert!(!all.contains(&Peer::StolonBefore));
    }

    #[test]
    fn another_build_is_compared_with_this_one_alone() {
        assert_eq!(peers(&[], true).unwrap(), [Peer::Stolon, Peer::StolonBefore]);
        let error = peers(&["stolon-proxy-before".to_owned()], false).unwrap_err();
        assert!(error.to_string().contains("--before"), "{error}");
    }

    #[test]
    fn help_names_every_peer() {
        let help = <Args as clap::CommandFactory>::command().render_long_help().to_string();
        let words: Vec<&str> = help.split([' ', ',', '\n']).collect();
        assert!(Peer::ALL.iter().all(|peer| words.contains(&peer.name())), "{help}");
    }
}
