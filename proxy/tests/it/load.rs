//! Many clients at once, from several processes: each is this test program again, with its target in the environment.
//! How many clients the proxy accepts is checked by the tests.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use stolon_tests::deadlines::{LOAD_TIMEOUT, SHORT_TIMEOUT};
use stolon_tests::process::Process;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::harness::{Proxy, ProxyHarness, raise_descriptor_limit, run_test};

/// Environment variable that makes a process a load process: source address, port and number of attempts.
const LOAD_VARIABLE: &str = "STOLON_TESTS_LOAD";
/// Descriptors of a load process that are not clients.
const OWN_DESCRIPTORS: usize = 64;
/// What a process prints for each attempt, one line each.
const SERVED: &str = "served";
const CLOSED: &str = "closed";

/// The outcome of all attempts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct LoadOutcome {
    /// Answered by the master.
    pub(crate) served: usize,
    /// Connected and then closed without a response.
    pub(crate) closed: usize,
    /// Errors of the others, including timeouts.
    pub(crate) failed: Vec<String>,
}

/// Running load processes. Dropping this kills them.
pub(crate) struct LoadProcesses {
    processes: Vec<Process>,
}

impl LoadProcesses {
    /// Starts `processes` processes that make `attempts` connection attempts in total, as many at once as their
    /// descriptors allow. Each process has its own source address, so that none runs out of ports.
    pub(crate) fn start(harness: &ProxyHarness, proxy: &Proxy, processes: usize, attempts: usize) -> Self {
        let program = std::env::current_exe().unwrap();
        let processes = (0..processes)
            .map(|member| {
                let mut command = Command::new(&program);
                let settings = format!("127.0.0.{} {} {}", member + 2, proxy.port, attempts / processes);
                command
                    .args(["--exact", "load::load_process", "--ignored", "--nocapture"])
                    .env(LOAD_VARIABLE, settings);
                let log = tempfile::Builder::new()
                    .prefix("load.")
                    .tempfile_in(harness.dir.path())
                    .unwrap();
                let (_, log) = log.keep().unwrap(); // removed with the directory of the harness
                Process::start("load process", command, None, &log)
            })
            .collect();
        Self { processes }
    }

    /// Whether all attempts have been made.
    pub(crate) fn has_finished(&mut self) -> bool {
        self.processes.iter_mut().all(|member| member.try_wait().is_some())
    }

    /// Waits for all processes and returns the sum of their outcomes.
    pub(crate) async fn outcome(mut self) -> LoadOutcome {
        let mut sum = LoadOutcome::default();
        for member in &mut self.processes {
            assert_eq!(member.exit_status(LOAD_TIMEOUT).await, 0, "{}", member.tail(10));
            let log = member.log();
            let counts = |what: &str| log.lines().filter(|line| *line == format!("load: {what}")).count();
            sum.served += counts(SERVED);
            sum.closed += counts(CLOSED);
            let others = log.lines().filter_map(|line| line.strip_prefix("load: "));
            let failed = others.filter(|what| ![SERVED, CLOSED].contains(what));
            sum.failed.extend(failed.map(str::to_owned));
        }
        sum
    }
}

#[test]
#[ignore = "started by other tests"]
fn load_process() {
    let Ok(settings) = std::env::var(LOAD_VARIABLE) else {
        return;
    };
    let settings: Vec<&str> = settings.split(' ').collect();
    let (source, port, attempts): (String, u16, usize) = (
        format!("{}:0", settings[0]),
        settings[1].parse().unwrap(),
        settings[2].parse().unwrap(),
    );
    run_test(async move {
        let room = Arc::new(Semaphore::new(raise_descriptor_limit() - OWN_DESCRIPTORS));
        let mut tries = JoinSet::new();
        for _ in 0..attempts {
            let (source, room) = (source.clone(), Arc::clone(&room));
            tries.spawn(async move {
                let permit = room.acquire_owned().await.unwrap();
                // The kernel repeats a connection request that finds the queue full after 1, 3, 7 and 15 seconds.
                let tried = tokio::time::timeout(SHORT_TIMEOUT, attempt(&source, port)).await;
                (tried, permit)
            });
        }
        println!(); // ends the line that the test runner has printed
        let mut served = Vec::new();
        while let Some(tried) = tries.join_next().await {
            let (tried, permit) = tried.unwrap();
            match tried {
                Ok(Ok(Some(client))) => {
                    println!("load: {SERVED}");
                    served.push((client, permit)); // stays open until all have tried, so that the proxy is full
                }
                Ok(Ok(None)) => println!("load: {CLOSED}"),
                Ok(Err(err)) => println!("load: {err}"),
                Err(late) => println!("load: {late}"),
            }
        }
    });
}

/// Connects and asks the master for its name. `None`: the connection was closed instead.
async fn attempt(source: &str, port: u16) -> std::io::Result<Option<TcpStream>> {
    let socket = TcpSocket::new_v4()?;
    // Under load the kernel drops loopback packets as well (net.core.netdev_max_backlog), and a reset is sent only
    // once. A keepalive probe makes up for a lost one.
    let second = Duration::from_secs(1);
    SockRef::from(&socket).set_tcp_keepalive(&TcpKeepalive::new().with_time(second).with_interval(second))?;
    socket.bind(source.parse().unwrap())?;
    let mut client = socket.connect(([127, 0, 0, 1], port).into()).await?;
    let mut answer = [0];
    let asked = client.write_all(b"?").await;
    // A client that is closed with its question unread receives a reset.
    let answered = matches!((asked, client.read(&mut answer).await), (Ok(()), Ok(1)));
    Ok(answered.then_some(client))
}
