//! A PostgreSQL server that no keeper runs: data to hand over to a keeper, a server with an archive, a primary outside
//! of the cluster.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use local_cluster::ClusterDir;
use tokio_postgres::Config;

use crate::cluster::{Cluster, REPLUSER, SUPERUSER};
use crate::deadlines::LONG_TIMEOUT;
use crate::pg_programs;
use crate::ports::{self, Port};
use crate::sql::SqlClient;
use crate::wait::eventually;

/// A server with the users of the test clusters. Dropping it stops it.
#[derive(Debug)]
pub struct Standalone {
    data: PathBuf,
    port: Port,
    bin: PathBuf,
    ids: Option<(u32, u32)>,
}

impl Standalone {
    /// Creates a database cluster in a new directory, with these lines in `postgresql.conf`, and starts its server.
    ///
    /// # Panics
    ///
    /// PostgreSQL's programs are missing or fail.
    pub async fn create(cluster: &Cluster, data: &Path, settings: &str) -> Self {
        let server = Self {
            data: data.to_owned(),
            port: ports::free(),
            bin: pg_programs::directory("initdb").expect("PostgreSQL is installed"),
            ids: cluster.dir().user().map(|user| (user.uid, user.gid)),
        };
        let secret = cluster.dir().write_secret("standalone-password", SUPERUSER.1);
        let secret = secret.unwrap_or_else(|error| panic!("{error:?}"));
        let mut initdb = server.program("initdb");
        initdb
            .arg("-D")
            .arg(data)
            .args(["-U", SUPERUSER.0, "--auth=scram-sha-256"]);
        run(initdb.arg("--pwfile").arg(secret));
        let mut conf = fs::read_to_string(data.join("postgresql.conf")).expect("initdb has written it");
        conf += &format!("dynamic_shared_memory_type = mmap\n{settings}\n");
        fs::write(data.join("postgresql.conf"), conf).expect("our own file");
        let mut hba = fs::read_to_string(data.join("pg_hba.conf")).expect("initdb has written it");
        hba += "host replication all 127.0.0.1/32 scram-sha-256\n";
        fs::write(data.join("pg_hba.conf"), hba).expect("our own file");
        server.start();
        let (user, password) = (REPLUSER.0, REPLUSER.1.replace('\'', "''"));
        let sql = format!("create role {user} with replication login password '{password}'");
        server.connect().await.run(&sql).await.expect("the server answers");
        server
    }

    /// Starts its server and waits until it accepts connections.
    pub fn start(&self) {
        let socket_dir = self.data.parent().unwrap_or(&self.data).display().to_string();
        let options = format!("-p {} -h 127.0.0.1 -k {socket_dir}", self.port);
        let mut command = self.program("pg_ctl");
        let log = self.data.with_extension("log");
        command.arg("-D").arg(&self.data).args(["-w", "start", "-o", &options]);
        run(command.arg("-l").arg(log));
    }

    /// Stops its server in order.
    pub fn stop(&self) {
        let mut command = self.program("pg_ctl");
        run(command.arg("-D").arg(&self.data).args(["-w", "-m", "fast", "stop"]));
    }

    /// Whether its server runs.
    pub fn runs(&self) -> bool {
        let mut command = self.program("pg_ctl");
        command.arg("-D").arg(&self.data).arg("status");
        command.output().is_ok_and(|output| output.status.success())
    }

    /// Runs a statement on the data of a stopped server.
    ///
    /// # Panics
    ///
    /// PostgreSQL fails.
    pub fn run_alone(&self, sql: &str) {
        let mut command = self.program("postgres");
        command.args(["--single", "-j", "-D"]).arg(&self.data).arg("postgres");
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = command.spawn().expect("PostgreSQL is installed");
        let mut input = child.stdin.take().expect("it is piped, see above");
        input.write_all(sql.as_bytes()).expect("it reads its input");
        drop(input);
        assert!(child.wait().expect("our own child").success(), "{sql}");
    }

    /// Returns its data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Returns its TCP port.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Returns a connection string of the replication user.
    pub fn replication_conninfo(&self) -> String {
        let password = REPLUSER.1.replace('\\', "\\\\").replace('\'', "\\'");
        format!(
            "host=127.0.0.1 port={} user={} password='{password}'",
            self.port, REPLUSER.0
        )
    }

    /// Connects as the superuser; retries until that succeeds.
    pub async fn connect(&self) -> SqlClient {
        let mut config = Config::new();
        config
            .host("127.0.0.1")
            .port(self.port())
            .user(SUPERUSER.0)
            .password(SUPERUSER.1);
        config.dbname("postgres").connect_timeout(Duration::from_secs(5));
        eventually("the standalone server to accept a client", LONG_TIMEOUT, async || {
            SqlClient::connect(&config).await.map_err(|error| format!("{error:#}"))
        })
        .await
    }

    /// Makes a base backup without WAL in a new directory.
    pub fn base_backup(&self, directory: &Path) {
        let mut command = self.program("pg_basebackup");
        command.env("PGPASSWORD", REPLUSER.1).arg("-D").arg(directory);
        command.args(["-X", "none", "-c", "fast", "-h", "127.0.0.1", "-U", REPLUSER.0, "-p"]);
        run(command.arg(self.port.to_string()));
    }

    fn program(&self, name: &str) -> Command {
        program(&self.bin, name, self.ids)
    }
}

impl Drop for Standalone {
    fn drop(&mut self) {
        if self.runs() {
            let mut command = self.program("pg_ctl");
            command
                .arg("-D")
                .arg(&self.data)
                .args(["-w", "-m", "immediate", "stop"]);
            // The test ends anyway; what still runs then is found by its directory.
            let _ = command.output();
        }
    }
}

/// Creates a directory of the user that PostgreSQL runs as, mode 0700.
///
/// # Panics
///
/// It cannot be created.
pub fn create_dir(dir: &ClusterDir, path: &Path) {
    fs::DirBuilder::new().mode(0o700).create(path).expect("a new directory");
    dir.give_to_user(path).unwrap_or_else(|error| panic!("{error:?}"));
}

/// Writes an executable file of the user that PostgreSQL runs as, for example a restore command.
///
/// # Panics
///
/// It cannot be written.
pub fn write_script(dir: &ClusterDir, path: &Path, text: &str) {
    fs::write(path, text).expect("our own directory");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("our own file");
    dir.give_to_user(path).unwrap_or_else(|error| panic!("{error:?}"));
}

fn program(bin: &Path, name: &str, ids: Option<(u32, u32)>) -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(bin.join(name));
    command.current_dir("/").env("LC_ALL", "C");
    if let Some((uid, gid)) = ids {
        command.uid(uid).gid(gid);
    }
    command
}

fn run(command: &mut Command) {
    // Not `output`: a started server would keep its pipes open.
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    let status = status.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?} ended with {status}");
}
