//! PostgreSQL's programs: where they are installed, and directories in which scripts take the place of the real ones.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::Cluster;

/// Returns the directory of PostgreSQL's programs that has this one: as the keeper chooses it, the directory behind the
/// first `postgres` on `PATH`, else the newest of Debian's; else the first on `PATH` that has the program.
pub fn directory(program: &str) -> Option<PathBuf> {
    let has_program = |dir: &PathBuf| dir.join(program).exists();
    let in_path = |name: &str| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).find(|dir| dir.join(name).exists())
    };
    let behind_postgres = || {
        let resolved = fs::canonicalize(in_path("postgres")?.join("postgres")).ok()?;
        Some(resolved.parent()?.to_owned())
    };
    let newest = || {
        let versions = fs::read_dir("/usr/lib/postgresql").ok()?.filter_map(|version| {
            let version = version.ok()?.path();
            let number: u32 = version.file_name()?.to_str()?.parse().ok()?;
            Some((number, version.join("bin")))
        });
        let complete = versions.filter(|(_, dir)| has_program(dir));
        complete.max().map(|(_, dir)| dir)
    };
    behind_postgres()
        .filter(has_program)
        .or_else(newest)
        .or_else(|| in_path(program))
}

/// Returns the major of PostgreSQL that the tests run with.
///
/// # Panics
///
/// It is not installed, or does not print its version.
pub fn major() -> u32 {
    let postgres = directory("postgres").expect("PostgreSQL is installed").join("postgres");
    let printed = Command::new(&postgres).arg("-V").output().expect("postgres runs");
    // postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)
    let printed = String::from_utf8_lossy(&printed.stdout);
    let digits = printed
        .split_once("(PostgreSQL) ")
        .map(|(_, rest)| rest.chars().take_while(char::is_ascii_digit));
    let major = digits.and_then(|digits| digits.collect::<String>().parse().ok());
    major.unwrap_or_else(|| panic!("postgres -V printed {printed:?}"))
}

/// Makes a directory of this name with a script for each of PostgreSQL's programs, and lets a stopped keeper use it.
/// `script` returns the text of a script for a program's name and path.
///
/// # Panics
///
/// The directory exists, or PostgreSQL is not installed.
pub fn wrap(cluster: &mut Cluster, uid: &str, name: &str, script: impl Fn(&str, &Path) -> String) {
    let real = directory("postgres").expect("PostgreSQL is installed");
    let dir = cluster.dir().path().join(name);
    fs::create_dir(&dir).expect("a fresh directory takes a subdirectory");
    for entry in fs::read_dir(&real).expect("the programs can be listed") {
        let program = entry.expect("the programs can be listed").file_name();
        let program = program.to_string_lossy();
        let path = dir.join(&*program);
        fs::write(&path, script(&program, &real.join(&*program))).expect("our own directory");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("our own file");
    }
    use_dir(cluster, uid, &dir);
}

/// Lets a stopped keeper use the programs of this directory.
pub fn use_dir(cluster: &mut Cluster, uid: &str, dir: &Path) {
    use_default(cluster, uid);
    let option = format!("--pg-bin-path={}", dir.display());
    cluster.program(uid).options.push(option);
}

/// Lets a stopped keeper use the installed programs again.
pub fn use_default(cluster: &mut Cluster, uid: &str) {
    let options = &mut cluster.program(uid).options;
    options.retain(|option| !option.starts_with("--pg-bin-path"));
}

/// Returns a script that runs the real program.
pub fn passthrough_script(real: &Path) -> String {
    format!("#!/bin/sh\nexec \"{}\" \"$@\"\n", real.display())
}

/// Returns a script for `postgres` that starts no server while the file exists.
pub fn blocked_script(file: &Path, real: &Path) -> String {
    before_start(
        // PostgreSQL survives the SIGHUP of a reload also while it starts.
        &format!("trap '' HUP; while [ -e \"{}\" ]; do sleep 0.1; done", file.display()),
        real,
    )
}

/// Returns a script for `postgres` whose lock file has the status "starting" while the file exists, as during a crash
/// recovery.
pub fn starting_script(file: &Path, real: &Path) -> String {
    let write_lock_file = "printf '%s\\n' $$ \"$2\" 0 0 '' '' '' starting > \"$2/postmaster.pid\"";
    let wait = format!(
        "if [ -e \"{0}\" ]; then {write_lock_file}; while [ -e \"{0}\" ]; do sleep 0.1; done; rm \"$2/postmaster.pid\"; fi",
        file.display()
    );
    before_start(&wait, real)
}

/// Returns a script for `postgres` whose server is killed at its start while the file exists.
pub fn killed_script(file: &Path, real: &Path) -> String {
    before_start(&format!("[ ! -e \"{}\" ] || kill -KILL $$", file.display()), real)
}

fn before_start(command: &str, real: &Path) -> String {
    // The keeper also runs this program for its version and for settings (-C).
    let start = format!("case \" $* \" in *\" -C \"*) ;; *\" -D \"*) {command} ;; esac");
    format!("#!/bin/sh\n{start}\nexec \"{}\" \"$@\"\n", real.display())
}
