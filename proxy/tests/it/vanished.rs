//! Peers that vanish without a word: they answer nothing, not even the kernel's probes (proxy P-10, P-13).

use std::io;
use std::time::Duration;

use socket2::{SockFilter, SockRef};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::regulars::Regulars;
use crate::rig::{Client, Master, PATIENCE, Proxy, Rig, block_on};

/// Keepalive that finds a silent peer after three seconds, whether bytes wait for it or not.
const KEEPALIVE: [&str; 3] = [
    "--tcp-keepalive-idle=1",
    "--tcp-keepalive-interval=1",
    "--tcp-keepalive-count=2",
];

/// Lets nothing in through a socket any more, so that its peer finds nobody there: what a host looks like that has lost
/// its power or its network.
fn vanish(socket: &TcpStream) {
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K of linux/bpf_common.h
    let nothing = SockFilter::new(RETURN, 0, 0, 0);
    SockRef::from(socket).attach_filter(&[nothing]).unwrap();
}

#[test]
fn clients_that_vanish_are_found_by_keepalive_and_leave_nothing_behind() {
    const SILENT: usize = 200;
    block_on(async {
        let mut rig = Rig::start().await;
        let a = Master::start(b'A').await;
        let proxy = Proxy::start(&rig, &rig.etcd.endpoint(), &KEEPALIVE).await;
        rig.publish(Some(&a), &[&proxy]).await;
        drop(proxy.client_of(b'A').await);
        let before = proxy.settled_descriptors().await;
        let mut regulars = Regulars::of(&proxy, 2).await;
        let mut gone: Vec<Client> = Vec::new();
        for number in 0..SILENT {
            let mut client = proxy.connect().await.unwrap();
            if number % 2 == 0 {
                assert_eq!(client.ask().await.unwrap(), Some(b'A')); // the others never send a byte
            }
            gone.push(client);
        }
        a.has_open(SILENT + regulars.count()).await;
        for client in &gone {
            vanish(&client.socket);
        }
        a.has_open(regulars.count()).await;
        regulars.go_on(5).await;
        proxy
            .metric_is("stolon_proxy_connections_ended_total{reason=\"error\"}", SILENT as f64)
            .await;
        regulars.leave(&proxy, before).await;
    });
}

#[test]
fn a_master_that_vanishes_is_found_by_keepalive() {
    block_on(async {
        let sessions = Sessions::start().await;
        let (mut client, mut master) = sessions.one().await;
        client.write_all(b"?").await.unwrap();
        assert_eq!(master.read_u8().await.unwrap(), b'?');
        vanish(&master);
        is_reset(&mut client).await;
    });
}

// proxy P-10, P-13
#[test]
fn clients_that_vanish_in_the_middle_of_an_answer_are_given_up_and_those_that_only_do_not_read_are_not() {
    block_on(async {
        let sessions = Sessions::start().await;
        let (mut patient, mut answering) = sessions.one().await;
        let answer = fill(&mut answering).await;
        // The kernel asks a client that does not read ever more seldom, and after three others less often than every three
        // seconds.
        for is_full in [true, false, true] {
            let (client, mut master) = sessions.one().await;
            if is_full {
                fill(&mut master).await;
            }
            vanish(&client);
            is_reset_while_it_writes(&mut master).await;
        }
        sessions
            .proxy
            .metric_is("stolon_proxy_connections_ended_total{reason=\"error\"}", 3.0)
            .await;
        answering.shutdown().await.unwrap();
        let mut got = Vec::new();
        let read = tokio::time::timeout(PATIENCE, patient.read_to_end(&mut got)).await;
        read.expect("an end in time").unwrap();
        assert_eq!(got.len(), answer);
        assert!(got.chunks(CHUNK_BYTES).all(|got| *got == chunk()[..got.len()]));
    });
}

#[test]
fn a_master_that_vanishes_while_it_is_sent_a_lot_is_given_up() {
    block_on(async {
        let sessions = Sessions::start().await;
        let (mut client, master) = sessions.one().await;
        fill(&mut client).await;
        vanish(&master);
        is_reset_while_it_writes(&mut client).await;
    });
}

/// A proxy whose master is the test.
struct Sessions {
    _rig: Rig,
    master: TcpListener,
    proxy: Proxy,
}

impl Sessions {
    async fn start() -> Self {
        let mut rig = Rig::start().await;
        let master = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut named = Master::start(b'A').await;
        named.port = master.local_addr().unwrap().port();
        let proxy = Proxy::start(&rig, &rig.etcd.endpoint(), &KEEPALIVE).await;
        rig.publish(Some(&named), &[&proxy]).await;
        proxy.metric_is("stolon_proxy_route_open", 1.0).await;
        Self {
            _rig: rig,
            master,
            proxy,
        }
    }

    /// The outer ends of a connection: the client's and the master's.
    async fn one(&self) -> (TcpStream, TcpStream) {
        let client = self.proxy.connect().await.unwrap();
        let (master, _) = self.master.accept().await.unwrap();
        (client.socket, master)
    }
}

const CHUNK_BYTES: usize = 64 * 1024;

fn chunk() -> Vec<u8> {
    (0..CHUNK_BYTES).map(|at| (at % 251) as u8).collect()
}

/// Writes chunks until nothing more is taken for a while: every buffer on the way is full. Gives how many bytes were taken.
async fn fill(socket: &mut TcpStream) -> usize {
    let (chunk, mut filled) = (chunk(), 0);
    let rest = |filled: usize| &chunk[filled % CHUNK_BYTES..];
    while let Ok(written) = tokio::time::timeout(Duration::from_millis(300), socket.write(rest(filled))).await {
        filled += written.unwrap();
    }
    filled
}

/// Goes on writing, so that every buffer on the way stays full, until the connection is reset.
async fn is_reset_while_it_writes(socket: &mut TcpStream) {
    let chunk = chunk();
    let err = loop {
        let written = tokio::time::timeout(PATIENCE, socket.write(&chunk)).await;
        if let Err(err) = written.expect("an end in time") {
            break err;
        }
    };
    assert_eq!(err.kind(), io::ErrorKind::ConnectionReset);
}

async fn is_reset(socket: &mut TcpStream) {
    let end = tokio::time::timeout(PATIENCE, socket.read(&mut [0])).await;
    let end = end.expect("an end in time").expect_err("not an orderly end");
    assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
}
