//! One admitted client: connect it to the master, have its bytes carried, tell how that ended. Whether it is admitted
//! was decided before.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use control::clock::Boottime;
use control::telemetry::Chain;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::{TcpSocket, TcpStream};
use tracing::{debug, warn};

use super::socket::{Keepalive, calm, set_options};
use super::{Complaints, Counted, Path};
use crate::metrics::{Metrics, Refused};
use crate::relay::{self, Ended, Manner, Tally};

/// One admitted client, until it is gone.
pub(super) struct Visit {
    pub(super) path: Path,
    pub(super) tally: Arc<Tally>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) complaints: Arc<Complaints>,
    pub(super) keepalive: Keepalive,
    pub(super) connect_timeout: Duration,
    pub(super) manner: Manner,
    pub(super) paces: bool,
    pub(super) _counted: [Counted; 2],
}

impl Visit {
    pub(super) async fn serve(self, client: OwnedFd) {
        let client = match TcpStream::from_std(client.into()) {
            Ok(client) => client,
            Err(err) => return self.turn_away(Refused::Descriptors, &err),
        };
        if self.paces
            && let Ok(peer) = client.peer_addr()
        {
            calm(SockRef::from(&client), peer.ip());
        }
        // Connecting takes more room than carrying: the box keeps that out of a connection's lifelong memory.
        let (master, took) = match Box::pin(self.connect(&client)).await {
            Ok(connected) => connected,
            Err((reason, err)) => return self.turn_away(reason, &err),
        };
        let open = self.metrics.opened(took);
        let ended = relay::carry(client, master, &self.path.gate, &self.tally, self.manner).await;
        drop(open);
        let cut = self.path.gate.shut().map(|shut| shut.why);
        self.metrics.ended(&ended, cut);
        match ended {
            Ended::Failed(err) => debug!(error = %Chain(&err), "connection failed"),
            ended => debug!(?ended, ?cut, "connection ended"),
        }
    }

    /// Connects to the master within the limit (P-12), unless the client dies or the route closes meanwhile.
    #[expect(
        clippy::disallowed_methods,
        reason = "a measurement, and the lease is looked at again after the connect"
    )]
    async fn connect(&self, client: &TcpStream) -> Result<(TcpStream, Duration), (Refused, io::Error)> {
        let (master, gate) = (self.path.master, &self.path.gate);
        let socket = if master.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        };
        let socket = socket.map_err(|err| (Refused::Descriptors, err))?;
        let refused = |err| (Refused::Master, err);
        set_options(SockRef::from(&socket), self.keepalive).map_err(refused)?;
        if self.paces {
            calm(SockRef::from(&socket), master.ip());
        }
        let start = Boottime::now();
        let connected = tokio::select! {
            connected = tokio::time::timeout(self.connect_timeout, socket.connect(master)) => connected,
            () = gate.closed() => return Err((Refused::Abandoned, io::Error::other("the route closed"))),
            _ = client.ready(Interest::ERROR) => return Err((Refused::Abandoned, io::Error::other("the client left"))),
        };
        let limit = |_| (Refused::Timeout, io::Error::from(io::ErrorKind::TimedOut));
        let connected = connected.map_err(limit)?.map_err(refused)?;
        // On loopback a connect to a free port may meet itself.
        if connected.local_addr().is_ok_and(|own| own == master) {
            return Err(refused(io::Error::other("connected to itself")));
        }
        let now = Boottime::now();
        if !gate.is_open(now) {
            return Err((Refused::Abandoned, io::Error::other("the route closed")));
        }
        Ok((connected, now.since(start)))
    }

    fn turn_away(&self, reason: Refused, err: &io::Error) {
        self.metrics.refused(reason);
        let master = self.path.master;
        if reason == Refused::Abandoned {
            debug!(%master, error = %err, "client is gone before it was connected");
        } else {
            self.complaints
                .master
                .tell(|| warn!(%master, error = %err, "could not connect a client to the master"));
        }
    }
}
