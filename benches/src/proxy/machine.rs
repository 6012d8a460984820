//! The machine that measures: what it is, and the congestion control that all its sockets share for a while.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// What figures depend on besides the programs.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// CPUs that may be used.
    pub cpus: usize,
    /// Memory in GiB.
    pub memory_gib: u64,
    /// System name and release.
    pub kernel: String,
    /// Program → version, as each tells it.
    pub versions: Vec<(&'static str, String)>,
    /// The congestion control of all runs but those that name another.
    pub congestion: String,
    /// The load average of the last minute, at the start.
    pub load: String,
}

impl Machine {
    /// Looks around. What cannot be told stays empty.
    pub fn look(postgres: &Path) -> Self {
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
                ("stolon-proxy", env!("CARGO_PKG_VERSION").to_owned()),
                ("PostgreSQL", said(Command::new(postgres).arg("--version"))),
                ("etcd", said(Command::new("etcd").arg("--version"))),
                ("HAProxy", said(Command::new("haproxy").arg("-v"))),
                ("nginx", said(Command::new("nginx").arg("-v"))),
                ("PgBouncer", said(Command::new("pgbouncer").arg("--version"))),
            ],
            congestion: congestion().unwrap_or_default(),
            load: fs::read_to_string("/proc/loadavg")
                .unwrap_or_default()
                .split_whitespace()
                .next()
                .unwrap_or_default()
                .to_owned(),
        }
    }
}

/// The first version number in the first line that a program says.
fn said(command: &mut Command) -> String {
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

const CONGESTION: &str = "/proc/sys/net/ipv4/tcp_congestion_control";
const AVAILABLE: &str = "/proc/sys/net/ipv4/tcp_available_congestion_control";

/// The congestion control of new sockets (tcp(7)).
///
/// # Errors
///
/// The kernel does not tell.
pub fn congestion() -> anyhow::Result<String> {
    let text = fs::read_to_string(CONGESTION).with_context(|| format!("read {CONGESTION}"))?;
    Ok(text.trim().to_owned())
}

/// Whether the kernel has this congestion control at hand.
pub fn has_congestion(name: &str) -> bool {
    fs::read_to_string(AVAILABLE).is_ok_and(|names| names.split_whitespace().any(|one| one == name))
}

/// The congestion control as it was found. Dropping this puts it back.
#[derive(Debug)]
pub struct Congestion {
    found: String,
    /// What puts it back should we be killed meanwhile.
    note: Option<PathBuf>,
}

impl Congestion {
    /// Remembers what is set, also in a file of the temporary directory: a run that was killed could not put it back,
    /// and the next one does.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn remember() -> anyhow::Result<Self> {
        let note = std::env::temp_dir().join("stolon-bench.tcp_congestion_control");
        let left = fs::read_to_string(&note).ok().filter(|name| has_congestion(name));
        let found = match left {
            Some(left) => left,
            None => congestion()?,
        };
        fs::write(&note, &found).with_context(|| format!("write {}", note.display()))?;
        Ok(Self {
            found,
            note: Some(note),
        })
    }

    /// Sets another one for all sockets that are made from now on.
    ///
    /// # Errors
    ///
    /// The kernel does not have it, or we are not root.
    pub fn set(&self, name: &str) -> anyhow::Result<()> {
        if congestion()? == name {
            return Ok(());
        }
        if !has_congestion(name) {
            bail!("this kernel does not offer the congestion control {name} (see {AVAILABLE})");
        }
        fs::write(CONGESTION, name).with_context(|| format!("write {name} to {CONGESTION} (that takes root)"))
    }
}

impl Drop for Congestion {
    fn drop(&mut self) {
        if let Err(error) = self.set(&self.found) {
            eprintln!("could not put back the congestion control {}: {error:#}", self.found);
        } else if let Some(note) = self.note.take() {
            // it only helps after a kill
            let _ = fs::remove_file(note);
        }
    }
}
