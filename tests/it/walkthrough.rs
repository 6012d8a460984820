//! The walk-through for a simple cluster, command by command, with its messages. It differs in the ports, and in that
//! the client sends the superuser's password.

use std::process::Command;

use local_cluster::leftovers::{self, PgLeftovers};
use local_cluster::processes;
use stolon_tests::cluster::{check, error_text};
use stolon_tests::deadlines::{CLEANUP_TIMEOUT, LONG_TIMEOUT, SHORT_TIMEOUT};
use stolon_tests::etcd::Etcd;
use stolon_tests::ports::{self, Port};
use stolon_tests::process::Process;
use stolon_tests::sql::SqlClient;
use stolon_tests::test_dir::TestDir;
use stolon_tests::wait::eventually;
use tokio_postgres::Config;

/// The sentinel starts and becomes leader.
const SENTINEL_LEADS: &[&str] = &[
    "sentinel id id=*",
    "Trying to acquire sentinels leadership",
    "sentinel leadership acquired",
];

/// The first keeper initialises its database and becomes master.
const FIRST_KEEPER_INITIALISES: &[&str] = &[
    "exclusive lock on data dir taken",
    "keeper uid uid=postgres0",
    "stopping database",
    "our keeper data is not available, waiting for it to appear",
    "current db UID different than cluster data db UID db= cdDB=*",
    "initializing the database cluster",
    "starting database",
    "setting roles",
    "setting superuser password",
    "superuser password set",
    "creating replication role",
    "replication role created role=repluser",
    "stopping database",
    "our db requested role is master",
    "starting database",
    "already master",
    "postgres parameters changed, reloading postgres instance",
    "reloading database configuration",
];

/// The sentinel chooses the first keeper.
const SENTINEL_INITIALISES: &[&str] = &[
    "trying to find initial master",
    "initializing cluster keeper=postgres0",
    "received db state for unexpected db uid receivedDB= db=*",
    "waiting for db db=* keeper=postgres0",
    "db initialized db=* keeper=postgres0",
];

/// The second keeper becomes a standby.
const SECOND_KEEPER_COPIES: &[&str] = &[
    "exclusive lock on data dir taken",
    "keeper uid uid=postgres1",
    "stopping database",
    "our keeper data is not available, waiting for it to appear",
    "current db UID different than cluster data db UID db= cdDB=*",
    "database cluster not initialized",
    "our db requested role is standby followedDB=*",
    "running pg_basebackup",
    "sync succeeded",
    "starting database",
    "our db requested role is standby followedDB=*",
    "already standby",
];

/// The sentinel replaces the failed master.
const SENTINEL_ELECTS: &[&str] = &[
    "no keeper info available db=* keeper=postgres0",
    "master db is failed db=* keeper=postgres0",
    "trying to find a standby to replace failed master",
    "electing db as the new master db=* keeper=postgres1",
];

/// The programs of the walk-through, each started in the same directory with the options of the page.
struct WalkThrough {
    dir: TestDir,
    etcd: Etcd,
    leftovers: PgLeftovers,
}

impl WalkThrough {
    async fn start_etcd() -> Self {
        let dir = TestDir::create();
        let etcd = Etcd::start_in(&dir.path().join("etcd")).await;
        Self {
            dir,
            etcd,
            leftovers: PgLeftovers::default(),
        }
    }

    /// Returns a command of the page; `line` has its arguments.
    fn command(&self, program: &str, line: &str) -> Command {
        let mut command = Command::new(self.dir.program(program));
        command
            .args(line.split_whitespace())
            .arg(format!("--store-endpoints={}", self.etcd.endpoint()))
            .current_dir(self.dir.path());
        command
    }

    fn start(&self, name: &str, program: &str, line: &str) -> Process {
        let log = self.dir.log(name);
        Process::start(name, self.command(program, line), self.dir.user(), &log)
    }

    fn keeper(&self, uid: &str, port: &Port) -> Process {
        self.start(
            uid,
            "stolon-keeper",
            &format!(
                "--cluster-name stolon-cluster --store-backend=etcdv3 --uid {uid} --data-dir data/{uid} \
                 --pg-su-password=supassword --pg-repl-username=repluser --pg-repl-password=replpassword \
                 --pg-listen-address=127.0.0.1 --pg-port {port}"
            ),
        )
    }
}

impl Drop for WalkThrough {
    fn drop(&mut self) {
        let pgdatas = ["postgres0", "postgres1"].map(|uid| self.dir.data_dir(uid).join("postgres"));
        pgdatas.iter().for_each(|pgdata| self.leftovers.record(pgdata));
        // Keepers that the test killed have left their servers.
        leftovers::stop_servers(&pgdatas, CLEANUP_TIMEOUT);
        processes::kill_users(self.dir.path(), CLEANUP_TIMEOUT);
        self.leftovers.remove();
    }
}

