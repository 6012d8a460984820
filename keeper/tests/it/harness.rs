//! Environment for tests of one PostgreSQL instance: a user that PostgreSQL accepts, a directory of its own, and
//! misleading environment variables.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, RandomBytes};
use keeper::postgres::client::roles;
use keeper::postgres::config::conf::StartMode;
use keeper::postgres::config::conf::{self, Parameters, Recovery};
use keeper::postgres::config::credentials::{AuthMethod, Login, Secret};
use keeper::postgres::config::files::ConfigFiles;
use keeper::postgres::config::hba::{self, AllowedHosts, HbaAccess, OtherUsers};
use keeper::postgres::config::instance::InstanceConfig;
use keeper::postgres::data::changes::DataChanges;
use keeper::postgres::data::owned_dirs::OwnedDirs;
use keeper::postgres::data::staging::StagedData;
use keeper::postgres::initdb::{self, NewClusterOptions};
use keeper::postgres::instance::Instance;
use keeper::postgres::programs::installation::Programs;
use keeper::postgres::server::supervisor::{StopLimits, StopOutcome};
use keeper::wal_segment::SEGMENT_BYTES;
use model::Lsn;
use stolon_tests::deadlines::INSTANCE_TEST_TIMEOUT;
use stolon_tests::ports::{self, Port};
use stolon_tests::{test_dir, wait};
use tempfile::TempDir;
use tokio_postgres::{NoTls, SimpleQueryMessage};

/// A password that needs every rule of quoting.
pub(crate) const HOSTILE: &str = "a b'c\\d:e\u{1f600}\"%$=\\";

/// Runs a test by executing this program again: as the user `postgres` when run by root, which PostgreSQL refuses, and
/// with libpq variables that its children must not get (keeper W40).
pub(crate) fn run<F: Future<Output = ()>>(test: &str, body: impl FnOnce() -> F) {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        return runtime.block_on(async {
            tokio::time::timeout(INSTANCE_TEST_TIMEOUT, body())
                .await
                .expect("the test takes too long")
        });
    }
    // The user may have no access to the staging directory.
    let place = TempDir::with_prefix("stolon-keeper-it.").unwrap();
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = place.path().join("it");
    let built = std::env::current_exe().unwrap();
    std::fs::hard_link(&built, &program)
        .or_else(|_| std::fs::copy(&built, &program).map(|_| ()))
        .unwrap();
    let mut command = Command::new(&program);
    command
        .args(["--exact", test, "--nocapture"])
        .current_dir("/")
        .env(INSIDE, "1");
    command
        .env("PGPASSWORD", "wrong")
        .env("PGHOST", "192.0.2.1")
        .env("PGPORT", "1")
        .env("PGUSER", "nobody");
    command
        .env("PGOPTIONS", "-c nonsense=1")
        .env("PGDATA", "/nonexistent")
        .env("STKEEPER_PG_SU_PASSWORD", "secret");
    if let Some(user) = test_dir::postgres_user() {
        command.uid(user.uid).gid(user.gid).env("HOME", "/");
    }
    let output = command.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    std::io::stdout().write_all(&output.stdout).unwrap();
    std::io::stderr().write_all(&output.stderr).unwrap();
    assert!(
        output.status.success() && printed.contains("1 passed"),
        "{test} failed, see above"
    );
}

const INSIDE: &str = "STOLON_KEEPER_IT_INSIDE";

/// An instance in a directory of its own, stopped at the end of the test in any case.
pub(crate) struct Node {
    pub(crate) instance: Arc<Instance>,
    pub(crate) dir: TempDir,
    _port: Port,
}

impl Node {
    pub(crate) fn new() -> Self {
        let port = ports::free();
        let dir = TempDir::with_prefix("stolon-pg.").unwrap();
        let instance = Arc::new(instance(dir.path(), port.number()));
        Self {
            instance,
            dir,
            _port: port,
        }
    }

    /// The instance's recorded directories outside PGDATA.
    pub(crate) fn owned(&self) -> Arc<OwnedDirs> {
        Arc::new(OwnedDirs::load(self.dir.path(), RandomBytes::system()).unwrap())
    }

    /// Empty directories for new data.
    pub(crate) fn staged(&self) -> StagedData {
        StagedData::prepare(self.data(), &self.owned(), &[]).unwrap()
    }

    pub(crate) fn data(&self) -> &Path {
        &self.instance.config().data
    }

    /// Initialised, with its roles, and stopped: as after step N8 (keeper N8).
    pub(crate) async fn initialised() -> Self {
        let node = Self::new();
        let instance = &node.instance;
        let (staged, owned, changes) = (node.staged(), node.owned(), DataChanges::default());
        initdb::run(instance, &NewClusterOptions::default(), &staged, &owned, &changes)
            .await
            .unwrap();
        instance
            .start(&files(instance, &[]), StartMode::Temporary)
            .await
            .unwrap();
        instance.wait_ready(Some(INSTANCE_TEST_TIMEOUT)).await.unwrap();
        let config = instance.config();
        roles::set_up(instance.sql(), &config.superuser, &config.replication)
            .await
            .unwrap();
        assert_eq!(instance.stop(StopLimits::default()).await.unwrap(), StopOutcome::Fast);
        node
    }

    /// Started in the role of its files, and accepting connections.
    pub(crate) async fn start(&self, files: &ConfigFiles) {
        self.instance.start(files, StartMode::Normal).await.unwrap();
        self.instance.wait_ready(Some(INSTANCE_TEST_TIMEOUT)).await.unwrap();
    }

