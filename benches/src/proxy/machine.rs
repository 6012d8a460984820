//! The machine that runs the benchmark, and its TCP congestion control.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use super::print_progress;

/// The properties of the machine that figures depend on.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// The processor model.
    pub processor: String,
    /// Usable CPUs.
    pub cpus: usize,
    /// Memory in GiB.
    pub memory_gib: u64,
    /// System name and release.
    pub kernel: String,
    /// Programs and the versions that they print.
    pub versions: Vec<(&'static str, String)>,
    /// The congestion control before the benchmark.
    pub congestion: String,
    /// The load average of the last minute at the start.
    pub load: String,
}

impl Machine {
    /// Reads the properties of this machine. What cannot be read stays empty.
    pub fn inspect(postgres: &Path) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or_else(String::new, |(_, name)| name.to_owned());
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let memory_kib: u64 = meminfo
            .split_whitespace()
            .nth(1)
            .and_then(|kib| kib.parse().ok())
            .unwrap_or_default();
        let kernel = |name: &str| fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
        Self {
            processor,
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: memory_kib.div_ceil(1024 * 1024),
            kernel: format!("{} {}", kernel("ostype").trim(), kernel("osrelease").trim()),
            versions: vec![
                ("stolon-proxy", our_version()),
                (
                    "PostgreSQL",
                    version_printed_by(Command::new(postgres).arg("--version")),
                ),
                ("etcd", version_printed_by(Command::new("etcd").arg("--version"))),
                ("HAProxy", version_printed_by(Command::new("haproxy").arg("-v"))),
                ("nginx", version_printed_by(Command::new("nginx").arg("-v"))),
                (
                    "PgBouncer",
                    version_printed_by(Command::new("pgbouncer").arg("--version")),
                ),
            ],
            congestion: congestion_control().unwrap_or_default(),
            load: fs::read_to_string("/proc/loadavg")
                .unwrap_or_default()
                .split_whitespace()
                .next()
                .unwrap_or_default()
                .to_owned(),
        }
    }
}

/// Returns our version, and the commit that is checked out in the working directory.
fn our_version() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let output = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    let commit = output.ok().filter(|output| output.status.success());
    commit.map_or_else(
        || version.to_owned(),
        |output| format!("{version} at {}", String::from_utf8_lossy(&output.stdout).trim()),
    )
}

/// Returns the first version number in the first line that a program prints.
fn version_printed_by(command: &mut Command) -> String {
    let Ok(output) = command.output() else {
        return String::new();
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().next().unwrap_or_default();
    let version = line
        .split([' ', '/'])
        .find(|word| word.starts_with(|first: char| first.is_ascii_digit()));
    version.unwrap_or(line).to_owned()
}

const CONGESTION_CONTROL: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

/// Returns the congestion control of new sockets (tcp(7)).
///
/// # Errors
///
/// It cannot be read.
pub fn congestion_control() -> anyhow::Result<String> {
    let text = fs::read_to_string(CONGESTION_CONTROL).with_context(|| format!("read {CONGESTION_CONTROL}"))?;
    Ok(text.trim().to_owned())
}

/// The congestion control before the benchmark. Dropping this restores it.
#[derive(Debug)]
pub struct CongestionControl {
    found: String,
    /// A file with it, for the next run, should this one be killed.
    backup: Option<PathBuf>,
}

impl CongestionControl {
    /// Saves the current setting, also in a file that the next boot removes: after a run that was killed, the next one
    /// restores it.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn save() -> anyhow::Result<Self> {
        let note = PathBuf::from("/run/stolon-bench.tcp_congestion_control");
        let found = match fs::read_to_string(&note) {
            Ok(left) => left,
            Err(_) => congestion_control()?,
        };
        // A user who may not write this file may not change the setting either.
        let note = fs::write(&note, &found).is_ok().then_some(note);
        Ok(Self { found, backup: note })
    }

    /// Returns the setting before the benchmark.
    pub fn found(&self) -> &str {
        &self.found
    }

    /// Sets the congestion control of all new sockets. The kernel loads its module if necessary.
    ///
    /// # Errors
    ///
    /// The kernel does not have it, or the user is not root.
    pub fn set(&self, name: &str) -> anyhow::Result<()> {
        if congestion_control()? == name {
            return Ok(());
        }
        fs::write(CONGESTION_CONTROL, name)
            .with_context(|| format!("write {name} to {CONGESTION_CONTROL} (needs root, and a kernel that has it)"))
    }
}

impl Drop for CongestionControl {
    fn drop(&mut self) {
        if let Err(error) = self.set(&self.found) {
            print_progress(format_args!(
                "could not restore the congestion control {}: {error:#}",
                self.found
            ));
        } else if let Some(note) = self.backup.take() {
            // The file is only needed after a kill.
            let _ = fs::remove_file(note);
        }
    }
}
