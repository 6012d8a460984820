//! A new master, announced by one commit in etcd: the time until it serves a client. The client of the old master is
//! disconnected, connects again at once, and gets a response from the new one.

use std::time::Duration;

use anyhow::{Context, ensure};
use stolon_tests::wait::now;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::proxy::figures::{FIRST_BYTE, FIRST_BYTE_MAX, Sample, Series};
use crate::proxy::peers::Peer;
use crate::proxy::plain_server::request_name;
use crate::proxy::size::Size;
use crate::proxy::testbed::{Testbed, wait_port_leads_to};

/// Limit for one change.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) async fn run(testbed: &mut Testbed, size: &Size) -> anyhow::Result<Sample> {
    let port = testbed.plain(Peer::Stolon).port;
    let mut times = Series::default();
    for number in 1..=size.changes {
        let to = number % 2;
        let (old, new) = (testbed.server_name(1 - to), testbed.server_name(to));
        let mut client = TcpStream::connect(("127.0.0.1", port)).await.context("connect")?;
        ensure!(
            request_name(&mut client).await.context("ask")? == Some(old),
            "not the old master"
        );
        let served = tokio::spawn(async move {
            // The client connects again when its connection to the old master is closed.
            let mut rest = [0; 8];
            while client.read(&mut rest).await.is_ok_and(|read| read > 0) {}
            loop {
                let Ok(mut client) = TcpStream::connect(("127.0.0.1", port)).await else {
                    continue;
                };
                match request_name(&mut client).await {
                    Ok(Some(name)) if name == new => return now(),
                    _ => {}
                }
            }
        });
        // Before the commit: the figure includes the commit itself.
        let start = now();
        testbed.route_to(to).await?;
        let served = tokio::time::timeout(CHANGE_TIMEOUT, served).await;
        let served = served.context("no byte of the new master")?.context("the client")?;
        times.push(served.since(start).as_secs_f64() * 1000.0);
    }
    if size.changes % 2 == 1 {
        testbed.route_to(0).await?;
        wait_port_leads_to(port, testbed.server_name(0)).await;
    }
    Ok(vec![(FIRST_BYTE, times.median()), (FIRST_BYTE_MAX, times.min_max().1)])
}
