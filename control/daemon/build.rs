//! Fixes the version text at build time: `STOLON_VERSION` when it is set, else, in a release build of a git
//! clone, the tag or the hash of the commit. A debug build does not ask git, so that a commit rebuilds nothing.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=STOLON_VERSION");
    println!("cargo::rerun-if-changed=build.rs");
    let given = std::env::var("STOLON_VERSION")
        .ok()
        .filter(|version| !version.is_empty());
    let release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let version = given.or_else(|| if release { from_git() } else { None });
    println!(
        "cargo::rustc-env=STOLON_VERSION_TEXT={}",
        version.as_deref().unwrap_or("No version defined at build time")
    );
}

/// The tag of the commit or else its hash, with `-dirty` for a modified tree (cli 16).
fn from_git() -> Option<String> {
    for watched in ["HEAD", "logs/HEAD", "index"] {
        let path = git(&["rev-parse", "--path-format=absolute", "--git-path", watched]);
        // a file that is not there would have cargo run this at every build
        if let Some(path) = path.filter(|path| std::path::Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let commit = git(&["describe", "--tags", "--exact-match"]).or_else(|| git(&["rev-parse", "HEAD"]))?;
    let modified = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|files| !files.is_empty());
    Some(if modified { format!("{commit}-dirty") } else { commit })
}

fn git(arguments: &[&str]) -> Option<String> {
    // Looking must not rewrite the index, whose change would run this again; and the clone may be another user's.
    let output = Command::new("git")
        .args(["--no-optional-locks", "-c", "safe.directory=*"])
        .args(arguments)
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
