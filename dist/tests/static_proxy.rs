//! What `scripts/static-proxy` does where it cannot build, and what `scripts/check-static-proxy` refuses. Neither is shown
//! by `make deb`, which builds the program and checks it.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

fn script(name: &str) -> PathBuf {
    let dist = Path::new(env!("CARGO_MANIFEST_DIR"));
    dist.parent()
        .expect("the crate lies in the repository")
        .join("scripts")
        .join(name)
}

/// A machine by what is on its path, with the output of an earlier build.
struct Machine(TempDir);

impl Machine {
    /// Has what the scripts call, and neither apt-get nor musl-gcc.
    fn without_musl_tools() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        for directory in ["bin", "out", "include/google/protobuf"] {
            fs::create_dir_all(machine.path(directory)).unwrap();
        }
        // protoc's well-known types
        File::create(machine.path("include/google/protobuf/descriptor.proto")).unwrap();
        for program in ["bash", "cat", "dirname", "id", "mkdir", "readlink", "rm", "sed"] {
            machine.install(program, program);
        }
        for program in ["cc", "make", "protoc"] {
            machine.install(program, "true");
        }
        File::create(machine.path("out/stolon-proxy-0.0.1-x86_64-linux-musl")).unwrap();
        machine
    }

    /// Its rustup installs nothing.
    fn without_the_target() -> Self {
        let machine = Self::without_musl_tools();
        machine.install("musl-gcc", "true");
        machine.install("rustup", "false");
        machine
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.0.path().join(relative)
    }

    fn install(&self, name: &str, program: &str) {
        let program = ["/usr/bin", "/bin"]
            .map(|directory| Path::new(directory).join(program))
            .into_iter()
            .find(|path| path.exists());
        symlink(program.unwrap(), self.path("bin").join(name)).unwrap();
    }

    fn build(&self, options: &[&str]) -> Output {
        Command::new("/usr/bin/env")
            .arg("bash")
            .arg(script("static-proxy"))
            .arg(self.path("out"))
            .args(options)
            .env_clear()
            .env("PATH", self.path("bin"))
            // a function that bash imports: a Rust whose libraries for musl are not there
            .env(
                "BASH_FUNC_rustc%%",
                "() { if [ $1 = --version ]; then echo host: x86_64-unknown-linux-gnu; else echo /nonexistent; fi; }",
            )
            .output()
            .unwrap()
    }

    fn outputs(&self) -> usize {
        fs::read_dir(self.path("out")).unwrap().count()
    }
}

/// Checks that nothing is built, that the reason is printed, and that this is an error unless `--optional` is given.
fn check_not_built(machine: impl Fn() -> Machine, reason: &str) {
    for (options, status) in [(&["--optional"][..], 0), (&[], 1)] {
        let machine = machine();
        let output = machine.build(options);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(
            errors.contains(&format!("static stolon-proxy: not built: {reason}")),
            "{options:?}: {errors}"
        );
        assert_eq!(output.status.code(), Some(status), "{options:?}: {errors}");
        assert_eq!(machine.outputs(), 0, "{options:?}: an earlier build is left");
    }
}

#[test]
fn missing_musl_tools_are_an_error_only_where_the_proxy_is_required() {
    check_not_built(
        Machine::without_musl_tools,
        "packages are missing and cannot be installed",
    );
}

#[test]
fn a_missing_rust_target_is_an_error_only_where_the_proxy_is_required() {
    check_not_built(
        Machine::without_the_target,
        "Rust's target x86_64-unknown-linux-musl is missing and cannot be installed",
    );
}

/// Checks that a file is refused, with this reason.
fn check_refused(file: &Path, reason: &str) {
    let output = Command::new(script("check-static-proxy")).arg(file).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains(reason), "{errors}");
    assert_eq!(output.status.code(), Some(1), "{errors}");
}

#[test]
fn a_program_with_an_interpreter_is_refused() {
    check_refused(Path::new("/usr/bin/env"), "it names an interpreter");
}

#[test]
fn a_file_of_more_than_10_mib_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stolon-proxy");
    File::create(&path).unwrap().set_len(10 * 1024 * 1024 + 1).unwrap();
    check_refused(&path, "10485761 bytes, the limit is 10485760");
}
