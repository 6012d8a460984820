//! PostgreSQL's programs: where they are installed, and directories in which scripts take the place of the real ones.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::cluster::Cluster;

/// Returns the newest of Debian's directories of PostgreSQL's programs that has this one, or the one on `PATH`.
pub fn directory(program: &str) -> Option<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|version| {
            let version = version.ok()?.path();
            let number = version.file_name()?.to_str()?.parse().ok()?;
            Some((number, version.join("bin")))
        })
        .filter(|(_, dir)| dir.join(program).exists())
        .collect();
    found.sort();
    found.pop().map(|(_, dir)| dir).or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).find(|dir| dir.join(program).exists())
    })
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
