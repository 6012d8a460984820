//! Many clients at once, from processes of their own: each is this test program again, told by its environment whom to
//! connect to. How many of them the proxy takes is looked at elsewhere.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use stolon_tests::process::Process;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::rig::{Proxy, Rig, block_on, raise_descriptor_limit};

/// What tells a process that it is one of a crowd: the source address, the port and the number of attempts.
const ORDERS: &str = "STOLON_TESTS_CROWD";
/// How long one attempt may take: the kernel repeats a connection request that finds the queue full after 1, 3, 7 and
/// 15 seconds.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(60);
/// How long a whole crowd may take on a busy machine.
const CROWD_LIMIT: Duration = Duration::from_secs(150);
/// Descriptors of a process of the crowd that are no clients.
const OWN_DESCRIPTORS: usize = 64;
/// What a process says of an attempt, a line each.
const SERVED: &str = "served";
const CLOSED: &str = "closed";

/// What became of all attempts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Outcome {
    /// Were answered by the master.
    pub(crate) served: usize,
    /// Were connected and then closed without an answer.
    pub(crate) closed: usize,
    /// Why others were not connected, or that they heard nothing at all.
    pub(crate) failed: Vec<String>,
}

/// The processes of a crowd. Dropping it kills them.
pub(crate) struct Crowd {
    members: Vec<Process>,
}

impl Crowd {
    /// Lets `processes` processes make `attempts` connection attempts in all, as many at once as descriptors allow. Each
    /// process has a source address of its own, so that none runs out of ports.
    pub(crate) fn send(rig: &Rig, proxy: &Proxy, processes: usize, attempts: usize) -> Self {
        let program = std::env::current_exe().unwrap();
        let members = (0..processes)
            .map(|member| {
                let mut command = Command::new(&program);
                let orders = format!("127.0.0.{} {} {}", member + 2, proxy.port, attempts / processes);
                command
                    .args(["--exact", "crowd::one_of_a_crowd", "--ignored", "--nocapture"])
                    .env(ORDERS, orders);
                let log = tempfile::Builder::new()
                    .prefix("crowd.")
                    .tempfile_in(rig.dir.path())
                    .unwrap();
                let (_, log) = log.keep().unwrap(); // goes with the rig's directory
                Process::start("one of the crowd", command, None, &log)
            })
            .collect();
        Self { members }
    }

    /// Whether all attempts have been made.
    pub(crate) fn is_gone(&mut self) -> bool {
        self.members.iter_mut().all(|member| member.try_wait().is_some())
    }

    /// Waits for all of it.
    pub(crate) async fn outcome(mut self) -> Outcome {
        let mut sum = Outcome::default();
        for member in &mut self.members {
            assert_eq!(member.exit_status(CROWD_LIMIT).await, 0, "{}", member.tail(10));
            let log = member.log();
            let told = |what: &str| log.lines().filter(|line| *line == format!("crowd: {what}")).count();
            sum.served += told(SERVED);
            sum.closed += told(CLOSED);
            let others = log.lines().filter_map(|line| line.strip_prefix("crowd: "));
            let failed = others.filter(|what| ![SERVED, CLOSED].contains(what));
            sum.failed.extend(failed.map(str::to_owned));
        }
        sum
    }
}

#[test]
#[ignore = "a process of a crowd, which other tests start"]
fn one_of_a_crowd() {
    let Ok(orders) = std::env::var(ORDERS) else { return };
    let orders: Vec<&str> = orders.split(' ').collect();
    let (source, port, attempts): (String, u16, usize) = (
        format!("{}:0", orders[0]),
        orders[1].parse().unwrap(),
        orders[2].parse().unwrap(),
    );
    block_on(async move {
        let room = Arc::new(Semaphore::new(raise_descriptor_limit() - OWN_DESCRIPTORS));
        let mut tries = JoinSet::new();
        for _ in 0..attempts {
            let (source, room) = (source.clone(), Arc::clone(&room));
            tries.spawn(async move {
                let permit = room.acquire_owned().await.unwrap();
                let tried = tokio::time::timeout(ATTEMPT_LIMIT, attempt(&source, port)).await;
                (tried, permit)
            });
        }
        println!(); // after what the test program says by itself
        let mut served = Vec::new();
        while let Some(tried) = tries.join_next().await {
            let (tried, permit) = tried.unwrap();
            match tried {
                Ok(Ok(Some(client))) => {
                    println!("crowd: {SERVED}");
                    served.push((client, permit)); // stays until everybody has tried, so that the proxy is full
                }
                Ok(Ok(None)) => println!("crowd: {CLOSED}"),
                Ok(Err(err)) => println!("crowd: {err}"),
                Err(late) => println!("crowd: {late}"),
            }
        }
    });
}

/// Connects and asks the master for its name. `None`: the connection was ended instead.
async fn attempt(source: &str, port: u16) -> std::io::Result<Option<TcpStream>> {
    let socket = TcpSocket::new_v4()?;
    // In a storm the kernel drops packets of loopback, too (net.core.netdev_max_backlog), and a reset is sent only once:
    // who has missed it learns of it by a probe.
    let second = Duration::from_secs(1);
    SockRef::from(&socket).set_tcp_keepalive(&TcpKeepalive::new().with_time(second).with_interval(second))?;
    socket.bind(source.parse().unwrap())?;
    let mut client = socket.connect(([127, 0, 0, 1], port).into()).await?;
    let mut answer = [0];
    let asked = client.write_all(b"?").await;
    // A client that is closed with its question unread is told so by a reset.
    let answered = matches!((asked, client.read(&mut answer).await), (Ok(()), Ok(1)));
    Ok(answered.then_some(client))
}
