//! Bulk transfer: streams to or from a plain server that writes or reads 256 KiB at a time.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use anyhow::{Context, ensure};

use super::measure_cost;
use crate::proxy::figures::{CPU_PER_GB, GB_PER_SECOND, Sample};
use crate::proxy::peers::{Instance, Peer};
use crate::proxy::plain_server::{CHUNK_BYTES, Request};
use crate::proxy::size::Size;
use crate::proxy::testbed::Testbed;

/// The congestion control of all other loads.
pub(super) const DEFAULT_CONGESTION_CONTROL: &str = "reno";
/// Limit for a stream without progress.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Parallel streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bulk {
    pub(super) streams: usize,
    pub(super) is_upload: bool,
    pub(super) congestion: &'static str,
}

/// From the server to the client.
pub(super) const fn download(streams: usize) -> Bulk {
    Bulk {
        streams,
        is_upload: false,
        congestion: DEFAULT_CONGESTION_CONTROL,
    }
}

/// From the client to the server.
pub(super) const fn upload(streams: usize) -> Bulk {
    Bulk {
        streams,
        is_upload: true,
        congestion: DEFAULT_CONGESTION_CONTROL,
    }
}

/// The same with another congestion control.
pub(super) const fn bbr(bulk: Bulk) -> Bulk {
    Bulk {
        congestion: "bbr",
        ..bulk
    }
}

impl Bulk {
    pub(super) fn title(self, size: &Size) -> String {
        let gigabytes = size.bulk_bytes / 1_000_000_000;
        let streams = if self.streams == 1 { "1 stream" } else { "4 streams" };
        let way = if self.is_upload {
            "to the server"
        } else {
            "to the client"
        };
        format!("bulk of {gigabytes} GB {way}, {streams}, {}", self.congestion)
    }

    pub(super) async fn run(self, testbed: &mut Testbed, peer: Peer, size: &Size) -> anyhow::Result<Sample> {
        if self.congestion == DEFAULT_CONGESTION_CONTROL {
            return self.run_through(testbed.plain(peer), peer, size).await;
        }
        // A proxy may read the setting at its start.
        let instance = testbed.start_instance(peer).await?;
        let sample = self.run_through(&instance, peer, size).await;
        testbed.stop_instance(instance).await;
        sample
    }

    async fn run_through(self, instance: &Instance, peer: Peer, size: &Size) -> anyhow::Result<Sample> {
        let (port, each) = (instance.port, size.bulk_bytes / self.streams as u64);
        let transfer = async {
            let streams: Vec<_> = (0..self.streams)
                .map(|_| {
                    tokio::task::spawn_blocking(move || {
                        if self.is_upload {
                            send(port, each)
                        } else {
                            receive(port, each)
                        }
                    })
                })
                .collect();
            for stream in streams {
                stream.await.context("the stream's thread")??;
            }
            Ok(())
        };
        let cost = measure_cost(instance, transfer).await?;
        let gigabytes = (each * self.streams as u64) as f64 / 1e9;
        let mut sample = vec![(GB_PER_SECOND, gigabytes / cost.took.as_secs_f64())];
        if peer != Peer::Direct {
            sample.push((CPU_PER_GB, cost.cpu.as_secs_f64() * 1000.0 / gigabytes));
        }
        Ok(sample)
    }
}

fn connect(port: u16, request: Request) -> anyhow::Result<TcpStream> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).context("connect")?;
    socket.set_read_timeout(Some(STALL_TIMEOUT)).context("set a timeout")?;
    socket.set_write_timeout(Some(STALL_TIMEOUT)).context("set a timeout")?;
    socket.write_all(&request.bytes()).context("ask")?;
    Ok(socket)
}

fn receive(port: u16, bytes: u64) -> anyhow::Result<()> {
    let mut socket = connect(port, Request::Send(bytes))?;
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut received = 0;
    loop {
        match socket.read(&mut chunk).context("read")? {
            0 => break,
            read => received += read as u64,
        }
    }
    ensure!(received == bytes, "{received} of {bytes} bytes were received");
    Ok(())
}

fn send(port: u16, bytes: u64) -> anyhow::Result<()> {
    let mut socket = connect(port, Request::Receive(bytes))?;
    let chunk = vec![b'x'; CHUNK_BYTES];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(CHUNK_BYTES as u64) as usize;
        socket.write_all(&chunk[..now]).context("write")?;
        left -= now as u64;
    }
    let mut answer = [0];
    socket.read_exact(&mut answer).context("read the acknowledgement")?;
    ensure!(answer == *b"k", "the server answers {answer:?}");
    // The server may have closed already.
    let _ = socket.shutdown(Shutdown::Both);
    Ok(())
}