#[tokio::test]
async fn the_walk_through_works_command_by_command_with_its_messages() {
    let mut walk_through = WalkThrough::start_etcd().await;
    let (pg0, pg1, port) = (ports::free(), ports::free(), ports::free());
    let os_user = walk_through
        .dir
        .user()
        .map_or_else(current_user, |user| user.name.clone());

    confirm_init(&walk_through);

    // Start a sentinel
    let sentinel = walk_through.start(
        "sentinel",
        "stolon-sentinel",
        "--cluster-name stolon-cluster --store-backend=etcdv3",
    );
    wait_for_messages(&sentinel, SENTINEL_LEADS).await;

    // Launch first keeper
    let mut postgres0 = walk_through.keeper("postgres0", &pg0);
    wait_for_messages(&postgres0, FIRST_KEEPER_INITIALISES).await;
    wait_for_messages(&sentinel, SENTINEL_INITIALISES).await;

    // Start a proxy
    let proxy = walk_through.start(
        "proxy",
        "stolon-proxy",
        &format!("--cluster-name stolon-cluster --store-backend=etcdv3 --port {port}"),
    );
    wait_for_messages(&proxy, &["proxy id id=*"]).await;
    wait_for_messages(&proxy, &["Starting proxying"]).await;
    wait_for_messages(&proxy, &[&format!("master address address=127.0.0.1:{pg0}")]).await;

    // Connect to the proxy service; create a test table and insert a row
    let through = config(&port, &os_user);
    let session = connect(&through).await;
    session
        .run("create table test (id int primary key not null, value text not null)")
        .await
        .unwrap();
    session.run("insert into test values (1, 'value1')").await.unwrap();
    assert_eq!(session.value("select value from test").await.unwrap(), "value1");

    // Start another keeper
    let postgres1 = walk_through.keeper("postgres1", &pg1);
    wait_for_messages(&postgres1, SECOND_KEEPER_COPIES).await;
    let standby = config(&pg1, &os_user);
    eventually("the row on the standby", LONG_TIMEOUT, async || {
        let sql = SqlClient::connect(&standby).await.map_err(error_text)?;
        sql.value("select value from test").await.map_err(error_text)
    })
    .await;

    for keeper in [&postgres0, &postgres1] {
        let log = keeper.log();
        assert!(!log.contains("refuses the login"), "{log}");
    }

    // Simulate master death: SIGKILL leaves an unmanaged postgres instance
    let log_length = sentinel.log().len();
    let pgdata = walk_through.dir.data_dir("postgres0").join("postgres");
    walk_through.leftovers.record(&pgdata);
    postgres0.kill();
    assert!(leftovers::postmaster(&pgdata).is_some());
    wait_for_messages_after(&sentinel, log_length, SENTINEL_ELECTS).await;
    eventually("the session to be closed", SHORT_TIMEOUT, async || {
        check(session.is_closed(), || "it is open".to_owned())
    })
    .await;
    let session = connect(&through).await;
    assert_eq!(
        session.value("select value from test where id = 1").await.unwrap(),
        "value1"
    );
    wait_for_messages(&proxy, &[&format!("master address address=127.0.0.1:{pg1}")]).await;

    // If you start the postgres0 keeper it makes the old master a standby of the new one
    let _postgres0 = walk_through.keeper("postgres0", &pg0);
    session.run("insert into test values (2, 'value2')").await.unwrap();
    let old_master = config(&pg0, &os_user);
    eventually("the old master to follow", LONG_TIMEOUT, async || {
        let sql = SqlClient::connect(&old_master).await.map_err(error_text)?;
        let recovers = sql.value("select pg_is_in_recovery()").await.map_err(error_text)?;
        check(recovers == "t", || "it is not a standby".to_owned())?;
        sql.value("select value from test where id = 2")
            .await
            .map_err(error_text)
    })
    .await;
}

/// Initializes the cluster, and answers the question whether to.
fn confirm_init(walk_through: &WalkThrough) {
    let mut init = walk_through.command("stolonctl", "--cluster-name stolon-cluster --store-backend=etcdv3 init");
    let mut init = init
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut init.stdin.take().unwrap(), b"yes\n").unwrap();
    let output = init.wait_with_output().unwrap();
    assert!(output.status.success());
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.contains("Are you sure you want to continue? [yes/no]"),
        "{output}"
    );
}

async fn connect(through: &Config) -> SqlClient {
    eventually("a session", LONG_TIMEOUT, async || {
        SqlClient::connect(through).await.map_err(error_text)
    })
    .await
}

fn config(port: &Port, user: &str) -> Config {
    let mut config = Config::new();
    config
        .host("127.0.0.1")
        .port(port.number())
        .user(user)
        .password("supassword")
        .dbname("postgres");
    config
}

fn current_user() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

async fn wait_for_messages(process: &Process, messages: &[&str]) {
    wait_for_messages_after(process, 0, messages).await;
}

/// Waits until the program has logged these messages in this order, among others; `*` matches any word.
async fn wait_for_messages_after(process: &Process, skip: usize, messages: &[&str]) {
    eventually(
        format!("{} to log the page's messages", process.name()),
        LONG_TIMEOUT,
        async || {
            let log = process.log();
            let mut lines = log.get(skip..).unwrap_or_default().lines();
            for message in messages {
                check(lines.by_ref().any(|line| contains_message(line, message)), || {
                    format!("not logged in this order: {message}")
                })?;
            }
            Ok::<_, String>(())
        },
    )
    .await;
}

/// Returns whether a line contains this message, where `*` matches any word.
fn contains_message(line: &str, message: &str) -> bool {
    let (line, message): (Vec<&str>, Vec<&str>) = (line.split(' ').collect(), message.split(' ').collect());
    line.windows(message.len()).any(|words| {
        words
            .iter()
            .zip(&message)
            .all(|(word, wanted)| match wanted.strip_suffix('*') {
                Some(start) => word.starts_with(start) && word.len() > start.len(),
                None => word == wanted,
            })
    })
}