    pub(crate) async fn stop(&self) {
        assert_eq!(
            self.instance.stop(StopLimits::default()).await.unwrap(),
            StopOutcome::Fast
        );
    }

    /// Runs a statement as the superuser; the first column of its rows.
    pub(crate) async fn execute(&self, statement: &str) -> Vec<String> {
        execute(&self.instance, statement).await
    }

    /// Runs a statement that the server refuses; returns the message.
    pub(crate) async fn execute_refused(&self, statement: &str) -> String {
        let refused = query(&self.instance, statement).await.unwrap_err();
        refused.as_db_error().expect("the server refuses").message().to_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for worker in keeper::postgres::server::pgdata_holders::holders_of(self.data()) {
            let _ = worker.process.signal(rustix::process::Signal::KILL); // it may have ended already
        }
    }
}

/// An instance in `dir` without data. Its socket is there too, not in /tmp.
pub(crate) fn instance(dir: &Path, port: u16) -> Instance {
    let login = |user: &str| Login {
        user: user.to_owned(),
        method: AuthMethod::Md5,
        password: Some(Secret::new(format!("{HOSTILE}{user}"))),
    };
    let config = InstanceConfig {
        data: dir.join("postgres"),
        socket_dir: dir.to_str().unwrap().to_owned(),
        public_socket_dir: None,
        listen_addresses: "127.0.0.1".to_owned(),
        port,
        superuser: login("super user"),
        replication: login("repl\"user"),
        request_timeout: Duration::from_secs(30),
    };
    Instance::new(config, Arc::new(programs()), DataChanges::default(), Clock::system())
}

pub(crate) fn programs() -> Programs {
    Programs::find(None, std::env::var_os("PATH").as_deref(), None).unwrap()
}

/// Files of a master with these parameters besides the keeper's own.
pub(crate) fn files(instance: &Instance, user: &[(&str, &str)]) -> ConfigFiles {
    let config = instance.config();
    let user: Parameters = user
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let made = conf::parameters(&conf::ParameterSources {
        init: None,
        user: &user,
        listen_addresses: &config.listen_addresses,
        port: &config.port.to_string(),
        socket_dir: &config.socket_dir,
        max_standbys: 5,
        slots: conf::SlotNeeds::default(),
        additional_wal_senders: 1,
        use_pg_rewind: false,
        synchronous_standby_names: "",
    });
    let hba = hba::lines(&HbaAccess {
        superuser: &config.superuser,
        replication: &config.replication,
        replication_databases: &[],
        remote: &AllowedHosts::All,
        users: &OtherUsers::Everybody,
    });
    ConfigFiles {
        parameters: made.parameters,
        hba,
        recovery: Recovery::default(),
    }
}

/// Runs a statement as the superuser in a connection of its own; the first column of its rows.
pub(crate) async fn execute(instance: &Instance, statement: &str) -> Vec<String> {
    first_column(query(instance, statement).await.unwrap())
}

/// Returns the first column of the rows.
pub(crate) fn first_column(messages: Vec<SimpleQueryMessage>) -> Vec<String> {
    let first = |message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
        _ => None,
    };
    messages.into_iter().filter_map(first).collect()
}

/// Runs a statement as the superuser in a connection of its own.
pub(crate) async fn query(
    instance: &Instance,
    statement: &str,
) -> Result<Vec<SimpleQueryMessage>, tokio_postgres::Error> {
    let config = instance.config();
    let mut connect = tokio_postgres::Config::new();
    connect
        .host_path(&config.socket_dir)
        .port(config.port)
        .dbname("postgres")
        .user(&config.superuser.user);
    connect.password(config.superuser.password().unwrap());
    let (client, connection) = connect.connect(NoTls).await?;
    tokio::spawn(connection);
    client.simple_query(statement).await
}

/// Waits for a condition.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let probe = async || if holds().await { Ok(()) } else { Err("not yet") };
    wait::eventually(what, INSTANCE_TEST_TIMEOUT / 2, probe).await;
}

/// Returns where the last record, at `start`, ends according to pg_waldump: where it expects the next one.
pub(crate) async fn dumped_end(data: &Path, timeline: u64, start: Lsn) -> Lsn {
    let program: PathBuf = programs().path("pg_waldump");
    let mut command = keeper::postgres::programs::environment::command(&program);
    command.env("LC_ALL", "C").arg("-p").arg(data.join("pg_wal"));
    command.args(["-t", &timeline.to_string(), "-s", &start.to_string()]);
    let output = command.output().await.unwrap();
    let (dumped, printed) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(dumped.lines().count(), 1, "the last record: {dumped}{printed}");
    assert!(dumped.contains("CHECKPOINT_SHUTDOWN"), "{dumped}");
    // error in WAL record at 0/14FE6D8: invalid record length at 0/14FE750: wanted 24, got 0
    if let Some((_, rest)) = printed.split_once("invalid record length at ") {
        return Lsn::parse(rest.split(':').next().unwrap()).expect(&printed);
    }
    // At the end of a page it reads the next page first: invalid magic number 0000 in log segment …, offset 5357568
    let (_, offset) = printed.trim_end().rsplit_once("offset ").expect(&printed);
    Lsn(start.0 / SEGMENT_BYTES * SEGMENT_BYTES + offset.parse::<u64>().expect(&printed))
}
