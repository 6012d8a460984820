//! Short connections to a plain server: the cost of accept, connect and close without the server's work. PostgreSQL
//! starts a process per connection, which is most of what `pgbench -C` measures.

use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::net::TcpStream;

use super::measure_cost;
use crate::proxy::figures::{CONNECTIONS_PER_SECOND, CPU_PER_CONNECTION, Sample};
use crate::proxy::peers::Peer;
use crate::proxy::plain_server::request_name;
use crate::proxy::size::Size;
use crate::proxy::testbed::Testbed;

/// Clients, each with one connection at a time.
pub(super) const CLIENTS: usize = 8;
/// Limit for the whole run.
const TIMEOUT: Duration = Duration::from_secs(120);

pub(super) async fn run(testbed: &Testbed, peer: Peer, size: &Size) -> anyhow::Result<Sample> {
    let instance = testbed.plain(peer);
    let (port, each) = (instance.port, size.connections / CLIENTS);
    let connects = async {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| tokio::spawn(connect_repeatedly(port, each)))
            .collect();
        for client in clients {
            let client = tokio::time::timeout(TIMEOUT, client).await;
            client.context("the clients have not ended")?.context("a client")??;
        }
        Ok(())
    };
    let cost = measure_cost(instance, connects).await?;
    let count = (each * CLIENTS) as f64;
    let mut sample = vec![(CONNECTIONS_PER_SECOND, count / cost.took.as_secs_f64())];
    if peer != Peer::Direct {
        sample.push((CPU_PER_CONNECTION, cost.cpu.as_secs_f64() * 1e6 / count));
    }
    Ok(sample)
}

async fn connect_repeatedly(port: u16, count: usize) -> anyhow::Result<()> {
    for _ in 0..count {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).await.context("connect")?;
        let name = request_name(&mut socket).await.context("ask")?;
        ensure!(name.is_some(), "closed before a response");
    }
    Ok(())
}
